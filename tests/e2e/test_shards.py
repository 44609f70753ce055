"""Answers in parts: the same files as in one piece, byte for byte, whoever answers them and whatever is killed."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from tests import crash
from unsay import catalog, config, runner
from unsay.datasets import wordproblems
from unsay.executors import Outcome
from unsay.job import Event, Job
from unsay.store import layout, read
from unsay.worker import carry_out

ITEMS = 24


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Threads that wait for each other cost more than they bring on models this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lab")
    (folder / "data").mkdir()
    for split, count in (("train", 12), ("test", ITEMS)):
        rows = wordproblems.generate(split, count)
        (folder / "data" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    decode = {"max_new_tokens": 40, "do_sample": True, "temperature": 0.8}
    base = {"model": "unsay-tiny", "dataset": "own", "method": "vanilla", "config": "fewshot_2"}
    document = {
        "datasets": {"own": {"path": "./data"}},
        "configs": {
            "fewshot_2": {"base": "fewshot_8", "num_fewshot": 2},
            "lora/own": {"base": "lora/train_bt", "undo": {"strategy": "own_samples", "candidates": "own.jsonl"}},
        },
        "experiments": [
            base | {"id": "GREEDY", "decode": {"max_new_tokens": 40}},
            base | {"id": "DRAWN", "decode": decode},
            base | {"id": "PLANTED", "decode": decode | {"plant": "random_tokens"}},
            base | {"id": "OWN", "method": "sft", "config": "lora/own", "decode": {"max_new_tokens": 24}},
        ],
    }
    (folder / "lab.yaml").write_text(json.dumps(document))
    return folder


def job_of(lab: Path, id: str, outputs: Path, **fields: Any) -> Job:
    plan = config.load(lab / "lab.yaml", output_dir=outputs)
    (experiment,) = runner.choose(plan, [id])
    return replace(runner.job_of(plan, experiment, runner.Options(device="cpu", batch_size=4)), **fields)


def results(job: Job) -> dict[str, bytes]:
    """Return what an evaluation found, byte by byte, and what was sampled for each item."""
    record = read.record(job.result_folder)
    assert record is not None
    assert record.status == "completed", record.attempts[-1].error
    samples = read.samples_file(job.result_folder, record)
    assert samples is not None
    names = (layout.PREDICTIONS, layout.METRICS, layout.SCORES, layout.PROMPTS)
    found = {name: (job.result_folder / name).read_bytes() for name in names}
    traces = sorted(
        (trace.key.doc_id, trace.ids, trace.visible, repr(trace.beginning)) for trace in read.traces(job.result_folder)
    )
    assert len(traces) == ITEMS
    return found | {
        "samples": samples.read_bytes(),
        "traces": repr(traces).encode(),
        "hash": record.hashes["eval"].encode(),
    }


def run(executor: str, job: Job, report: Callable[[Event], None] = lambda _: None, **options: Any) -> Outcome:
    """Carry a job out by an executor."""
    return catalog.plugin("executors", executor)(**options).submit(job, report).wait()


@pytest.fixture(scope="module")
def whole(lab: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, bytes]]:
    """Return what an experiment finds in one piece."""
    known: dict[str, dict[str, bytes]] = {}

    def get(id: str) -> dict[str, bytes]:
        if id not in known:
            job = job_of(lab, id, tmp_path_factory.mktemp("whole") / "outputs")
            assert carry_out(job, lambda _: None).status == "completed"
            known[id] = results(job)
        return known[id]

    return get


@pytest.mark.parametrize("id", ["GREEDY", "DRAWN", "PLANTED"])
def test_parts_that_one_process_answers_give_the_same_files(
    lab: Path, whole: Callable[[str], dict[str, bytes]], tmp_path: Path, id: str
) -> None:
    job = job_of(lab, id, tmp_path / "outputs", shards=4)
    seen: list[Event] = []
    assert carry_out(job, seen.append).status == "completed"
    found, wanted = results(job), dict(whole(id))
    if (
        id == "PLANTED"
    ):  # the chance of an undo is a probability, whose last digits depend on what is computed beside it
        chances = [_values(each.pop(layout.METRICS)) for each in (found, wanted)]
        assert chances[0] == pytest.approx(chances[1], rel=1e-3, abs=1e-3)
        del found[layout.SCORES], wanted[layout.SCORES]
    assert found == wanted
    assert [each["helpers"] for each in seen if each["event"] == "shards"] == [3]
    assert [each["done"] for each in seen if each["event"] == "progress"] == list(range(ITEMS + 1))
    assert not (job.result_folder / layout.SHARDS).exists()
    record = read.record(job.result_folder)
    assert record is not None
    assert not [each for each in record.warnings if "generated alike" in each]
    assert record.facts["engine"]["threads"] >= 1


def _values(metrics: bytes) -> dict[str, float]:
    values = {name: each["value"] for name, each in json.loads(metrics)["metrics"].items()}
    return {name: value for name, value in values.items() if value is not None}


def helpers_of(job: Job) -> list[psutil.Process]:
    place = str(job.result_folder / layout.SHARDS)
    return [each for each in psutil.process_iter(["cmdline"]) if place in (each.info["cmdline"] or [])]


def test_helpers_answer_parts_and_one_that_is_killed_costs_nothing(
    lab: Path, whole: Callable[[str], dict[str, bytes]], tmp_path: Path
) -> None:
    job = job_of(lab, "DRAWN", tmp_path / "outputs")
    killed: list[int] = []

    def report(event: Event) -> None:
        if event["event"] == "progress" and event["done"] >= 4 and not killed:
            helper = helpers_of(job)[0]
            killed.append(helper.pid)
            helper.kill()

    outcome = run("local", job, report, shards=3)
    assert outcome.status == "completed", outcome.error
    assert len(killed) == 1
    assert results(job) == whole("DRAWN")
    assert len(list(layout.logs(job.result_folder).glob("*.shard-*.log"))) == 2
    assert helpers_of(job) == []


def test_what_a_killed_run_left_in_parts_is_gone_on_with_in_any_number_of_them(
    lab: Path, whole: Callable[[str], dict[str, bytes]], tmp_path: Path, nursery: crash.Nursery
) -> None:
    job = job_of(lab, "DRAWN", tmp_path / "outputs")
    place = job.result_folder / layout.SHARDS
    answered = lambda: sum(len(crash.complete_lines(part).splitlines()) for part in place.glob(f"*/{layout.TRACES}"))  # noqa: E731
    arguments = ("run", str(lab / "lab.yaml"), "DRAWN", "--output-dir", str(job.output_dir), "--device", "cpu",
                 "--batch-size", "1", "--option", "shards=3")  # fmt: skip
    (tmp_path / "run").mkdir()
    first = nursery.start(tmp_path / "run", *arguments)
    assert crash.wait_for(lambda: answered() >= 3, first)
    crash.kill(first)
    deadline = time.monotonic() + 30
    while helpers_of(job) and time.monotonic() < deadline:  # they see that the run is gone
        time.sleep(0.05)
    assert helpers_of(job) == []
    kept = answered()
    assert 3 <= kept < ITEMS
    (torn,) = list(place.glob("1-of-*"))
    with (torn / layout.TRACES).open("ab") as file:
        file.write(b'{"schema":1,"key":["ow')

    drawn: list[Event] = []
    assert carry_out(job, drawn.append).status == "completed"
    assert results(job) == whole("DRAWN")
    first_told = next(each["done"] for each in drawn if each["event"] == "progress")
    assert first_told == kept, "what was answered is not answered again"
    keys = Counter(trace.key for trace in read.traces(job.result_folder))
    assert set(keys.values()) == {1}
    assert not place.exists()
    assert (job.result_folder / (layout.TRACES + layout.TORN_SUFFIX)).read_bytes().endswith(b'"key":["ow\n')


def test_parts_of_other_settings_are_moved_aside(
    lab: Path, whole: Callable[[str], dict[str, bytes]], tmp_path: Path
) -> None:
    job = job_of(lab, "DRAWN", tmp_path / "outputs", shards=2)

    def stop(event: Event) -> None:
        if event["event"] == "progress" and event["done"] == 5:
            raise KeyboardInterrupt

    assert carry_out(job, stop).status == "cancelled"
    parts = sorted((job.result_folder / layout.SHARDS).iterdir())
    assert len(parts) == 2
    order = json.loads((parts[0] / layout.ORDER).read_bytes())
    for part in parts:
        (part / layout.ORDER).write_text(json.dumps(order | {"settings_hash": "0" * 64}))
    assert carry_out(job, lambda _: None).status == "completed"
    assert results(job) == whole("DRAWN")
    assert len(list((job.result_folder / layout.SUPERSEDED).rglob(layout.ORDER))) == 2


def test_a_part_that_somebody_still_answers_is_waited_for(
    lab: Path, whole: Callable[[str], dict[str, bytes]], tmp_path: Path, nursery: crash.Nursery
) -> None:
    """As where the machine of whoever made the parts is gone, and its helpers' machines are not."""
    job = job_of(lab, "DRAWN", tmp_path / "outputs", shards=3)

    def stop(event: Event) -> None:
        if event["event"] == "progress" and event["done"] == 5:
            raise KeyboardInterrupt

    assert carry_out(job, stop).status == "cancelled"
    from unsay.executors import _process

    helper = _process.start("unsay.shard", job.result_folder / layout.SHARDS, tmp_path / "helper.log")
    assert helper.stdout is not None
    for event in _process.events(helper.stdout):
        if event["event"] == "answers":
            break
    os.kill(helper.pid, signal.SIGSTOP)
    began = time.monotonic()

    def resume(event: Event) -> None:
        if event["event"] == "shards" or time.monotonic() - began > 1:
            os.kill(helper.pid, signal.SIGCONT)

    outcome = carry_out(job, resume)
    assert outcome.status == "completed", outcome.error
    assert results(job) == whole("DRAWN")
    helper.communicate(timeout=60)
    assert helper.returncode == 0, (tmp_path / "helper.log").read_text()


