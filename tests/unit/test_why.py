"""`unsay status --why`: it says what `unsay run` then does, and what differs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from unsay import cli, config, why
from unsay.identity import identity, spec
from unsay.job import Job
from unsay.records import Attempt, ExperimentRecord
from unsay.store import archive, layout, read, write
from unsay.store.claims import boot_id, hostname
from unsay.worker import carry_out

TRAINED = {"id": "EXP-002", "model": "tiny", "dataset": "own", "method": "sft", "config": "lora/train"}
ASKED = {"id": "EXP-001", "model": "tiny", "dataset": "own", "method": "vanilla", "config": "fewshot_0"}


class Lab:
    """A folder with an experiment file and records that say what a run of it would have written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "lab.yaml"
        self.outputs = folder / "outputs"
        (folder / "data").mkdir()
        for split in ("train", "test"):
            rows = [{"question": f"{n} + {n}?", "answer": f"#### {n + n}"} for n in range(6)]
            (folder / "data" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.model = folder / "model"
        self.model.mkdir()
        for name in ("config.json", "tokenizer.json"):
            (self.model / name).write_text("{}")
        (self.model / "model.safetensors").write_text("weights")

    def write(self, *experiments: dict[str, Any], model: Path | None = None, **configs: dict[str, Any]) -> config.Plan:
        document = {
            "models": {"tiny": {"path": str(model or self.model), "template": "plain"}},
            "datasets": {"own": {"path": str(self.folder / "data")}},
            "configs": configs,
            "experiments": list(experiments),
        }
        self.file.write_text(json.dumps(document))
        return config.load(self.file, output_dir=self.outputs)

    def finish(self, plan: config.Plan, status: str = "completed", **changes: Any) -> None:
        for experiment in plan.experiments:
            attempt = Attempt("2026-01-01T00:00:00+00:00", "node7", 42, "boot", outcome=status)
            record = ExperimentRecord(
                id=experiment.id or "EXP-009",
                model=experiment.model.name,
                dataset=experiment.dataset.name,
                method=experiment.method,
                config=experiment.config,
                seed=experiment.seed,
                status=status,
                identity=identity(experiment),
                spec=spec(experiment),
                end="2026-01-01T01:00:00+00:00",
                attempts=(attempt,),
                facts={"dtype": "float32"},
            )
            folder = self.outputs / experiment.folder
            write.write_json(folder / layout.EXPERIMENT, replace(record, **changes).to_json())

    def explain(self, id: str = "EXP-002", *, file: bool = True) -> why.Explanation:
        entry = read.pick(read.find(self.outputs), id)
        return why.explain(entry, config.load(self.file, output_dir=self.outputs) if file else None)

    def says(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
        assert cli.main(["status", "-o", str(self.outputs), "--why", *arguments]) == 0
        return " ".join(capsys.readouterr().out.split())


def attempt_here(pid: int) -> Attempt:
    return Attempt("2100-01-01T00:00:00+00:00", hostname(), pid, boot_id())


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def names(found: why.Explanation) -> list[str]:
    return [change.name for change in found.changes]


# -- with a file ----------------------------------------------------------------------


def test_what_is_finished_is_skipped_whatever_changes_no_number(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.finish(lab.write(TRAINED))
    # the same effective batch in other pieces, logged and saved more often
    lab.write(TRAINED, **{"lora/train": {"base": "lora/train", "logging_steps": 3, "save_steps": 7,
              "per_device_train_batch_size": 2, "gradient_accumulation_steps": 16}})  # fmt: skip
    found = lab.explain()
    assert (found.outcome, found.changes, found.keeps_training) == (why.SKIP, (), True)
    said = lab.says(capsys, "EXP-002", "--file", str(lab.file))
    assert "skips it: everything that counts for its numbers is as it was." in said
    assert "superseded" not in said


def test_a_setting_that_counts_makes_a_new_result(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.finish(lab.write(TRAINED))
    lab.write(TRAINED, **{"lora/train": {"base": "lora/train", "learning_rate": 3e-4}})
    found = lab.explain()
    assert (found.outcome, names(found), found.keeps_training) == (
        why.NEW,
        ["settings.training.learning_rate"],
        False,
    )
    said = lab.says(capsys, "EXP-002", "--file", str(lab.file))
    assert f"makes a new result; this one is kept in superseded/{found.record.identity[:12]}/." in said
    assert "training.learning_rate: 0.0001 on disk, 0.0003 in the file" in said
    assert "It is trained again, unless" in said
    assert "What changes no number never makes a new result: device, --batch-size, executor" in said
    assert "It was computed in float32: a run with another --dtype makes a new result" in said
    lab.write(TRAINED, **{"lora/train": {"base": "lora/train", "decode": {"max_new_tokens": 5}}})
    found = lab.explain()
    assert (names(found), found.keeps_training) == (["settings.decode.max_new_tokens"], True)
    assert "Only how it decodes differs: its training stays" in lab.says(capsys, "EXP-002", "--file", str(lab.file))


def test_other_files_make_a_new_result(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.finish(lab.write(ASKED))
    with (lab.folder / "data" / "test.jsonl").open("a") as file:
        file.write('{"question": "9 + 9?", "answer": "#### 18"}\n')
    (lab.model / "model.safetensors").write_text("other weights")
    found = lab.explain("EXP-001")
    assert (found.outcome, sorted(names(found)), found.keeps_training) == (
        why.NEW,
        ["dataset.content", "model.content"],
        None,
    )
    said = lab.says(capsys, "EXP-001", "--file", str(lab.file))
    assert "the files of the data set: tree-sha256:" in said
    assert "… on disk, tree-sha256:" in said
    assert "trained" not in said


@pytest.mark.parametrize(
    ("status", "changes", "outcome", "words"),
    [
        ("completed", {"files": {"metrics": layout.METRICS}}, why.COMPLETE, "makes files again that are gone"),
        ("failed", {}, why.RESUME, "goes on where it stopped"),
        ("running", {"attempts": (attempt_here(2**22 - 1),)}, why.RESUME, "goes on where it stopped"),
        ("pending", {"attempts": ()}, why.START, "starts it: it was never tried"),
        ("completed", {"identity": "0" * 64}, why.NEW, "its record names another identity"),
    ],
)
def test_what_is_not_finished(
    lab: Lab,
    capsys: pytest.CaptureFixture[str],
    status: str,
    changes: dict[str, Any],
    outcome: str,
    words: str,
) -> None:
    lab.finish(lab.write(TRAINED), status, **changes)
    assert lab.explain().outcome == outcome
    assert words in lab.says(capsys, "EXP-002", "--file", str(lab.file))


def test_an_experiment_that_runs_is_left_to_its_process(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.finish(lab.write(TRAINED), "running", attempts=(attempt_here(os.getpid()),))
    assert lab.explain().outcome == why.RUNNING
    assert "is at work now" in lab.says(capsys, "EXP-002", "--file", str(lab.file))


def test_an_experiment_that_the_file_does_not_have(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    without_id = {key: value for key, value in TRAINED.items() if key != "id"}
    lab.finish(lab.write(without_id))
    lab.write({**without_id, "learning_rate": 3e-4, "num_train_epochs": 1}, {**without_id, "learning_rate": 2e-4})
    found = lab.explain("EXP-009")
    assert found.outcome == why.OTHER
    assert names(found) == ["settings.training.learning_rate"]
    said = lab.says(capsys, "EXP-009", "--file", str(lab.file))
    assert "Most like it is tiny/own/sft/lora/train+lr2e-4, an experiment of its own, which differs in:" in said
    lab.write(ASKED)
    assert lab.explain("EXP-009").wanted is None
    assert "has none of this model, data set and method" in lab.says(capsys, "EXP-009", "--file", str(lab.file))
    lab.write({**TRAINED, "id": "EXP-009", "learning_rate": 3e-4})
    said = lab.says(capsys, "EXP-009", "--file", str(lab.file))
    assert "has another experiment of this id, tiny/own/sft/lora/train+lr3e-4. A run refuses one id for two" in said


# -- without one ----------------------------------------------------------------------


def test_without_a_file_it_says_what_it_was_finished_with_and_what_was_before(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.finish(lab.write(TRAINED))
    folder = lab.explain().entry.folder
    first = lab.explain().record
    write.write_json(folder / layout.METRICS, {"schema": 1, "metrics": {}})
    write.set_aside(folder, first)
    lab.finish(lab.write(TRAINED, **{"lora/train": {"base": "lora/train", "learning_rate": 3e-4}}))
    (folder / layout.SUPERSEDED / "feedbeef" / "train").mkdir(parents=True)
    write.write_text(folder / layout.SUPERSEDED / "unread" / layout.EXPERIMENT, "{")
    found = lab.explain(file=False)
    assert (found.outcome, found.changes) == (None, ())
    assert {each.folder.name: (each.record is None, each.names) for each in found.earlier} == {
        first.identity[:12]: (False, (layout.EXPERIMENT, layout.METRICS)),
        "feedbeef": (True, ("train",)),
        "unread": (True, (layout.EXPERIMENT,)),
    }
    said = lab.says(capsys, "EXP-002")
    assert "training.learning_rate: 0.0003 " in said
    assert f"superseded/{first.identity[:12]}: an earlier result, completed 2026-01-01T01:00:00+00:00; it has" in said
    assert "training.learning_rate: 0.0001 then, 0.0003 now" in said
    assert "superseded/feedbeef: the rest of an earlier result; it has train." in said
    assert "With --file FILE it is compared" in said
    assert cli.main(["status", "-o", str(lab.outputs), "--why", "EXP-002", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == 1
    assert document["outcome"] is None
    (change,) = next(each for each in document["superseded"] if each["identity"] == first.identity)["changes"]
    assert change == {"name": "settings.training.learning_rate", "before": 1e-4, "now": 3e-4}


def test_wrong_use_says_what_is_right(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.finish(lab.write(TRAINED))
    assert cli.main(["status", "-o", str(lab.outputs), "--file", str(lab.file)]) == 2
    assert "--why" in capsys.readouterr().err
    assert cli.main(["status", "-o", str(lab.outputs), "--why", "EXP-003"]) == 1
    assert "Did you mean EXP-002" in capsys.readouterr().err
    write.write_text(lab.outputs / "broken" / layout.EXPERIMENT, "{")
    assert cli.main(["status", "-o", str(lab.outputs), "--why", "broken"]) == 1
    assert "is not JSON" in capsys.readouterr().err


# -- it is what a run does --------------------------------------------------------------


def test_a_run_does_what_was_said(lab: Lab, tiny_models: Callable[..., Path]) -> None:
    model = tiny_models(tie=False)
    plan = lab.write(ASKED, model=model, fewshot_0={"base": "fewshot_0", "decode": {"max_new_tokens": 4}})

    def run(**options: Any) -> None:
        job = Job(plan.experiments[0], plan.output_dir, **{"device": "cpu", "batch_size": 1, **options})
        assert carry_out(job, lambda event: None).status == "completed"

    run()
    folder = plan.output_dir / plan.experiments[0].folder
    written = (folder / layout.EXPERIMENT).stat().st_mtime_ns
    assert lab.explain("EXP-001").outcome == why.SKIP
    run(device="auto", batch_size=3)
    assert (folder / layout.EXPERIMENT).stat().st_mtime_ns == written, (
        "another device and other slots are no new result"
    )
    assert not (folder / layout.SUPERSEDED).exists()
    plan = lab.write(ASKED, model=model, fewshot_0={"base": "fewshot_0", "decode": {"max_new_tokens": 5}})
    found = lab.explain("EXP-001")
    assert (found.outcome, names(found)) == (why.NEW, ["settings.decode.max_new_tokens"])
    archive.archive(folder)
    run()
    assert lab.explain("EXP-001").entry.archived, "a run brings nothing back"
    (earlier,) = lab.explain("EXP-001", file=False).earlier
    assert earlier.folder.name == found.record.identity[:12]
    assert [change.name for change in earlier.changes or ()] == ["settings.decode.max_new_tokens"]
    assert lab.explain("EXP-001").outcome == why.SKIP
