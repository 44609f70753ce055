"""Finding experiments, counting progress, telling live runs from dead ones, and never failing on what is on disk."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.unit.lab import ARMS, Arm, make, make_lab, record_of
from unsay.errors import StoreError
from unsay.records import Attempt, ExperimentRecord
from unsay.store import claims, layout, read, write


def test_find_lists_ids_in_natural_order_then_those_without_id(tmp_path: Path) -> None:
    entries = read.find(make_lab(tmp_path / "outputs"))
    assert [(entry.name, entry.limit) for entry in entries] == [
        ("EXP-001", None),
        ("EXP-002", None),
        ("EXP-003", None),
        ("EXP-004", None),
        ("EXP-004", 20),
        ("EXP-010", None),
        ("qwen3-4b/gsm8k/sft/lora/low", None),
    ]


def test_find_passes_over_what_is_no_result(tmp_path: Path) -> None:
    folder = make(tmp_path, ARMS[2])
    for name in ("superseded/abc", "train/checkpoint-1", ".hidden"):
        write.write_json(folder / name / layout.EXPERIMENT, record_of(ARMS[0]).to_json())
    (folder / "loop").symlink_to(tmp_path)
    assert [entry.name for entry in read.find(tmp_path)] == ["EXP-003"]


def test_a_config_called_train_with_seeds_is_found(tmp_path: Path) -> None:
    arm = Arm("EXP-001", method="sft", config="lora/train/seed_1")
    make(tmp_path, arm)
    assert [entry.relative for entry in read.find(tmp_path)] == [arm.folder]


def test_a_lab_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert read.find(tmp_path / "absent") == []


BROKEN: dict[str, Any] = {
    "not JSON": "{",
    "a list": [],
    "newer": {"schema": 99},
    "no fields": {"schema": 1},
    "unknown field": record_of(ARMS[0]).to_json() | {"colour": 1},
    "status": record_of(ARMS[0]).to_json() | {"status": "done"},
    "spec": record_of(ARMS[0]).to_json() | {"spec": 3},
    "attempts": record_of(ARMS[0]).to_json() | {"attempts": [3]},
    "pid": record_of(ARMS[0]).to_json() | {"attempts": [{"started": "", "host": "", "pid": "x", "boot_id": ""}]},
    "warnings": record_of(ARMS[0]).to_json() | {"warnings": [1]},
}


@pytest.mark.parametrize("value", BROKEN.values(), ids=BROKEN)
def test_a_broken_record_is_reported_with_its_reason_and_kept(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "m" / layout.EXPERIMENT
    text = value if isinstance(value, str) else json.dumps(value)
    write.write_text(path, text)
    (entry,) = read.find(tmp_path)
    assert entry.record is None
    assert entry.name == "m"
    assert entry.problem is not None
    assert str(path) in entry.problem
    assert path.read_text() == text


def test_metrics_round_trip_and_refuse_what_is_no_number(tmp_path: Path) -> None:
    folder = make(tmp_path, ARMS[0])
    values = read.metrics(folder)
    assert values["bleu4_lf"].value == 34.08
    assert (values["bleu"].value, values["bleu"].reason) == (None, "too few items")
    write.write_json(folder / layout.METRICS, {"schema": 1, "metrics": {"a": {"value": "high"}}})
    with pytest.raises(StoreError, match="value of a is 'high'"):
        read.metrics(folder)
    assert read.metrics(tmp_path) == {}


def test_the_newest_samples_file_counts_and_none_outside_the_folder(tmp_path: Path) -> None:
    for name in ("samples_gsm8k_2025-10-03T16-58-48.072096.jsonl", "samples_a_2026-01-01T00-00-00.000000.jsonl"):
        write.write_text(tmp_path / name, json.dumps({"from": name}) + "\n")
    record = replace(record_of(ARMS[0]), files={"samples": "../secret.jsonl"})
    write.write_text(tmp_path.parent / "secret.jsonl", "{}\n")
    assert [line["from"] for line in read.samples(tmp_path, record)] == ["samples_a_2026-01-01T00-00-00.000000.jsonl"]


def test_pick_finds_by_id_folder_and_says_what_is_near(tmp_path: Path) -> None:
    entries = read.find(make_lab(tmp_path))
    assert read.pick(entries, "exp-003").record == record_of_entry(entries, "EXP-003")
    assert read.pick(entries, "EXP-004").limit is None
    assert read.pick(entries, ARMS[4].folder).limit == 20
    assert read.pick(entries, str(tmp_path / ARMS[1].folder)).name == "EXP-002"
    with pytest.raises(StoreError, match="Did you mean EXP-001"):
        read.pick(entries, "EXP001")


def record_of_entry(entries: list[read.Entry], name: str) -> ExperimentRecord | None:
    return next(entry.record for entry in entries if entry.name == name)


def test_progress_is_what_the_heartbeat_says(tmp_path: Path) -> None:
    assert read.progress(tmp_path) is None
    beat = {"schema": 1, "time": "now", "stage": "evaluate", "done": 412, "total": 1319}
    write.write_json(tmp_path / layout.HEARTBEAT, beat)
    assert read.progress(tmp_path) == read.Progress("evaluate", 412, 1319)
    write.write_json(tmp_path / layout.HEARTBEAT, beat | {"so_far": {"value": 71.2, "stderr": 2.2}})
    assert read.progress(tmp_path) == read.Progress("evaluate", 412, 1319, 71.2, 2.2)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"stage": "train"}', '{"stage": "train", "done": null, "total": 3}']
)
def test_a_heartbeat_without_progress_is_no_progress(tmp_path: Path, content: str) -> None:
    (tmp_path / layout.HEARTBEAT).write_text(content)
    assert read.progress(tmp_path) is None


# -- liveness ---------------------------------------------------------------------


def running(pid: int, *, host: str | None = None, boot: str | None = None, ago: float = 0) -> ExperimentRecord:
    started = (datetime.now().astimezone() - timedelta(seconds=ago)).isoformat()
    attempt = Attempt(started, host or socket.gethostname(), pid, boot or claims.boot_id())
    return replace(record_of(ARMS[0]), status="running", attempts=(attempt,))


def test_a_running_process_is_alive_and_a_killed_one_stale(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        record = running(child.pid)
        assert read.liveness(record) is None
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and still in the process table
        assert read.liveness(record) == "stale"  # nobody has collected it yet
    finally:
        child.kill()
        child.wait()
    assert read.liveness(record) == "stale"


def test_a_process_id_used_again_is_not_the_same_process() -> None:
    before = psutil.Process().create_time() - 3600
    started = datetime.fromtimestamp(before).astimezone().isoformat()
    record = running(os.getpid())
    record = replace(record, attempts=(replace(record.attempts[0], started=started),))
    assert read.liveness(record) == "stale"


def test_another_boot_of_this_machine_is_stale(tmp_path: Path) -> None:
    assert read.liveness(running(os.getpid(), boot="earlier")) == "stale"


def test_another_machine_is_lost_after_a_while_without_a_sign_of_life(tmp_path: Path) -> None:
    record = running(1, host="elsewhere")
    assert read.liveness(record) is None
    heartbeat = tmp_path / layout.HEARTBEAT
    heartbeat.touch()
    assert read.liveness(record, tmp_path) is None
    os.utime(heartbeat, (0, 0))
    assert read.liveness(record, tmp_path) == "lost contact"


@pytest.mark.parametrize("status", ["pending", "completed", "failed", "cancelled"])
def test_only_running_experiments_can_be_stale(status: str) -> None:
    assert read.liveness(replace(running(1), status=status)) is None
