"""Wrong input ends `unsay run` before anything is written: exit code, one clear message, no traceback, nothing changed.

Each message names what was expected, what came and what to do next; several mistakes come together.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unsay import cli
from unsay.store import layout, read

ROWS = [{"question": f"{n} + {n}?", "answer": f"#### {n + n}"} for n in range(8)]
VANILLA = {"model": "tiny", "dataset": "own", "method": "vanilla", "config": "fewshot_0"}
SFT = VANILLA | {"method": "sft", "config": "lora/train"}


class Place:
    """A folder with a good model, good data and an experiment file that a test makes worse."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder = folder
        self.file = folder / "lab.yaml"
        shutil.copytree(model, folder / "model")
        self.lines("data/train.jsonl", ROWS[:4])
        self.lines("data/test.jsonl", ROWS[4:])
        self.document: dict[str, Any] = {
            "models": {"tiny": {"path": "./model"}},
            "datasets": {"own": {"path": "./data"}},
            "experiments": [dict(VANILLA)],
        }

    def lines(self, name: str, rows: list[dict[str, str]], *, tail: str = "") -> None:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)

    def write(self, **parts: Any) -> None:
        # JSON is YAML; one key per line gives every mistake a line of its own.
        self.file.write_text(json.dumps(self.document | parts, indent=1))

    def drop_template(self) -> None:
        path = self.folder / "model" / "tokenizer_config.json"
        value = json.loads(path.read_text())
        value.pop("chat_template", None)
        path.write_text(json.dumps(value))
        (self.folder / "model" / "chat_template.jinja").unlink(missing_ok=True)


@pytest.fixture
def place(tmp_path: Path, tiny_models: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Place:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "here").mkdir()
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    return Place(tmp_path / "here", tiny_models())


def on_disk(folder: Path) -> dict[str, tuple[int, str]]:
    """Return mode and content of everything below a folder."""
    return {
        path.relative_to(folder).as_posix(): (
            path.stat().st_mode,
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
        )
        for path in folder.rglob("*")
    }


