"""Being asked to stop: by whom, for which attempt, and what is written down of it."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.lab import ARMS, record_of
from unsay.records import Attempt
from unsay.store import claims, layout, read, stopping, write

OWN = claims.me()
MINE = Attempt("2026-01-01T00:00:00+00:00", OWN.host, OWN.pid, OWN.boot_id)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "LOOK_EVERY", 0.02)


def request(folder: Path, attempt: Attempt) -> None:
    asked = {"schema": 1, "attempt": attempt.started, "pid": attempt.pid, "by": "elsewhere:7"}
    write.write_json(folder / layout.CANCEL, asked)


def asked_to_stop(folder: Path) -> None:
    with stopping.heeding(folder, MINE):
        request(folder, MINE)
        time.sleep(10)


def test_a_request_interrupts_the_attempt_that_it_names(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt, match=rf"{stopping.CALLED_OFF} \(by elsewhere:7\)"):
        asked_to_stop(tmp_path)
    assert not (tmp_path / layout.CANCEL).exists()


@pytest.mark.parametrize(
    "other", [replace(MINE, started="2026-01-01T00:00:01+00:00"), replace(MINE, pid=MINE.pid + 1), None]
)
def test_a_request_to_somebody_else_is_left_unheeded(tmp_path: Path, other: Attempt | None) -> None:
    with stopping.heeding(tmp_path, MINE):
        if other is None:
            (tmp_path / layout.CANCEL).write_text("{")
        else:
            request(tmp_path, other)
        time.sleep(0.2)


def taken_over(folder: Path) -> None:
    with write.lock(folder), stopping.heeding(folder, MINE):
        request(folder, MINE)
        claims.found(folder)[0].path.unlink()
        time.sleep(10)


def test_a_claim_that_was_taken_over_interrupts(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt, match="took over"):
        taken_over(tmp_path)
    assert json.loads((tmp_path / layout.CANCEL).read_text())["by"] == "elsewhere:7", "it is the new owner's by now"


@pytest.mark.parametrize(
    ("outcome", "error", "called_off"),
    [
        ("cancelled", "stopped by SIGTERM", False),
        ("cancelled", f"{stopping.CALLED_OFF} (by here:1)", True),
        ("failed", "no room", True),  # it was pending again when it was cancelled
        (None, None, True),
    ],
)
def test_a_stopped_run_does_not_call_an_experiment_off(
    outcome: str | None, error: str | None, called_off: bool
) -> None:
    attempt = replace(MINE, outcome=outcome, error=error)
    record = replace(record_of(ARMS[0]), status="cancelled", attempts=(attempt,))
    assert stopping.is_called_off(record) == called_off
    assert not stopping.is_called_off(replace(record, status="failed"))
    assert stopping.is_called_off(replace(record, attempts=()))


def test_what_a_stopped_run_left_can_be_called_off(tmp_path: Path) -> None:
    attempt = replace(MINE, outcome="cancelled", error="stopped by SIGINT")
    record = replace(record_of(ARMS[0]), status="cancelled", attempts=(attempt,))
    write.write_json(tmp_path / layout.EXPERIMENT, record.to_json())
    assert stopping.close(tmp_path, tmp_path, "cancelled", stopping.CALLED_OFF, of=("cancelled",))
    closed = read.record(tmp_path)
    assert closed is not None
    assert stopping.is_called_off(closed)
    assert closed.attempts[-1].error == f"{stopping.CALLED_OFF}; stopped by SIGINT"


def test_what_is_pending_or_completed_is_not_closed_unless_asked_for(tmp_path: Path) -> None:
    record = replace(record_of(ARMS[0]), status="pending", attempts=())
    path = tmp_path / layout.EXPERIMENT
    write.write_json(path, record.to_json())
    assert not stopping.close(tmp_path, tmp_path, "failed", "killed")
    assert read.record(tmp_path) == record
    assert stopping.close(tmp_path, tmp_path, "cancelled", "x", of=("pending", "running"))
    closed = read.record(tmp_path)
    assert closed is not None
    assert (closed.status, closed.attempts) == ("cancelled", ())
    write.write_json(path, replace(record, status="completed").to_json())
    assert not stopping.close(tmp_path, tmp_path, "cancelled", "x", of=("pending", "running"))
