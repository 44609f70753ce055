"""Starting a group: whose failure is told, and, in real processes, what becomes of one that is out of memory."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unsay import config
from unsay.accelerate_file import read
from unsay.job import Job
from unsay.methods import _training
from unsay.store import layout
from unsay.store.read import read_json
from unsay.train import launch
from unsay.worker import carry_out

FSDP = Path(__file__).parents[3] / "examples" / "accelerate" / "fsdp.yaml"


def said(process: int, text: str, *, ours: bool = False) -> dict[str, Any]:
    return {"event": "error", "process": process, "ours": ours, "text": text}


def lost(process: int, exitcode: int) -> dict[str, Any]:
    return {"event": "lost", "process": process, "exitcode": exitcode}


PEER = said(0, "RuntimeError: Connection closed by peer")


@pytest.mark.parametrize(
    ("errors", "message"),
    [
        ([said(1, "expected a, got b", ours=True), lost(1, 1)], "expected a, got b"),
        ([PEER, said(1, "expected a, got b", ours=True), lost(0, 1)], "expected a, got b"),
        ([PEER, lost(0, 1), lost(1, -signal.SIGKILL)], "got process 1 killed by SIGKILL"),
        ([said(1, "ValueError: x"), lost(1, 1), lost(0, -signal.SIGTERM)], "training process 1: ValueError: x"),
        ([{"event": "text", "text": "hello"}, lost(1, 3)], "got process 1 with exit code 3"),
        ([], "got exit code 7"),
    ],
)
def test_the_first_cause_is_told(errors: list[dict[str, Any]], message: str) -> None:
    assert message in str(launch._why(errors, 2, 7))


def test_a_line_that_is_no_event_is_kept_out() -> None:
    assert launch._event(b'{"event": "progress", "done": 1}\n') == {"event": "progress", "done": 1}
    for line in (b"hello\n", b"[1]\n", b"{}\n", b"\xff\n"):
        assert launch._event(line)["event"] == "text"


@pytest.fixture
def job(tiny_models: Callable[..., Path], tmp_path: Path) -> Job:
    (tmp_path / "data").mkdir()
    for split, first, count in (("train", 0, 12), ("test", 100, 2)):
        rows = [{"question": f"{n} + {n}?", "answer": f"#### {n + n}"} for n in range(first, first + count)]
        (tmp_path / "data" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    training = {"base": "lora/train_bt", "max_steps": 6, "save_steps": 2, "warmup_ratio": 0.0, "learning_rate": 1e-2}
    split = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "decode": {"max_new_tokens": 2}}
    document = {
        "models": {"tiny": {"path": str(tiny_models())}},
        "datasets": {"own": {"path": str(tmp_path / "data")}},
        "configs": {"quick": training | split},
        "experiments": [{"model": "tiny", "dataset": "own", "method": "sft", "config": "quick"}],
    }
    (tmp_path / "lab.yaml").write_text(json.dumps(document))
    (experiment,) = config.load(tmp_path / "lab.yaml").experiments
    return Job(experiment, tmp_path / "outputs", device="cpu", processes=read(FSDP))


@pytest.mark.slow
def test_sharded_processes_without_memory_are_started_again(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_training, "__name__", "tests.unit.train.scarce")
    events: list[dict[str, Any]] = []
    outcome = carry_out(job, events.append)
    assert (outcome.status, outcome.error) == ("completed", None)
    results = read_json(layout.train(job.folder) / layout.TRAIN_RESULTS)
    assert (results["micro_batch"], results["gradient_accumulation"], results["sharded"]) == (1, 2, True)
    assert [event["micro_batch"] for event in results["out_of_memory"]] == [1]
    assert [event["done"] for event in events if event.get("stage") == "train" and "done" in event] == [
        1,
        2,
        3,
        4,
        5,
        6,
    ]


@pytest.mark.slow
def test_a_module_that_is_not_there_is_a_failure_of_the_experiment(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_training, "__name__", "tests.unit.train.nothing")
    outcome = carry_out(job, lambda event: None)
    assert outcome.status == "failed"
    assert "expected 2 training processes to end well, got process" in (outcome.error or "")