def test_a_helper_with_other_weights_answers_nothing(lab: Path, tmp_path: Path) -> None:
    job = job_of(lab, "GREEDY", tmp_path / "outputs", shards=2)

    def stop(event: Event) -> None:
        if event["event"] == "progress" and event["done"] == 2:
            raise KeyboardInterrupt

    assert carry_out(job, stop).status == "cancelled"
    for order in (job.result_folder / layout.SHARDS).glob(f"*/{layout.ORDER}"):
        order.write_text(json.dumps(json.loads(order.read_bytes()) | {"weights": "tree-sha256:0"}))
    before = {path: path.read_bytes() for path in (job.result_folder / layout.SHARDS).glob(f"*/{layout.TRACES}")}
    from unsay.executors import _process

    helper = _process.start("unsay.shard", job.result_folder / layout.SHARDS, tmp_path / "helper.log")
    assert helper.stdout is not None
    (end,) = _process.events(helper.stdout)
    assert (end["status"], "expected the weights of unsay-tiny" in end["error"]) == ("failed", True)
    assert {path: path.read_bytes() for path in before} == before


def test_own_answers_in_parts_are_those_in_one_piece(lab: Path, tmp_path: Path) -> None:
    method = catalog.plugin("methods", "sft")()
    files = []
    for shards in (1, 3):
        job = job_of(lab, "OWN", tmp_path / f"outputs{shards}", shards=shards)
        seen: list[Event] = []
        found = method.prepare(job, seen.append, sample=2)
        files.append(Path(found["sampled"]).read_bytes())
        Path(found["sampled"]).unlink()
        done = [each["done"] for each in seen if each["event"] == "progress" and each["stage"] == "sample"]
        assert done == list(range(1, 25))
        assert not (job.train_folder / layout.SAMPLE_SHARDS).exists()
    assert files[0] == files[1]
