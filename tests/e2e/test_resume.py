"""Real processes, really killed: what was finished stays as it is, and the next run does the rest and nothing twice."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.torch import load_file

from unsay import cli, config
from unsay.data.build import load_manifest
from unsay.job import Job
from unsay.records import ExperimentRecord
from unsay.store import layout, read
from unsay.train.loop import CHECKPOINT
from unsay.worker import carry_out

ROOT = Path(__file__).parents[2]
ITEMS = 16
TIMEOUT = 240.0


class Lab:
    """A folder with an experiment file, and ways to run it."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder = folder
        self.model = model
        self.file = folder / "lab.yaml"
        self.outputs = folder / "outputs"
        self.started: list[subprocess.Popen[bytes]] = []
        (folder / "data").mkdir()
        for split, first, count in (("train", 0, 12), ("test", 100, ITEMS)):
            rows = [{"question": f"{n} + {n}?", "answer": f"#### {n + n}"} for n in range(first, first + count)]
            (folder / "data" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def write(self, *experiments: dict[str, Any], **configs: dict[str, Any]) -> None:
        base = {"model": "tiny", "dataset": "own"}
        document = {
            "models": {"tiny": {"path": str(self.model)}},
            "datasets": {"own": {"path": str(self.folder / "data")}},
            "configs": configs,
            "experiments": [base | experiment for experiment in experiments],
        }
        self.file.write_text(json.dumps(document))  # JSON is YAML

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        """Start `unsay run` as a process group of its own."""
        process = subprocess.Popen(
            [sys.executable, "-m", "unsay", "run", "lab.yaml", "--device", "cpu", "--batch-size", "1", *options],
            cwd=self.folder,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(self.folder / "stderr.txt").open("ab"),
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def run(self, *options: str) -> int:
        """Run inside this process: cheap, where no process has to die."""
        arguments = [
            "run",
            str(self.file),
            "--output-dir",
            str(self.outputs),
            "--device",
            "cpu",
            "--executor",
            "inline",
        ]
        return cli.main([*arguments, *options])

    def folders(self) -> list[Path]:
        return [self.outputs / each.folder for each in config.load(self.file, output_dir=self.outputs).experiments]

    def record(self, place: int = 0) -> ExperimentRecord:
        record = read.record(self.folders()[place])
        assert record is not None
        return record


@pytest.fixture
def lab(tmp_path: Path, tiny_models: Callable[..., Path]) -> Iterator[Lab]:
    made = Lab(tmp_path, tiny_models(tie=False))
    yield made
    for process in made.started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(condition: Callable[[], object], process: subprocess.Popen[bytes] | None = None) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        assert process is None or process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)


def worker_of(process: subprocess.Popen[bytes]) -> psutil.Process:
    return psutil.Process(process.pid).children()[0]


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def complete_lines(path: Path) -> bytes:
    content = path.read_bytes() if path.exists() else b""
    return content[: content.rfind(b"\n") + 1]


def count(path: Path) -> int:
    return complete_lines(path).count(b"\n")


def outcomes(record: ExperimentRecord) -> list[str | None]:
    return [attempt.outcome for attempt in record.attempts]


def answers(folder: Path) -> dict[int, tuple[int, ...]]:
    found = [(trace.key.doc_id, trace.ids) for trace in read.traces(folder)]
    assert len(found) == len(dict(found)), "an answer was generated twice"
    return dict(found)


def assert_complete(lab: Lab, folder: Path) -> None:
    """Everything is there, and it is what an undisturbed run gives."""
    record = read.record(folder)
    assert record is not None
    assert record.status == "completed"
    assert record.items == ITEMS
    for name in record.files.values():
        assert (folder / name).stat().st_size
    assert {value.n for name, value in read.metrics(folder).items() if name.startswith("exact_match")} == {ITEMS}
    assert len(list(read.samples(folder, record))) == 2 * ITEMS
    assert len(list(folder.glob("results_*"))) == 1

    experiment = config.load(lab.file, output_dir=lab.folder / "undisturbed").experiments[0]
    job = Job(experiment, lab.folder / "undisturbed", device="cpu", batch_size=1)
    assert carry_out(job, lambda event: None).status == "completed"
    assert answers(folder) == answers(job.folder)
    values = {name: value.value for name, value in read.metrics(folder).items()}
    assert values == {name: value.value for name, value in read.metrics(job.folder).items()}


SLOW_ANSWERS = {"method": "vanilla", "config": "fewshot_0", "decode": {"max_new_tokens": 100}}


def test_a_stopped_evaluation_goes_on_where_it_was(lab: Lab) -> None:
    lab.write(SLOW_ANSWERS, SLOW_ANSWERS | {"config": "fewshot_1"})
    traces = lab.folders()[0] / layout.TRACES

    # 1. Ctrl-C in a terminal goes to the command and to its worker.
    process = lab.start()
    wait_for(lambda: count(traces) >= 2, process)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(TIMEOUT) == 1
    assert outcomes(lab.record()) == ["cancelled"]
    assert lab.record(1).status == "pending", "Ctrl-C ends the whole run"
    assert "Traceback" not in (lab.folder / "stderr.txt").read_text()
    assert "cancelled" in layout.page(lab.outputs).read_text()
    first = complete_lines(traces)

    # 2. Only the command is killed. Its worker notices, and stops by itself.
    process = lab.start()
    wait_for(lambda: count(traces) >= first.count(b"\n") + 2, process)
    worker = worker_of(process)
    process.send_signal(signal.SIGKILL)
    second = complete_lines(traces)
    wait_for(lambda: gone(worker))
    assert second.startswith(first)
    assert outcomes(lab.record()) == ["cancelled", "cancelled"]

    # 3. Command and worker are killed. Nobody can write down that it stopped.
    process = lab.start()
    wait_for(lambda: count(traces) >= second.count(b"\n") + 3, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    wait_for(lambda: read.liveness(lab.record(), traces.parent) == "stale")
    third = complete_lines(traces)
    assert third.startswith(second)
    assert third.count(b"\n") < ITEMS
    assert lab.record().status == "running"

    # 4. The last run finishes it.
    assert lab.run("--batch-size", "1", "EXP-001") == 0
    assert complete_lines(traces).startswith(third)
    assert outcomes(lab.record()) == ["cancelled", "cancelled", None, "completed"]
    assert_complete(lab, traces.parent)


QUICK_TRAINING = {
    "base": "lora/train_bt",
    "max_steps": 60,
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "save_steps": 5,
    "logging_steps": 1,
    "decode": {"max_new_tokens": 4},
}


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_a_killed_training_goes_on_from_its_checkpoint(lab: Lab, tuning: str) -> None:
    training = QUICK_TRAINING | {"finetuning_type": tuning, "val_size": 0.1, "eval_steps": 10}
    lab.write({"method": "sft", "config": "quick"}, quick=training)
    folder = lab.folders()[0]
    process = lab.start()
    wait_for(lambda: list(layout.train(folder).glob(f"{CHECKPOINT}*")), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    rows = (layout.data(folder) / layout.ROWS).stat().st_mtime_ns

    assert lab.run() == 0
    assert outcomes(lab.record()) == [None, "completed"]
    results = read.read_json(layout.train(folder) / layout.TRAIN_RESULTS)
    assert 0 < results["resumed_from"] < results["steps"] == 60
    assert results["resumed_from"] % 5 == 0
    assert (layout.data(folder) / layout.ROWS).stat().st_mtime_ns == rows

    # The same loss curve and the same weights as a training that nobody killed.
    job = Job(config.load(lab.file, output_dir=lab.folder / "whole").experiments[0], lab.folder / "whole", device="cpu")
    assert carry_out(job, lambda event: None).status == "completed"
    assert read.read_json(layout.train(job.folder) / layout.TRAIN_RESULTS)["resumed_from"] == 0
    resumed, whole = (curve(layout.train(each)) for each in (folder, job.folder))
    assert [step for step, name, _ in whole if name == "loss"] == list(range(1, 61))
    assert [step for step, name, _ in whole if name == "eval_loss"] == list(range(10, 61, 10))
    assert [point[:2] for point in resumed] == [point[:2] for point in whole]
    assert [point[2] for point in resumed] == pytest.approx([point[2] for point in whole], abs=1e-5)
    name = "adapter_model.safetensors" if tuning == "lora" else "model.safetensors"
    first, second = (load_file(layout.train(each) / name) for each in (folder, job.folder))
    assert first.keys() == second.keys()
    # The killed process ran on one core: another order of additions, the same weights but for rounding.
    assert all((first[key] - second[key]).abs().max() < 1e-4 for key in first)


# Two rows a step, one for each process.
GROUP_TRAINING = QUICK_TRAINING | {"gradient_accumulation_steps": 2, "max_steps": 30, "val_size": 0.1, "eval_steps": 10}


def members(process: subprocess.Popen[bytes]) -> dict[int, psutil.Process]:
    """Return the processes that train together, by their number."""
    found = {}
    for each in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if each.cmdline()[2:4] == ["-m", "unsay.methods._training"]:
                found[int(each.environ()["RANK"])] = each
    return found


def assert_trained_as_alone(lab: Lab) -> None:
    """The same curve as one process that nobody disturbed."""
    job = Job(config.load(lab.file, output_dir=lab.folder / "whole").experiments[0], lab.folder / "whole", device="cpu")
    assert carry_out(job, lambda event: None).status == "completed"
    found, whole = (curve(layout.train(each)) for each in (lab.folders()[0], job.folder))
    assert [point[:2] for point in found] == [point[:2] for point in whole]
    assert [point[2] for point in found] == pytest.approx([point[2] for point in whole], abs=1e-5)


@pytest.mark.slow
def test_a_killed_group_leaves_nobody_behind_and_one_process_goes_on(lab: Lab) -> None:
    lab.write({"method": "sft", "config": "quick"}, quick=GROUP_TRAINING)
    folder = lab.folders()[0]
    process = lab.start("--accelerate", str(ROOT / "examples" / "accelerate" / "fsdp.yaml"))
    wait_for(lambda: list(layout.train(folder).glob(f"{CHECKPOINT}*")), process)
    group = members(process)
    assert set(group) == {0, 1}
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    wait_for(lambda: all(gone(each) for each in group.values()))
    assert lab.record().attempts[-1].hardware["training_processes"] == 2

    assert lab.run() == 0
    results = read.read_json(layout.train(folder) / layout.TRAIN_RESULTS)
    assert 0 < results["resumed_from"] < results["steps"] == 30
    assert results["processes"] == 1
    assert_trained_as_alone(lab)


@pytest.mark.slow
def test_a_process_of_a_group_that_is_killed_ends_the_experiment_with_its_reason(lab: Lab) -> None:
    lab.write({"method": "sft", "config": "quick"}, quick=GROUP_TRAINING)
    folder = lab.folders()[0]
    process = lab.start("--processes", "2")
    wait_for(lambda: list(layout.train(folder).glob(f"{CHECKPOINT}*")), process)
    group = members(process)
    group[1].kill()
    assert process.wait(60) == 1
    assert gone(group[0])
    assert lab.record().status == "failed"
    assert "got process 1 killed by SIGKILL" in (lab.record().attempts[-1].error or "")

    # Ctrl-C stops a group as it stops anything else.
    process = lab.start("--processes", "2")
    wait_for(lambda: len(members(process)) == 2, process)
    group = members(process)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 1
    assert all(gone(each) for each in group.values())

    assert lab.run("--processes", "2") == 0
    assert outcomes(lab.record()) == ["failed", "cancelled", "completed"]
    results = read.read_json(layout.train(folder) / layout.TRAIN_RESULTS)
    assert 0 < results["resumed_from"] < results["steps"] == 30
    assert (results["processes"], results["sharded"], results["gradient_accumulation"]) == (2, False, 1)
    assert_trained_as_alone(lab)


def curve(folder: Path) -> list[tuple[int, str, float]]:
    lines = [json.loads(line) for line in (folder / layout.TRAINER_LOG).read_text().splitlines()]
    return [
        (line["current_steps"], name, line[name]) for line in lines for name in ("loss", "eval_loss") if name in line
    ]


# -- running again ----------------------------------------------------------------


def on_disk(lab: Lab) -> dict[str, str]:
    """Return the content of every file but the page."""
    return {
        path.relative_to(lab.folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in lab.folder.rglob("*")
        if path.is_file() and path.name != layout.PAGE
    }


def trained(folder: Path) -> dict[str, int]:
    """Return when each file of a training was written, but for the one that says who uses it."""
    files = [path for path in layout.train(folder).iterdir() if path.is_file() and path.name != layout.TRAINED]
    return {path.name: path.stat().st_mtime_ns for path in files}


SHORT = {"max_new_tokens": 3}
TWO_STEPS = QUICK_TRAINING | {"max_steps": 2, "warmup_ratio": 0.0, "decode": SHORT}


def test_what_is_finished_is_not_done_again(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.write(
        {"method": "vanilla", "config": "fewshot_0", "decode": SHORT},
        {"method": "sft", "config": "short"},
        short=TWO_STEPS,
    )
    assert lab.run() == 0
    before = on_disk(lab)
    assert lab.run() == 0
    assert on_disk(lab) == before
    assert capsys.readouterr().err.count("finished already, skipped") == 2

    # The notes and the order of the file are not what a result depends on.
    lab.write({"method": "sft", "config": "short", "notes": "mine"}, short=TWO_STEPS | {"logging_steps": 2})
    assert lab.run() == 0
    assert {path: value for path, value in on_disk(lab).items() if path != "lab.yaml"} == {
        path: value for path, value in before.items() if path != "lab.yaml"
    }


def test_other_decoding_moves_the_evaluation_aside_and_keeps_the_training(lab: Lab) -> None:
    lab.write({"method": "sft", "config": "short"}, short=TWO_STEPS)
    assert lab.run() == 0
    folder, first, stamps = lab.folders()[0], lab.record(), trained(lab.folders()[0])
    traces = (folder / layout.TRACES).read_bytes()

    lab.write({"method": "sft", "config": "short"}, short=TWO_STEPS | {"decode": {"max_new_tokens": 4}})
    assert lab.run() == 0
    second = lab.record()
    assert second.identity != first.identity
    assert second.hashes["train"] == first.hashes["train"]
    assert second.hashes["eval"] != first.hashes["eval"]
    assert second.id == first.id
    assert len(second.attempts) == 1
    assert trained(folder) == stamps
    aside = layout.superseded(folder, first.identity)
    assert (aside / layout.TRACES).read_bytes() == traces
    old = read.record(aside)
    assert old == first
    assert all((aside / name).is_file() for name in first.files.values())
    assert not any((folder / name).exists() for name in first.files.values() if "_20" in name)
    assert [entry.folder for entry in read.find(lab.outputs)] == [folder], "what was moved aside is not on the page"

    # Another training moves the training aside, too.
    lab.write({"method": "sft", "config": "short"}, short=TWO_STEPS | {"max_steps": 3})
    assert lab.run() == 0
    assert lab.record().hashes["train"] != first.hashes["train"]
    assert len(list((folder / layout.SUPERSEDED).glob(f"*/{layout.TRAIN}/adapter_model.safetensors"))) == 1


def test_a_question_that_is_evaluated_on_later_leaves_the_training(lab: Lab) -> None:
    lab.write({"method": "sft", "config": "short"}, short=TWO_STEPS)
    assert lab.run() == 0
    folder, first = lab.folders()[0], lab.record()
    assert load_manifest(folder).rows == 12
    question = (lab.folder / "data" / "train.jsonl").read_text().split("\n")[0]
    with (lab.folder / "data" / "test.jsonl").open("a") as file:
        file.write(question + "\n")
    assert lab.run() == 0
    assert load_manifest(folder).rows == 11
    assert load_manifest(folder).refusals == {"leak": 1}
    assert lab.record().hashes["train"] != first.hashes["train"]


def test_a_training_outlives_the_evaluation_data_of_others(lab: Lab) -> None:
    """What another dataset's questions took out stays out once they cannot be read, and nothing is trained again."""
    vanilla = {"dataset": "other", "method": "vanilla", "config": "fewshot_0"}
    lab.write({"method": "sft", "config": "short"}, vanilla, short=TWO_STEPS)
    document = json.loads(lab.file.read_text())
    for name in ("other", "third"):
        folder = lab.folder / name
        folder.mkdir()
        (folder / "train.jsonl").write_text(json.dumps({"question": "What?", "answer": "#### 1"}) + "\n")
        (folder / "test.jsonl").write_text(json.dumps({"question": "3 + 3?", "answer": "#### 6"}) + "\n")
        document["datasets"][name] = {"path": str(folder)}
    lab.file.write_text(json.dumps(document))
    first = str(lab.folders()[0].relative_to(lab.outputs))
    assert lab.run("--limit", "1", first) == 0
    hashes = read.read_json(layout.train(lab.folders()[0]) / layout.TRAINED)["train_hash"]
    manifest = load_manifest(lab.folders()[0])
    assert (manifest.rows, manifest.refusals) == (11, {"leak": 1})
    (lab.folder / "other" / "test.jsonl").write_text("{broken")
    # One more that was never read: a finished training may be evaluated, but not be made again.
    document["experiments"].append(document["experiments"][1] | {"dataset": "third"})
    (lab.folder / "third" / "test.jsonl").write_text("{broken")
    lab.file.write_text(json.dumps(document))
    assert lab.run("--limit", "2", first) == 0
    record = read.record(layout.limited(lab.folders()[0], 2))
    assert record is not None
    assert "the evaluation split of other could not be read; its earlier comparison" in record.warnings[-2]
    assert "training rows were not compared with the evaluation split of third" in record.warnings[-1]
    assert lab.run("--force", first) == 1
    assert "expected to compare the training questions with everything" in str(lab.record().attempts[-1])
    assert read.read_json(layout.train(lab.folders()[0]) / layout.TRAINED)["train_hash"] == hashes
    assert load_manifest(lab.folders()[0]) == manifest
    assert not (lab.folders()[0] / layout.SUPERSEDED).exists()


def test_answers_are_checked_alone(lab: Lab) -> None:
    lab.write({"method": "vanilla", "config": "fewshot_0", "decode": SHORT})
    assert lab.run("--check-batch", "3") == 0
    record = lab.record()
    assert record.facts["batch_check"] == {"items": 3, "agree": 3, "differ": []}
    assert record.facts["engine"]["engine"] == "slots"
    assert record.facts["engine"]["slots"] > 1


def test_a_long_page_is_not_written_after_every_experiment_but_at_the_end(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []

    def slowly(outputs: Path) -> None:
        records = [entry.record for entry in read.find(outputs)]
        written.append([record.status for record in records if record is not None].count("completed"))
        time.sleep(2.0)  # no other experiment takes forty seconds

    monkeypatch.setattr("unsay.runner.write_page", slowly)
    line = {"method": "vanilla", "config": "fewshot_0"}
    lab.write(*(line | {"decode": {"max_new_tokens": length}} for length in (2, 3, 4)))
    assert lab.run() == 0
    assert written == [0, 1, 3]  # before anything is done, after the first one, at the end


def test_force_runs_again_and_keeps_the_old_result(lab: Lab) -> None:
    lab.write({"method": "vanilla", "config": "fewshot_0", "decode": SHORT})
    assert lab.run() == 0
    folder, first = lab.folders()[0], lab.record()
    assert lab.run("--force") == 0
    again = lab.record()
    assert again.identity == first.identity
    assert outcomes(again) == ["completed", "completed"]
    assert again.files["results"] != first.files["results"]
    aside = layout.superseded(folder, first.identity)
    assert read.record(aside) == first
    assert (aside / layout.TRACES).stat().st_ino != (folder / layout.TRACES).stat().st_ino
    assert answers(aside) == answers(folder)


def test_a_limited_run_stays_apart(lab: Lab) -> None:
    lab.write({"method": "vanilla", "config": "fewshot_0", "decode": SHORT})
    assert lab.run("--limit", "3") == 0
    folder = lab.folders()[0]
    assert lab.record().status == "pending"
    limited = read.record(layout.limited(folder, 3))
    assert limited is not None
    assert (limited.status, limited.limit, limited.items, limited.id) == ("completed", 3, ITEMS, "EXP-001")
    assert len(answers(layout.limited(folder, 3))) == 3
    assert lab.run() == 0
    assert lab.record().status == "completed"
    assert len(answers(folder)) == ITEMS


def test_two_decodings_share_one_training(lab: Lab) -> None:
    rewind = {"train_as": "short", "decode": {"undo_context": "rewind", **SHORT}}
    lab.write(
        {"id": "A", "method": "sft", "config": "short"},
        {"id": "B", "method": "sft", "config": "rewind"},
        short=TWO_STEPS,
        rewind=rewind,
    )
    assert lab.run("A") == 0
    first, second = lab.folders()
    stamps = trained(first)
    assert lab.run() == 0
    assert trained(first) == stamps
    assert not layout.train(second).exists()
    assert not layout.data(second).exists()
    assert lab.record(1).status == "completed"
    assert lab.record(1).hashes["train"] == lab.record(0).hashes["train"]
    assert lab.record(1).hashes["eval"] != lab.record(0).hashes["eval"]
    assert len(answers(second)) == ITEMS


def test_force_trains_again(lab: Lab) -> None:
    lab.write({"method": "sft", "config": "short"}, short=TWO_STEPS)
    assert lab.run() == 0
    folder, stamps = lab.folders()[0], trained(lab.folders()[0])
    assert lab.run("--force", "--limit", "2") == 0
    assert trained(folder) == stamps
    assert lab.run("--force") == 0
    assert all(stamp > stamps[name] for name, stamp in trained(folder).items())
    assert len(list((folder / layout.SUPERSEDED).glob(f"*/{layout.TRAIN}/adapter_model.safetensors"))) == 1


def test_a_limited_run_with_another_training_takes_the_finished_result_with_it(lab: Lab) -> None:
    """The finished result must not stay `completed` beside an adapter it was not made with."""
    lab.write({"method": "sft", "config": "short"}, short=TWO_STEPS)
    assert lab.run() == 0
    folder, first = lab.folders()[0], lab.record()
    lab.write({"method": "sft", "config": "short"}, short=TWO_STEPS | {"learning_rate": 0.02})
    assert lab.run("--limit", "2") == 0
    assert lab.record().status == "pending"
    assert lab.record().id == first.id
    assert read.record(layout.superseded(folder, first.identity)) == first
    lab.write({"method": "sft", "config": "short"}, short=TWO_STEPS)
    assert lab.run() == 0
    assert lab.record().hashes == first.hashes
    assert answers(folder) == answers(layout.superseded(folder, first.identity))


def test_a_finished_model_is_evaluated_only_with_the_training_it_has_now(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    other = {"id": "B", "model": "A", "method": "vanilla", "config": "fewshot_0", "decode": SHORT}
    lab.write({"id": "A", "method": "sft", "config": "short"}, other, short=TWO_STEPS)
    assert lab.run("B") == 1
    assert "expected a finished training" in capsys.readouterr().err
    assert lab.run() == 0
    first = lab.record(1)
    changed = TWO_STEPS | {"learning_rate": 0.02}
    lab.write({"id": "A", "method": "sft", "config": "short"}, other, short=changed)
    assert lab.run("B") == 1
    assert "run that experiment again first" in capsys.readouterr().err
    assert lab.run() == 0
    assert lab.record(1).identity != first.identity
    assert lab.record(1).hashes["eval"] != first.hashes["eval"]


@pytest.mark.parametrize("base", ["full/train", "full/train_bt"])
def test_a_model_trained_whole_is_evaluated_like_any_other(lab: Lab, base: str) -> None:
    other = {"id": "B", "model": "A", "method": "vanilla", "config": "fewshot_0", "decode": SHORT}
    short = {"base": base, "max_steps": 2, "warmup_ratio": 0.0, "learning_rate": 0.01, "decode": SHORT}
    lab.write({"id": "A", "method": "sft", "config": "short"}, other, short=short)
    assert lab.run() == 0
    folder = layout.train(lab.folders()[0])
    assert (folder / "model.safetensors").is_file()
    assert not (folder / "adapter_config.json").exists()
    assert config.load(lab.file, output_dir=lab.outputs).experiments[0].title.startswith("tiny Full SFT")
    # As a model of its own it answers alike.
    document = json.loads(lab.file.read_text())
    document["models"]["whole"] = {"path": str(folder)}
    document["experiments"].append({**other, "id": "C", "dataset": "own", "model": "whole"})
    lab.file.write_text(json.dumps(document))
    assert lab.run() == 0
    assert answers(lab.folders()[1]) == answers(lab.folders()[2])


def test_four_bits_are_trained_and_evaluated_with_the_values_they_stand_for(lab: Lab) -> None:
    pytest.importorskip("bitsandbytes")
    lab.write({"method": "sft", "config": "short"}, short=TWO_STEPS | {"quantization_bit": 4})
    assert lab.run() == 0
    assert config.load(lab.file, output_dir=lab.outputs).experiments[0].title == "tiny SFT with QLoRA + Backtrack"
    assert read.read_json(layout.train(lab.folders()[0]) / "quantization.json")["bits"] == 4


def test_another_number_format_is_another_result(lab: Lab) -> None:
    lab.write({"method": "vanilla", "config": "fewshot_0", "decode": SHORT})
    assert lab.run() == 0
    first = lab.record()
    assert lab.run("--dtype", "float32") == 0
    assert lab.record() == first
    assert lab.run("--dtype", "bfloat16") == 0
    assert lab.record().facts["dtype"] == "bfloat16"
    assert lab.record().hashes["eval"] != first.hashes["eval"]
    assert read.record(layout.superseded(lab.folders()[0], first.identity)) == first
