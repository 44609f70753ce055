"""Rehearsals: a plan in small from the experiment file to the page, what is said of it, and nothing left elsewhere."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from unsay import cli, rehearsal
from unsay.definitions import Dataset
from unsay.rehearsal import ITEMS, NEW_TOKENS, STEPS, counts, size, small_settings
from unsay.settings import Decode, Prompting, Settings, Training, UndoData
from unsay.store import layout, read

ROOT = Path(__file__).parents[2]
LAB = """
datasets:
  notes: {path: ./notes.jsonl, format: alpaca, columns: {response: reply}, dev_share: 0.3}
models:
  unseen: {path: someone/unseen}
experiments:
  - {id: HUB, model: qwen3-0.6b, dataset: gsm8k, method: sft, config: lora/train_bt, max_samples: 100}
  - {model: unsay-tiny, dataset: wordproblems, method: vanilla, config: fewshot_2}
  - {id: BROKEN, model: unsay-tiny, dataset: notes, method: sft, config: lora/train}
  - {id: UNSEEN, model: unseen, dataset: wordproblems, method: vanilla, config: fewshot_0}
"""


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = cli.main(["run", "lab.yaml", "--rehearse", "--executor", "inline", *words])
    return code, capsys.readouterr().out


def test_a_plan_is_rehearsed_and_each_failure_says_what_to_do(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (lab / "lab.yaml").write_text(LAB)
    lines = [{"instruction": f"{number} + 1?", "output": str(number + 1)} for number in range(20)]
    (lab / "notes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, out = run(capsys, "--json")
    assert code == 1
    found = json.loads(out)
    hub, tiny, broken, unseen = found["experiments"]
    assert not found["ok"]
    assert found["total"]["hours_at_most"] is None, "an experiment without an estimate leaves the sum unknown"

    # A model of the hub that is not here: its architecture and its vocabulary, data in GSM8K's format.
    assert hub["ok"]
    assert [stage["stage"] for stage in hub["stages"]] == list(rehearsal.STAGES)
    assert all(stage["status"] == "ok" for stage in hub["stages"])
    assert any("a random qwen3 of 2 layers and 151,936 tokens, the bundled tokenizer" in note for note in hub["notes"])
    assert any("generated questions in GSM8K's format" in note for note in hub["notes"])
    assert any("`hf download Qwen/Qwen3-0.6B config.json`" in warning for warning in hub["warnings"])
    assert any("not compared with the evaluation split of notes, and nothing new" in each for each in hub["warnings"])
    assert hub["estimate_is_rough"]
    estimate = hub["estimate"]
    assert estimate["parameters"] == 596_049_920
    assert estimate["disk_bytes"]["download"] == 2 * 596_049_920
    assert estimate["gpu_memory_bytes"].keys() == {"train", "evaluate"}
    assert estimate["hours_at_most"]["evaluate"] > estimate["hours_at_most"]["train"] > 0

    # A model that is small enough plays itself; its id is the rehearsal's alone.
    assert tiny["ok"]
    assert tiny["notes"] == ["unsay-tiny: the model itself, as small as it is"]
    assert not tiny["estimate_is_rough"]
    assert not any("cut by a limit" in warning for warning in tiny["warnings"])

    # Data that would have failed at hour three, and a model nobody knows.
    assert not broken["ok"]
    assert (broken["stages"][0]["stage"], broken["stages"][0]["status"]) == ("open", "failed")
    assert [stage["status"] for stage in broken["stages"][1:]] == ["not reached"] * 4
    assert "'reply'" in broken["error"]
    assert "Name the right one under `columns:`" in broken["error"]
    assert "same way" in broken["advice"]
    assert any("lab.yaml:9: dataset 'notes'" in finding for finding in found["findings"])
    assert unseen["error"].startswith("nothing on this machine says what someone/unseen looks like; `hf download")
    assert unseen["estimate"] is None

    # The lab proper is as it was: no page, no result, no id.
    assert not (lab / layout.PAGE).exists()
    assert read.find(lab / "outputs") == []
    inside = lab / "outputs" / layout.REHEARSAL
    assert [path.name for path in (lab / "outputs").iterdir()] == [layout.REHEARSAL]
    assert "HUB" in Path(found["page"]).read_text()
    assert Path(found["page"]).is_relative_to(inside)
    assert json.loads((inside / layout.REHEARSAL_REPORT).read_text()) == found
    entries = [entry for entry in read.find(inside / "outputs") if entry.limit == ITEMS and entry.record]
    completed = {entry.name: entry for entry in entries if entry.record and entry.record.status == "completed"}
    assert completed.keys() == {"HUB", tiny["id"]}
    assert all(len(list(read.traces(entry.folder))) == ITEMS for entry in completed.values())
    assert all(read.metrics(entry.folder) for entry in completed.values())


def test_the_text_says_it_once(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = "{{model: unsay-tiny, dataset: wordproblems, method: vanilla, config: fewshot_{}}}"
    (lab / "lab.yaml").write_text(f"experiments: [{line.format(0)}, {line.format(1)}]")
    stale = lab / "outputs" / layout.REHEARSAL / "models" / "old"
    stale.mkdir(parents=True)
    code, out = run(capsys)
    assert code == 0, out
    assert not stale.exists(), "a rehearsal begins with an empty folder"
    assert out.count("unsay-tiny: the model itself, as small as it is\n") == 1
    assert out.count("rehearsed   open ok") == 2
    assert "GPU memory  " in out
    assert "every stage works" in out
    assert "would stop the true run" not in out
    assert cli.main(["status"]) == 0
    assert "fewshot" not in capsys.readouterr().out


@pytest.mark.parametrize("other", [("--dry-run",), ("--limit", "3"), ("--force",)])
def test_what_contradicts_a_rehearsal_is_refused(
    lab: Path, capsys: pytest.CaptureFixture[str], other: tuple[str, ...]
) -> None:
    (lab / "lab.yaml").write_text(LAB)
    assert cli.main(["run", "lab.yaml", "--rehearse", *other]) == 2
    assert "exclude each other" in capsys.readouterr().err


def test_a_mistake_in_the_file_comes_first(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (lab / "lab.yaml").write_text(LAB + "nonsense: 1\n")
    assert cli.main(["run", "lab.yaml", "--rehearse"]) != 0
    assert "nonsense" in capsys.readouterr().err
    assert not (lab / "outputs").exists()


def test_settings_become_small_and_stay_the_same_kind() -> None:
    settings = Settings(
        Prompting(num_fewshot=8),
        Decode(max_new_tokens=512, undo_context="rewind", do_sample=True),
        Training(max_samples=3, lora_rank=64, gradient_accumulation_steps=8, per_device_train_batch_size=64),
        UndoData("own_samples", {"candidates": "answers.jsonl"}, mask="none"),
    )
    small = small_settings(settings)
    assert small.prompting == settings.prompting
    assert small.decode == Decode(max_new_tokens=NEW_TOKENS, undo_context="rewind", do_sample=True)
    training = small.training
    assert training is not None
    assert (training.max_samples, training.max_steps, training.lora_rank) == (3, STEPS, 64)
    assert training.per_device_train_batch_size * STEPS <= ITEMS
    assert small.undo == settings.undo
    other = small_settings(settings, own_tokenizer=False).undo
    assert other == UndoData("random_tokens", mask="none"), "candidates are ids of a tokenizer that is not here"


def test_questions_are_counted(tmp_path: Path) -> None:
    for name, number in (("train", 10), ("test", 4)):
        (tmp_path / f"{name}.jsonl").write_text("{}\n" * number)
    folder = Dataset("own", path=str(tmp_path), format="gsm8k")
    assert counts(folder) == (10, 4)
    (tmp_path / "test.jsonl").unlink()
    assert counts(Dataset("own", path=str(tmp_path / "train.jsonl"), format="gsm8k", dev_share=0.2)) == (8, 2)
    assert counts(Dataset("wordproblems", format="wordproblems")) == (2000, 600)
    assert counts(Dataset("gsm8k", path="openai/gsm8k", format="gsm8k")) == (7473, 1319)
    assert counts(Dataset("x", path="someone/else", format="gsm8k")) == (None, None)
    assert counts(Dataset("x", task="minerva_math500")) == (None, None)


def test_sizes_are_written_as_people_read_them() -> None:
    assert [size(count) for count in (0, 5 * 1024**2, 1024**3, 24 * 1024**3)] == [
        "0 MiB", "5 MiB", "1.0 GiB", "24.0 GiB",
    ]  # fmt: skip


@pytest.mark.slow
def test_the_gsm8k_example_is_rehearsed_from_file_to_page(lab: Path) -> None:
    """In processes of their own, as a person runs it: no login, no cache, and everything but the login works."""
    shutil.copytree(ROOT / "examples", lab / "examples")
    command = [sys.executable, "-m", "unsay", "run", "examples/gsm8k.yaml", "--rehearse", "--json"]
    environment = {"PATH": "/usr/bin:/bin", "HF_HOME": str(lab / "hub"), "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, cwd=lab, capture_output=True, text=True, env=environment)
    found: dict[str, Any] = json.loads(done.stdout)
    assert [each["id"] for each in found["experiments"]] == [f"EXP-{number:03}" for number in range(1, 9)]
    assert all(each["ok"] for each in found["experiments"]), done.stderr
    assert done.returncode == 1
    assert ["is gated and this machine is not logged in" in finding for finding in found["findings"]] == [True]
    page = Path(found["page"]).read_text()
    assert all(each["id"] in page for each in found["experiments"])
    assert found["total"]["hours_at_most"] > 1
    sizes = {each["estimate"]["parameters"] for each in found["experiments"]}
    assert sizes == {4_022_468_096, 596_049_920, 3_212_749_824}
