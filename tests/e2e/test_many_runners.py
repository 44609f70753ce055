"""Several `unsay run` on one lab: they share the work, do nothing twice, and take over what one that died was at."""

from __future__ import annotations

import ctypes
import errno
import itertools
import json
import os
import random
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import crash
from unsay import cli
from unsay.records import ExperimentRecord
from unsay.store import claims, layout, read, stopping, write

ITEMS = 6
PATIENCE = 300.0


def make(folder: Path, *experiments: dict[str, Any], items: int = ITEMS) -> Path:
    """Write a lab of experiments on the bundled model; `short` is a training of a few steps."""
    (folder / "data").mkdir(parents=True)
    for split, first, count in (("train", 0, 12), ("test", 100, items)):
        rows = [{"question": f"{n} + {n}?", "answer": f"#### {n + n}"} for n in range(first, first + count)]
        (folder / "data" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    short = {
        "base": "lora/train", "lora_rank": 2, "max_steps": 4, "save_steps": 1, "logging_steps": 1,
        "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1, "decode": {"max_new_tokens": 4},
    }  # fmt: skip
    configs: dict[str, Any] = {"short": short}
    for length in range(5, 12):
        configs[f"longer/{length}"] = {"train_as": "short", "decode": {"max_new_tokens": length}}
    document = {
        "datasets": {"own": {"path": "./data"}},
        "configs": configs,
        "experiments": [{"model": "unsay-tiny", "dataset": "own"} | experiment for experiment in experiments],
    }
    (folder / "lab.yaml").write_text(json.dumps(document))  # JSON is YAML
    return folder


def vanilla(length: int) -> dict[str, Any]:
    return {"method": "vanilla", "config": "fewshot_0", "decode": {"max_new_tokens": length}}


def records(lab: Path) -> dict[str, tuple[Path, ExperimentRecord]]:
    found = {}
    for entry in read.find(lab / "outputs"):
        assert entry.record is not None, entry.problem
        if entry.limit is None:
            found[entry.name] = (entry.folder, entry.record)
    return found


def status(lab: Path, id: str) -> str:
    found = records(lab)
    return found[id][1].status if id in found else ""


def outcomes(lab: Path, id: str) -> list[str | None]:
    found = records(lab)
    return [attempt.outcome for attempt in found[id][1].attempts] if id in found else []


def answered(lab: Path, id: str) -> int:
    found = records(lab)
    return crash.complete_lines(found[id][0] / layout.TRACES).count(b"\n") if id in found else 0


def wait_for(condition: Callable[[], object], *processes: ForkServerProcess) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        assert all(process.is_alive() for process in processes), "it ended before it could be disturbed"
        time.sleep(0.005)


def ended(process: ForkServerProcess) -> int | None:
    process.join(PATIENCE)
    return process.exitcode


def owner_of(folder: Path, group: int | None) -> int | None:
    """Return the number of the process that carries an experiment out, if it belongs to this process group."""
    for each in claims.found(folder):
        with suppress(ProcessLookupError):
            if each.owner is not None and os.getpgid(each.owner.pid) == group:
                return each.owner.pid
    return None


def worker_of(lab: Path, id: str, run: ForkServerProcess) -> int:
    worker = owner_of(records(lab)[id][0], run.pid)
    assert worker is not None
    return worker


def at_work(lab: Path, run: ForkServerProcess) -> bool:
    """Say whether a run has begun an experiment and is not yet through with it."""
    for path in (lab / "outputs").rglob(f"{layout.CLAIM_PREFIX}*"):
        record = read.record(path.parent) if owner_of(path.parent, run.pid) else None
        if record is not None and record.status == "running":
            return True
    return False


def assert_each_item_once(lab: Path, count: int, items: int = ITEMS) -> dict[str, list[str | None]]:
    """Everything is complete, nothing was generated or trained twice; return the outcomes of all attempts."""
    found = records(lab)
    assert len(found) == count
    for id, (folder, record) in found.items():
        assert record.status == "completed", (id, record.attempts[-1].error)
        keys = Counter(trace.key for trace in read.traces(folder))
        assert len(keys) == items, id
        assert set(keys.values()) == {1}, f"{id}: an answer was generated twice"
        assert record.items == items
        assert not (folder / layout.SUPERSEDED).exists(), f"{id}: something was moved aside"
        assert [attempt.outcome for attempt in record.attempts].count("completed") == 1
        assert claims.found(folder) == []
        log = layout.train(folder) / layout.TRAINER_LOG
        if log.exists():
            steps = Counter(json.loads(line)["current_steps"] for line in log.read_text().splitlines())
            assert {count for step, count in steps.items() if step} == {1}, f"{id}: a step was trained twice"
    assert claims.found(lab / "outputs") == []
    for id in found:
        assert f"{id}" in (lab / layout.PAGE).read_text()
    return {id: [attempt.outcome for attempt in record.attempts] for id, (_, record) in found.items()}


def share(nursery: crash.Nursery, lab: Path, count: int, *, doomed: list[str], others: list[str]) -> None:
    """Let several runs (by their executors) share a lab, kill the doomed ones at work, let one more do the rest."""
    runs = [nursery.start(lab, *crash.run_arguments(executor)) for executor in (*doomed, *others)]
    for process in runs[: len(doomed)]:
        wait_for(lambda process=process: at_work(lab, process), process)
        crash.kill(process)
    assert {ended(process) for process in runs[len(doomed) :]} == {0}, (lab / "output.txt").read_text()
    assert ended(nursery.start(lab, *crash.run_arguments())) == 0
    attempts = assert_each_item_once(lab, count)
    disturbed = [seen for seen in attempts.values() if seen != ["completed"]]
    assert 1 <= len(disturbed) <= len(doomed), attempts
    assert all(seen == [None, "completed"] for seen in disturbed), attempts


SHARING = [{"method": "sft", "config": "short"}, {"method": "sft", "config": "longer/5"}]


def test_three_runs_share_a_lab_and_one_is_killed(tmp_path: Path, nursery: crash.Nursery) -> None:
    tail = {"model": "EXP-001", "method": "vanilla", "config": "fewshot_0", "decode": {"max_new_tokens": 4}}
    first = SHARING[0] | {"id": "EXP-001"}
    lab = make(tmp_path, first, SHARING[1], tail, *(vanilla(n) for n in (30, 31, 32, 33, 34)))
    share(nursery, lab, 8, doomed=["local"], others=["inline", "inline"])
    said = (lab / "output.txt").read_text()
    assert "is writing" in said, "no run ever met another one"
    assert "finished by another run, skipped" in said


@pytest.mark.slow
def test_eight_runs_share_forty_experiments_and_two_are_killed(tmp_path: Path, nursery: crash.Nursery) -> None:
    sharing = [{"method": "sft", "config": "short"}]
    sharing += [{"method": "sft", "config": f"longer/{length}"} for length in range(5, 9)]
    lab = make(tmp_path, *sharing, *(vanilla(length) for length in range(10, 45)))
    share(nursery, lab, 40, doomed=["local", "inline"], others=["local"] * 2 + ["inline"] * 4)


def _two_threads() -> None:
    os.environ["OMP_NUM_THREADS"] = "2"


def test_one_run_carries_out_two_experiments_at_a_time_with_half_the_threads_each(
    tmp_path: Path, nursery: crash.Nursery
) -> None:
    make(tmp_path / "lab", {"id": "PLAIN"} | vanilla(5), {"id": "OTHER"} | vanilla(6))
    together = ("--option", "at_once=2")
    run = nursery.start(
        tmp_path / "lab", *crash.run_arguments("local"), *together,
        inside=_two_threads,
    )  # fmt: skip
    assert ended(run) == 0, (tmp_path / "lab" / "output.txt").read_text()
    assert_each_item_once(tmp_path / "lab", 2)
    found = [record for _, record in records(tmp_path / "lab").values()]
    assert {record.facts["engine"]["threads"] for record in found} == {1}
    (first,), (second,) = sorted((record.attempts for record in found), key=lambda attempts: attempts[0].started)
    assert second.started < str(first.ended)


@pytest.mark.slow
def test_runs_that_keep_dying_get_a_lab_done_all_the_same(tmp_path: Path, nursery: crash.Nursery) -> None:
    """Three at a time; every moment one of them is killed, whatever it is at, and another one begins."""
    rng = random.Random(0)
    lab = make(tmp_path, *SHARING, *(vanilla(length) for length in range(10, 20)), vanilla(SLOW), items=12)
    runs = [nursery.start(lab, *crash.run_arguments()) for _ in range(3)]
    for _ in range(30):
        time.sleep(rng.uniform(0, 1.5))
        place = rng.randrange(len(runs))
        crash.kill(runs[place])
        runs[place] = nursery.start(lab, *crash.run_arguments())
    assert {ended(run) for run in runs} == {0}, (lab / "output.txt").read_text()
    attempts = assert_each_item_once(lab, 13, 12)
    killed = sum(outcome is None for seen in attempts.values() for outcome in seen)
    assert {outcome for seen in attempts.values() for outcome in seen} <= {None, "completed"}
    assert 3 <= killed <= 30


# -- stopping -----------------------------------------------------------------------------------------------------

SLOW = 100
"""Tokens of an answer that takes a while."""


def cancel(lab: Path, *arguments: str, capsys: pytest.CaptureFixture[str]) -> dict[str, tuple[str, str]]:
    """Cancel experiments; return what was done to each, and its status."""
    capsys.readouterr()
    assert cli.main(["cancel", *arguments, "--json", "-o", str(lab / "outputs")]) == 0
    document = json.loads(capsys.readouterr().out)
    return {each["id"]: (each["did"], each["status"]) for each in document["experiments"]}


def test_cancelled_experiments_stop_and_are_left_alone_until_asked_for_anew(
    tmp_path: Path, nursery: crash.Nursery, capsys: pytest.CaptureFixture[str]
) -> None:
    lab = make(tmp_path, vanilla(SLOW), vanilla(5), vanilla(6), items=20)
    run = nursery.start(lab, *crash.run_arguments("local"))
    wait_for(lambda: answered(lab, "EXP-001") >= 2, run)
    assert cancel(lab, "EXP-001", "EXP-003", capsys=capsys) == {
        "EXP-001": ("cancelled", "cancelled"),
        "EXP-003": ("cancelled", "cancelled"),
    }
    assert ended(run) == 1
    assert [status(lab, id) for id in ("EXP-001", "EXP-002", "EXP-003")] == ["cancelled", "completed", "cancelled"]
    assert outcomes(lab, "EXP-003") == []
    assert "EXP-003 left alone: cancelled with `unsay cancel`" in (lab / "output.txt").read_text()
    assert cancel(lab, "EXP-002", capsys=capsys) == {"EXP-002": ("nothing", "completed")}

    assert ended(nursery.start(lab, *crash.run_arguments())) == 0
    assert outcomes(lab, "EXP-001") == ["cancelled", "completed"]
    assert outcomes(lab, "EXP-003") == ["completed"]
    for folder, _ in records(lab).values():
        keys = Counter(trace.key for trace in read.traces(folder))
        assert (len(keys), set(keys.values())) == (20, {1})


def test_what_nobody_carries_out_any_more_can_be_cancelled(
    tmp_path: Path, nursery: crash.Nursery, capsys: pytest.CaptureFixture[str]
) -> None:
    lab = make(tmp_path, vanilla(SLOW), items=20)
    run = nursery.start(lab, *crash.run_arguments(), "--limit", "18")
    limited = lambda: next((e for e in read.find(lab / "outputs") if e.limit == 18), None)  # noqa: E731
    wait_for(lambda: limited() and crash.complete_lines(limited().folder / layout.TRACES), run)
    crash.kill(run)
    assert limited().record.status == "running"
    assert cancel(lab, "EXP-001", capsys=capsys) == {"EXP-001": ("cancelled", "cancelled")}
    record = limited().record
    assert record.status == "cancelled"
    assert (record.attempts[-1].outcome, "process was gone" in record.attempts[-1].error) == ("cancelled", True)
    assert status(lab, "EXP-001") == "pending", "the whole run was not at work"


@pytest.mark.parametrize(
    ("executor", "signals"), [("inline", ["SIGTERM"]), ("local", ["SIGHUP"]), ("local", ["SIGINT", "SIGINT"])]
)
def test_a_run_that_is_told_to_stop_leaves_what_can_go_on(
    tmp_path: Path, nursery: crash.Nursery, executor: str, signals: list[str]
) -> None:
    """A second Ctrl-C ends even a worker that does not react: here it is asleep."""
    lab = make(tmp_path, vanilla(SLOW), vanilla(5), items=20)
    run = nursery.start(lab, *crash.run_arguments(executor))
    wait_for(lambda: answered(lab, "EXP-001") >= 2, run)
    assert run.pid is not None
    worker = worker_of(lab, "EXP-001", run)
    if len(signals) > 1:
        os.kill(worker, signal.SIGSTOP)
    for name in signals:
        os.kill(run.pid, signal.Signals[name])
        time.sleep(0.3)
    assert ended(run) == 1
    assert not psutil.pid_exists(worker)
    assert outcomes(lab, "EXP-001") == ["cancelled"]
    assert [status(lab, id) for id in ("EXP-001", "EXP-002")] == ["cancelled", "pending"]
    assert "Traceback" not in (lab / "output.txt").read_text()
    traces = records(lab)["EXP-001"][0] / layout.TRACES
    before = crash.complete_lines(traces)

    assert ended(nursery.start(lab, *crash.run_arguments())) == 0
    assert crash.complete_lines(traces).startswith(before)
    assert assert_each_item_once(lab, 2, 20) == {"EXP-001": ["cancelled", "completed"], "EXP-002": ["completed"]}


def test_what_a_stopped_run_was_at_is_gone_on_with_by_another(tmp_path: Path, nursery: crash.Nursery) -> None:
    lab = make(tmp_path, vanilla(SLOW), items=20)
    stopped = nursery.start(lab, *crash.run_arguments())
    wait_for(lambda: answered(lab, "EXP-001") >= 2, stopped)
    other = nursery.start(lab, *crash.run_arguments())
    wait_for(lambda: "is writing" in (lab / "output.txt").read_text(), stopped, other)
    assert stopped.pid is not None
    os.kill(stopped.pid, signal.SIGTERM)
    assert (ended(stopped), ended(other)) == (1, 0)
    assert assert_each_item_once(lab, 1, 20) == {"EXP-001": ["cancelled", "completed"]}


# -- trying again -------------------------------------------------------------------------------------------------


def test_a_killed_worker_is_tried_again_as_often_as_allowed(tmp_path: Path, nursery: crash.Nursery) -> None:
    lab = make(tmp_path, vanilla(SLOW), items=20)
    run = nursery.start(lab, *crash.run_arguments("local"), "--retries", "1")
    for count in (0, 1):
        wait_for(lambda count=count: len(outcomes(lab, "EXP-001")) > count and answered(lab, "EXP-001") >= 2, run)
        os.kill(worker_of(lab, "EXP-001", run), signal.SIGKILL)
    assert ended(run) == 1
    folder, record = records(lab)["EXP-001"]
    assert record.status == "failed"
    assert outcomes(lab, "EXP-001") == ["failed", "failed"]
    logs = {attempt.log for attempt in record.attempts}
    assert len(logs) == 2
    assert all((folder / str(log)).is_file() for log in logs)
    assert all("SIGKILL" in (attempt.error or "") for attempt in record.attempts)
    assert "tried again later (1 of 1)" in (lab / "output.txt").read_text()

    assert ended(nursery.start(lab, *crash.run_arguments())) == 0
    assert assert_each_item_once(lab, 1, 20) == {"EXP-001": ["failed", "failed", "completed"]}


def full_once() -> None:
    """Let the disk be full when the third answer is to be written, and have room again afterwards."""
    original, calls = write._append, itertools.count(1)

    def append(descriptor: int, data: bytes) -> None:
        if next(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(descriptor, data)

    write._append = append


@pytest.mark.parametrize("retries", [0, 1])
def test_a_failure_that_may_pass_is_tried_again_where_that_was_asked_for(
    tmp_path: Path, nursery: crash.Nursery, retries: int
) -> None:
    lab = make(tmp_path, vanilla(8))
    run = nursery.start(lab, *crash.run_arguments(), "--retries", str(retries), inside=full_once)
    assert ended(run) == 1 - retries
    assert outcomes(lab, "EXP-001") == ["failed", "completed"][: 1 + retries]
    error = records(lab)["EXP-001"][1].attempts[0].error or ""
    assert "No space left" in error
    assert layout.TRACES in error
    assert "Traceback" in (lab / "output.txt").read_text()
    if not retries:
        assert ended(nursery.start(lab, *crash.run_arguments())) == 0
    assert_each_item_once(lab, 1)


# -- another machine ----------------------------------------------------------------------------------------------

CLONE_NEWUTS = 0x04000000


def elsewhere() -> None:
    """Be a machine of another name; only this process and what it starts sees that."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUTS):
        raise OSError(ctypes.get_errno(), "unshare")
    socket.sethostname("elsewhere")
    stopping.LOOK_EVERY = 0.2  # a fast machine would be done before it looked


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may name a machine")
def test_a_run_on_another_machine_is_waited_for_asked_to_stop_and_taken_over(
    tmp_path: Path, nursery: crash.Nursery, capsys: pytest.CaptureFixture[str]
) -> None:
    lab = make(tmp_path, vanilla(SLOW), items=60)
    other = nursery.start(lab, *crash.run_arguments(), inside=elsewhere)
    wait_for(lambda: answered(lab, "EXP-001") >= 2, other)
    folder, record = records(lab)["EXP-001"]
    assert record.attempts[-1].host == "elsewhere"
    assert read.liveness(record, folder) is None
    assert cancel(lab, "EXP-001", capsys=capsys) == {"EXP-001": ("cancelled", "cancelled")}
    assert ended(other) == 1
    assert "unsay cancel" in (records(lab)["EXP-001"][1].attempts[-1].error or "")
    assert not (folder / layout.CANCEL).exists()

    # It goes on, and dies without a word: nobody here can look for its process.
    other = nursery.start(lab, *crash.run_arguments(), inside=elsewhere)
    before = answered(lab, "EXP-001")
    wait_for(lambda: answered(lab, "EXP-001") > before + 1, other)
    crash.kill(other)
    here = nursery.start(lab, *crash.run_arguments())
    wait_for(lambda: "is writing" in (lab / "output.txt").read_text(), here)
    (claim,) = claims.found(folder)
    for path in (claim.path, folder / layout.HEARTBEAT):
        long_ago = path.stat().st_mtime - claims.LOST_AFTER - 1
        os.utime(path, (long_ago, long_ago))
    assert read.liveness(records(lab)["EXP-001"][1], folder) == "lost contact"
    assert ended(here) == 0
    assert assert_each_item_once(lab, 1, 60) == {"EXP-001": ["cancelled", None, "completed"]}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may name a machine")
def test_a_machine_that_wakes_up_after_it_was_taken_over_writes_nothing_more(
    tmp_path: Path, nursery: crash.Nursery
) -> None:
    lab = make(tmp_path, vanilla(SLOW), items=24)
    sleeper = nursery.start(lab, *crash.run_arguments("local"), inside=elsewhere)
    wait_for(lambda: answered(lab, "EXP-001") >= 2, sleeper)
    assert sleeper.pid is not None
    os.killpg(sleeper.pid, signal.SIGSTOP)
    folder, _ = records(lab)["EXP-001"]
    (claim,) = claims.found(folder)
    os.utime(claim.path, (0, 0))
    here = nursery.start(lab, *crash.run_arguments())
    wait_for(lambda: len(outcomes(lab, "EXP-001")) == 2 and answered(lab, "EXP-001") >= 5, here)
    os.killpg(sleeper.pid, signal.SIGCONT)
    assert ended(here) == 0
    assert ended(sleeper) == 0
    assert assert_each_item_once(lab, 1, 24) == {"EXP-001": [None, "completed"]}
    assert "took over" in (lab / "output.txt").read_text()
