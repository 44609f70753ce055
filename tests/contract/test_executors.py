"""What every executor keeps to, whatever it starts: how jobs end, what is told meanwhile, what can be gone on with."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from unsay import catalog, config, runner
from unsay.datasets import wordproblems
from unsay.executors import Executor
from unsay.executors.inline import Inline
from unsay.job import Event, Job
from unsay.store import layout, read, write

ITEMS = 12


def _executors() -> list[Any]:
    names = catalog.names("executors")
    assert {"inline", "local", "ray", "slurm"} <= set(names)
    return [pytest.param(name, marks=pytest.mark.slow) if name == "ray" else name for name in names]


@pytest.fixture(scope="module", params=_executors())
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    """Return an executor with its own defaults; one that is added needs no line here."""
    if request.param == "slurm":
        pytest.skip("needs a cluster, and has one in tests/e2e/test_slurm.py")
    if request.param == "ray":
        pytest.importorskip("ray")
    yield catalog.plugin("executors", request.param)()
    if request.param == "ray":
        sys.modules["ray"].shutdown()


@pytest.fixture
def job(executor: Executor, tmp_path: Path) -> Job:
    """Return an evaluation that takes seconds, of a model and data that are the test's own."""
    bundled = Path(config.__file__).parent / "assets" / "unsay-tiny"
    shutil.copytree(bundled, tmp_path / "model")
    (tmp_path / "data").mkdir()
    for split, count in (("train", 2), ("test", ITEMS)):
        rows = (json.dumps(row) + "\n" for row in wordproblems.generate(split, count))
        (tmp_path / "data" / f"{split}.jsonl").write_text("".join(rows))
    line = {"model": "own", "dataset": "mine", "method": "vanilla", "config": "fewshot_0"}
    document = {
        "models": {"own": {"path": "./model", "template": "plain"}},
        "datasets": {"mine": {"path": "./data"}},
        "experiments": [line | {"decode": {"max_new_tokens": 60}}],
    }
    (tmp_path / "lab.yaml").write_text(json.dumps(document))
    plan = config.load(tmp_path / "lab.yaml", output_dir=tmp_path / "outputs")
    (experiment,) = runner.register(plan, plan.experiments)
    job = runner.job_of(plan, experiment, runner.Options(device="cpu", batch_size=1))
    assert executor.check([job]) == []
    return job


def _status(job: Job) -> str:
    record = read.record(job.result_folder)
    assert record is not None
    return record.status


def test_a_job_is_told_of_can_be_stopped_and_is_gone_on_with(executor: Executor, job: Job) -> None:
    seen: list[Event] = []
    begun = threading.Event()

    def report(event: Event) -> None:
        seen.append(event)
        if event["event"] == "progress" and event.get("done"):
            begun.set()

    running = executor.submit(job, report)
    with ThreadPoolExecutor(1) as waiting:
        ended = waiting.submit(running.wait)
        assert begun.wait(120)
        running.cancel()
        outcome = ended.result(120)
    running.cancel()  # what has ended can be told to end
    running.kill()
    stages = [event for event in seen if event["event"] == "progress"]
    assert {event["total"] for event in stages if event["stage"] == "evaluate"} == {ITEMS}
    if isinstance(executor, Inline):
        assert outcome.status == "completed"  # before anybody could stop it
    else:
        assert outcome.status == "cancelled"
        assert outcome.silent or _status(job) == "cancelled"
        assert executor.submit(job, lambda _: None).wait().status == "completed"
    assert _status(job) == "completed"
    assert Counter(trace.key.doc_id for trace in read.traces(job.result_folder)) == dict.fromkeys(range(ITEMS), 1)
    assert outcome.log is None or outcome.log.is_file()


def test_a_job_that_fails_says_why_and_where_its_log_is(executor: Executor, job: Job, tmp_path: Path) -> None:
    (tmp_path / "model" / "model.safetensors").write_bytes(b"no weights")
    outcome = executor.submit(job, lambda _: None).wait()
    assert outcome.status == "failed"
    assert outcome.error
    assert "model" in outcome.error
    assert outcome.log is None or outcome.log.is_file()
    assert _status(job) == "failed"


def test_nothing_is_touched_where_another_process_is_at_it(executor: Executor, job: Job) -> None:
    def files() -> dict[str, bytes]:
        return {
            str(path): path.read_bytes()
            for path in sorted(job.result_folder.rglob("*"))
            if path.is_file() and layout.CLAIM_PREFIX not in path.name
        }

    with write.lock(job.result_folder):
        before = files()
        outcome = executor.submit(job, lambda _: None).wait()
        assert outcome.status == "busy"
        assert str(os.getpid()) in str(outcome.error)
        assert files() == before