def refused(place: Place, capsys: pytest.CaptureFixture[str], *parts: str, options: tuple[str, ...] = ()) -> list[str]:
    """Run, check that nothing happened, and return the lines of the message, each part in it."""
    before = on_disk(place.folder.parent)
    assert cli.main(["run", "lab.yaml", "--device", "cpu", *options]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert "Traceback" not in err
    assert on_disk(place.folder.parent) == before
    for part in parts:
        assert part in err, err
    lines = err.removeprefix("error: ").rstrip("\n").split("\n")
    if len(lines) > 1:
        assert lines[0] == f"{len(lines) - 1} mistakes:"
        lines = lines[1:]
    return lines


def at(lines: list[str]) -> int:
    """Return the line of the experiment file that the only mistake names."""
    assert len(lines) == 1, lines
    return int(lines[0].split(":")[1])


def test_the_good_file_is_good(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """Otherwise the tests below would show nothing."""
    place.write(experiments=[VANILLA, SFT])
    before = on_disk(place.folder)
    assert cli.main(["run", "lab.yaml", "--dry-run"]) == 0
    assert on_disk(place.folder) == before


# -- the experiment file ----------------------------------------------------------


def test_no_experiment_file(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    refused(place, capsys, "lab.yaml: there is no such file", "unsay init")


def test_an_unknown_key(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.write(experiments=[SFT | {"learning_rte": 1e-4}])
    lines = refused(place, capsys, "learning_rte", "did you mean 'learning_rate'")
    assert "learning_rte" in place.file.read_text().split("\n")[at(lines) - 1]


def test_two_experiments_on_one_path(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.write(experiments=[VANILLA, VANILLA | {"notes": "again"}])
    refused(place, capsys, "already has the folder tiny/own/vanilla/lm_eval/fewshot_0", "give one another config")


def test_an_unknown_experiment(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.write()
    refused(place, capsys, "unknown experiment 'EXP-009'", options=("EXP-009",))


def test_an_unknown_executor(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.write()
    before = on_disk(place.folder.parent)
    assert cli.main(["run", "lab.yaml", "--executor", "lokal"]) == 2  # wrong usage
    assert "unknown executor 'lokal'; did you mean 'local'" in capsys.readouterr().err
    assert on_disk(place.folder.parent) == before


# -- data -------------------------------------------------------------------------


def test_a_missing_dataset_file(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.write(datasets={"own": {"path": "./gone.jsonl", "format": "gsm8k"}})
    refused(place, capsys, "missing dataset file", str(place.folder / "gone.jsonl"))


def test_a_line_that_is_not_json(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.lines("data/train.jsonl", ROWS[:4], tail="{'question': 'single quotes'}\n")
    place.write()
    refused(place, capsys, "train.jsonl:5: expected one JSON object per line")


def test_a_line_with_other_columns(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.lines("data/test.jsonl", [*ROWS[4:], {"prompt": "a", "answer": "b"}])
    place.write()
    refused(place, capsys, "test.jsonl:5", "'question'", "columns here: answer, prompt", "`columns:`")


def test_an_answer_pattern_that_is_not_in_the_answers(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.write(datasets={"own": {"path": "./data", "answer": "Answer: (.+)"}})
    refused(place, capsys, "answer pattern 'Answer: (.+)'", "train.jsonl:1")


def test_training_without_training_questions(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    (place.folder / "data" / "train.jsonl").unlink()
    place.write(experiments=[SFT])
    refused(place, capsys, "nothing to train on", "no train.jsonl", "add one")


def test_training_without_questions_to_evaluate_on(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    (place.folder / "data" / "test.jsonl").unlink()
    place.write(experiments=[SFT])
    refused(place, capsys, "nothing to evaluate on", "dev_share")


# -- models -----------------------------------------------------------------------


def test_a_model_folder_without_tokenizer(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    (place.folder / "model" / "tokenizer.json").unlink()
    place.write()
    refused(place, capsys, "model folder without tokenizer", str(place.folder / "model"), "copy")


def test_a_model_folder_without_weights(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    (place.folder / "model" / "model.safetensors").unlink()
    place.write()
    refused(place, capsys, "without weights in safetensors format")


def test_training_a_base_model_without_chat_template(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.drop_template()
    place.write(experiments=[VANILLA, SFT])
    lines = refused(place, capsys, "no chat template", "`template:`", "plain")
    assert '"lora/train"' in "".join(place.file.read_text().split("\n")[at(lines) - 1 : at(lines) + 6])


def test_a_gated_model_without_a_login(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    place.write(experiments=[VANILLA | {"model": "llama-3.2-3b"}])
    refused(place, capsys, "gated", "https://huggingface.co/meta-llama/Llama-3.2-3B-Instruct", "HF_TOKEN")


def test_a_hub_model_while_the_hub_is_switched_off(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    place.write(experiments=[VANILLA | {"model": "llama-3.2-3b"}])
    refused(place, capsys, "not in the local cache", "HF_HUB_OFFLINE", "local folder")


# -- where results go -------------------------------------------------------------


def test_an_output_folder_below_a_file(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.write(output_dir="lab.yaml/outputs")
    refused(place, capsys, "output folder", "is a file", "choose another `output_dir:`")


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_an_output_folder_without_permission(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    (place.folder / "locked").mkdir(mode=0o555)
    place.write(output_dir="locked/outputs")
    refused(place, capsys, "no permission", "choose another `output_dir:`")


def test_a_page_that_is_not_ours(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    (place.folder / layout.PAGE).write_text("# My own notes\n")
    place.write()
    assert cli.main(["run", "lab.yaml", "--executor", "inline", "--device", "cpu"]) == 1
    assert layout.PAGE in capsys.readouterr().err
    assert (place.folder / layout.PAGE).read_text() == "# My own notes\n"
    assert not list((place.folder / "outputs").rglob(layout.TRACES))


# -- several at once --------------------------------------------------------------


def test_mistakes_of_the_file_come_together(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.write(
        datasets={"own": {"path": "./data"}, "gone": {"path": "./gone.jsonl", "format": "gsm8k"}},
        experiments=[
            VANILLA,
            VANILLA,
            SFT | {"learning_rte": 1},
            SFT | {"dataset": "gone"},
            VANILLA | {"model": "nobody"},
        ],
    )
    lines = refused(place, capsys, "learning_rte", "already has the folder", "missing dataset file", "'nobody'")
    assert len(lines) == 4
    numbers = [int(line.split(":")[1]) for line in lines]
    assert numbers == sorted(numbers)


def test_mistakes_of_the_machine_come_together(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    (place.folder / "model" / "tokenizer.json").unlink()
    place.drop_template()
    place.lines("data/train.jsonl", ROWS[:4], tail="nonsense\n")
    place.write(experiments=[SFT], output_dir="lab.yaml/outputs")
    parts = ("without tokenizer", "no chat template", "train.jsonl:5", "output folder")
    assert len(refused(place, capsys, *parts)) == len(parts)


# -- as a process, and what only a worker can find --------------------------------


def test_a_real_process_says_it_on_standard_error(place: Place) -> None:
    place.write(experiments=[VANILLA | {"confg": "x"}])
    before = on_disk(place.folder.parent)
    command = [sys.executable, "-m", "unsay", "run", "lab.yaml", "--json"]
    done = subprocess.run(command, cwd=place.folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: lab.yaml:")
    assert "did you mean 'config'" in done.stderr
    assert "Traceback" not in done.stderr
    assert on_disk(place.folder.parent) == before


def test_what_only_a_worker_can_find_is_a_failed_experiment(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """The next experiment still runs."""
    short = {"max_new_tokens": 2}
    place.write(experiments=[SFT | {"cutoff_len": 3}, VANILLA | {"decode": short}])
    assert cli.main(["run", "lab.yaml", "--executor", "inline", "--device", "cpu"]) == 1
    err = capsys.readouterr().err
    assert "EXP-001 failed: expected at least one training row, but all 4 were refused" in err
    assert "EXP-002 completed" in err
    records = [entry.record for entry in read.find(place.folder / "outputs")]
    assert [record.status for record in records if record] == ["failed", "completed"]
    assert records[0] is not None
    assert "cutoff_len" in (records[0].attempts[-1].error or "")
