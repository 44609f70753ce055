"""Experiments as jobs of a real Slurm cluster on this machine: statuses, and the results of `inline`, to the byte."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import crash, slurm_cluster
from unsay.records import ExperimentRecord
from unsay.store import layout, read, stopping

pytestmark = [
    pytest.mark.slow,
    pytest.mark.slurm,
    pytest.mark.skipif(bool(slurm_cluster.missing()), reason="needs Slurm; `make test-slurm` installs it"),
    pytest.mark.skipif(os.geteuid() != 0, reason="starts munged and slurmd, as root"),
]

ITEMS = 400
PATIENCE = 400.0
TRAINING = {
    "base": "lora/train", "lora_rank": 2, "max_steps": 4, "save_steps": 1, "logging_steps": 1,
    "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1, "decode": {"max_new_tokens": 2},
}  # fmt: skip
ON = ("--device", "cpu", "--batch-size", "2")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with slurm_cluster.cluster(tmp_path_factory.mktemp("slurm") / "cluster") as environment:
        yield environment | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def make(folder: Path, *experiments: dict[str, Any], items: int = ITEMS, **more: Any) -> Path:
    (folder / "data").mkdir(parents=True)
    for split, first, count in (("train", 0, 12), ("test", 100, items)):
        rows = [{"question": f"{n} + {n}?", "answer": f"#### {n + n}"} for n in range(first, first + count)]
        (folder / "data" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    document = {
        "executor": {"name": "slurm", "partition": slurm_cluster.PARTITION, "cpus": 1, "time": "20"},
        "datasets": {"own": {"path": "./data"}},
        "configs": {"short": TRAINING},
        "experiments": [{"model": "unsay-tiny", "dataset": "own"} | experiment for experiment in experiments],
    }
    (folder / "lab.yaml").write_text(json.dumps(document | more))
    return folder


def answers(length: int) -> dict[str, Any]:
    return {"method": "vanilla", "config": "fewshot_0", "decode": {"max_new_tokens": length, "undo": "ban"}}


def twelve(folder: Path) -> Path:
    """Write a matrix of seven, a training, an evaluation of it, and three that take long."""
    return make(
        folder,
        {"id": "CANCELLED"} | answers(210),
        {"id": "REQUEUED"} | answers(200),
        {"id": "LIMITED"} | answers(250),
        {"id": "TRAINED", "method": "sft", "config": "short"},
        {"id": "USES", "model": "TRAINED", "method": "vanilla", "config": "fewshot_0", "decode": {"max_new_tokens": 3}},
        matrix=[
            {"model": "unsay-tiny", "dataset": "own", "method": "sft", "config": "short", "learning_rate": [1e-3, 3e-3],
             "seed": [1, 2]},
            {"model": "unsay-tiny", "dataset": "own", "method": "vanilla", "config": "fewshot_0",
             "decode": {"max_new_tokens": [2, 3, 4]}},
        ],
    )  # fmt: skip


def unsay(lab: Path, environment: dict[str, str], *words: str, code: int = 0) -> Any:
    """Run a command that prints JSON."""
    process = start(lab, environment, *words, "--json")
    done = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, (words, done)
    return json.loads(done[0])


def start(lab: Path, environment: dict[str, str], *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "unsay", *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=lab, env=environment, stdout=pipe, stderr=pipe, text=True)


def call(environment: dict[str, str], *words: str) -> str:
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout


def record(lab: Path, id: str) -> ExperimentRecord:
    found = read.record(crash.folders(lab)[id])
    assert found is not None
    return found


def outcomes(lab: Path, id: str) -> list[str | None]:
    return [attempt.outcome for attempt in record(lab, id).attempts]


def errors(lab: Path, id: str) -> list[str]:
    return [attempt.error or "" for attempt in record(lab, id).attempts]


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.3)


def answered(lab: Path, id: str) -> int:
    return crash.complete_lines(crash.folders(lab)[id] / layout.TRACES).count(b"\n")


def by_id(document: Any) -> dict[str, Any]:
    return {row["id"]: row for row in document["experiments"]}


def test_a_matrix_of_jobs_with_one_cancelled_one_requeued_and_one_at_its_time_limit(
    tmp_path: Path, slurm: dict[str, str]
) -> None:
    lab, alone = twelve(tmp_path / "lab"), twelve(tmp_path / "alone")
    # as one array, but for what needs a training; nobody waits
    others = [id for id in ids_of(lab, slurm) if id != "LIMITED"]
    queued = by_id(unsay(lab, slurm, "run", "lab.yaml", *others, *ON, "--option", "array=true"))
    assert len(queued) == 11
    assert {row["outcome"] for row in queued.values()} == {"queued"}
    jobs = {id: row["job"]["job"] for id, row in queued.items()}
    assert Path(queued["CANCELLED"]["job"]["output"]).name == f"{jobs['CANCELLED']}.out"
    until(Path(queued["CANCELLED"]["job"]["output"]).exists, "its shell's output is elsewhere")
    assert len({job.partition("_")[0] for job in jobs.values()}) == 2
    assert "_" not in jobs["USES"]
    shown = by_id(unsay(lab, slurm, "status"))
    assert shown["USES"]["job"]["standing"] == "PENDING, Dependency"
    assert shown["LIMITED"]["job"] is None

    # one is cancelled while it runs, one is queued again by an operator
    until(lambda: min(answered(lab, "CANCELLED"), answered(lab, "REQUEUED")) >= 2, "no answers")
    before = crash.complete_lines(crash.folders(lab)["REQUEUED"] / layout.TRACES)
    call(slurm, "scontrol", "requeue", jobs["REQUEUED"])
    (did,) = unsay(lab, slurm, "cancel", "CANCELLED")["experiments"]
    assert (did["status"], did["did"]) == ("cancelled", "cancelled")
    assert errors(lab, "CANCELLED")[0].startswith(stopping.CALLED_OFF)
    until(lambda: record(lab, "REQUEUED").status == "pending" or len(outcomes(lab, "REQUEUED")) > 1, "not put back")
    assert errors(lab, "REQUEUED")[0] == f"Slurm job {jobs['REQUEUED']} was queued again"

    # one comes to its time limit, which is the end where nothing allows another try, and is gone on with where it is
    short = ("lab.yaml", "LIMITED", *ON, "--wait", "--option", "time=1", "--option", "warning=5")
    failed = by_id(unsay(lab, slurm, "run", *short, "--option", "requeues=0", code=1))["LIMITED"]
    assert (failed["outcome"], failed["status"]) == ("failed", "failed")
    assert "came to its time limit (00:01:00); `requeues` allows 0" in failed["outcome_error"]
    assert 0 < answered(lab, "LIMITED") < ITEMS
    again = start(lab, slurm, "run", *short, "--option", "requeues=20", "--json")

    # waiting takes up what was submitted before
    rest = [id for id in others if id != "CANCELLED"]
    ended = by_id(unsay(lab, slurm, "run", "lab.yaml", *rest, *ON, "--wait"))
    assert {row["outcome"] for row in ended.values()} <= {"completed", "skipped"}
    assert {row["status"] for row in ended.values()} == {"completed"}
    assert outcomes(lab, "REQUEUED") == ["cancelled", "completed"]
    assert crash.complete_lines(crash.folders(lab)["REQUEUED"] / layout.TRACES).startswith(before)
    assert record(lab, "CANCELLED").status == "cancelled"
    limited = by_id(json.loads(again.communicate(timeout=PATIENCE)[0]))["LIMITED"]
    assert limited["outcome"] == "completed"
    assert outcomes(lab, "LIMITED")[0] == "failed"
    assert outcomes(lab, "LIMITED")[-1] == "completed"
    assert all("queued again (" in error for error in errors(lab, "LIMITED")[1:-1])

    # what was cancelled is gone on with; then all are as if each had been carried out alone in one process
    unsay(lab, slurm, "run", "lab.yaml", *ON, "--wait")
    assert outcomes(lab, "CANCELLED") == ["cancelled", "completed"]
    unsay(alone, slurm, "run", "lab.yaml", *ON, "--executor", "inline")
    assert crash.results(lab) == crash.results(alone)
    assert len(crash.folders(lab)) == 12
    for folder in crash.folders(lab).values():
        assert set(Counter(trace.key for trace in read.traces(folder)).values()) == {1}
        assert not (folder / layout.TICKET).exists()
        attempt = (read.record(folder) or record(lab, "USES")).attempts[-1]
        assert attempt.hardware["executor"] == "slurm"
        assert attempt.hardware["job"]
        assert (folder / str(attempt.log)).is_file()
    assert call(slurm, "squeue", "--noheader") == ""
    assert not list((lab / "outputs").rglob("*.pkl"))


def ids_of(lab: Path, environment: dict[str, str]) -> list[str]:
    plan = unsay(lab, environment, "run", "lab.yaml", "--dry-run")
    return [row["id"] or os.path.relpath(row["result_folder"], plan["output_dir"]) for row in plan["experiments"]]


def test_a_job_that_waits_is_cancelled_and_one_that_vanished_is_said_so(tmp_path: Path, slurm: dict[str, str]) -> None:
    lab = make(tmp_path / "lab", {"id": "A"} | answers(2), {"id": "B"} | answers(3), items=4)
    held = ("--option", "extra={hold: true}")
    queued = by_id(unsay(lab, slurm, "run", "lab.yaml", *ON, *held))
    again = by_id(unsay(lab, slurm, "run", "lab.yaml", *ON, *held))
    jobs = {id: row["job"]["job"] for id, row in queued.items()}
    assert {id: row["job"]["job"] for id, row in again.items()} == jobs, "submitted twice"
    assert by_id(unsay(lab, slurm, "status"))["A"]["job"]["standing"] == "PENDING, JobHeldUser"
    (did,) = unsay(lab, slurm, "cancel", "A")["experiments"]
    assert (did["status"], did["did"]) == ("cancelled", "cancelled")
    assert call(slurm, "squeue", "--noheader", "--format=%i").split() == [jobs["B"]]

    call(slurm, "scancel", jobs["B"])
    text = start(lab, slurm, "status").communicate(timeout=60)[0]
    assert f"pending (slurm job {jobs['B']}: gone from the queue: CANCELLED)" in text
    assert f"B: slurm job {jobs['B']} is gone without a word; what its shell printed:" in text
    ended = by_id(unsay(lab, slurm, "run", "lab.yaml", *ON, "--wait"))
    assert {row["outcome"] for row in ended.values()} == {"completed"}


def test_a_job_whose_setup_fails_or_that_is_killed_says_so(tmp_path: Path, slurm: dict[str, str]) -> None:
    lab = make(tmp_path / "lab", {"id": "A"} | answers(200))
    broken = ("--option", "setup=[echo nothing works here, exit 3]")
    row = by_id(unsay(lab, slurm, "run", "lab.yaml", *ON, "--wait", *broken, code=1))["A"]
    assert (row["outcome"], row["status"]) == ("failed", "failed")
    assert "ended as FAILED before the experiment began (look at `setup:` and `python:`)" in row["outcome_error"]
    output = Path(row["outcome_error"].rpartition("its shell's output: ")[2])
    assert output.read_text().splitlines()[0] == "nothing works here"

    queued = by_id(unsay(lab, slurm, "run", "lab.yaml", *ON))["A"]["job"]["job"]
    until(lambda: answered(lab, "A") >= 2, "no answers")
    waits = start(lab, slurm, "run", "lab.yaml", *ON, "--wait", "--json")
    time.sleep(3.0)
    call(slurm, "scancel", "--signal=KILL", "--batch", queued)
    row = by_id(json.loads(waits.communicate(timeout=PATIENCE)[0]))["A"]
    assert row["status"] == "failed"
    assert f"Slurm job {queued} ended as FAILED" in row["outcome_error"]


def test_waiting_ends_with_a_signal_and_the_jobs_go_on(tmp_path: Path, slurm: dict[str, str]) -> None:
    lab = make(tmp_path / "lab", {"id": "A"} | answers(60))
    waits = start(lab, slurm, "run", "lab.yaml", *ON, "--wait")
    until(lambda: "A" in crash.folders(lab) and answered(lab, "A") >= 2, "no answers")
    waits.send_signal(15)
    _, err = waits.communicate(timeout=60)
    assert waits.returncode == 1
    assert "A queued (slurm job " in err
    until(lambda: record(lab, "A").status == "completed", "it did not go on")
    assert outcomes(lab, "A") == ["completed"]


def test_a_printed_script_runs_the_plan(tmp_path: Path, slurm: dict[str, str]) -> None:
    lab = make(
        tmp_path / "lab", {"id": "T", "method": "sft", "config": "short"}, {"id": "B"} | answers(3),
        {"id": "U", "model": "T", "method": "vanilla", "config": "fewshot_0", "decode": {"max_new_tokens": 3}}, items=4,
    )  # fmt: skip
    done = start(lab, slurm, "run", "lab.yaml", *ON, "--print-script").communicate(timeout=60)
    (lab / "batch.sh").write_text(done[0])
    assert not (lab / "outputs").exists(), "printing a script changes nothing"
    call(slurm, "sbatch", f"--chdir={lab}", str(lab / "batch.sh"))
    until(lambda: crash.folders(lab) if (lab / "outputs").exists() else {}, "nothing began")
    for id in ("T", "U", "B"):
        until(lambda id=id: record(lab, id).status == "completed", f"{id}: {list(lab.glob('*.out'))}")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["partition=mian"], "unknown partition 'mian'; did you mean 'main'"),
        (["partition=night"], "partition night is down"),
        (["gpus=1"], "gpus is 1, but no node in partition main has that many; the nodes there have no GPUs"),
        (["cpus=64"], "cpus is 64, but the largest node in partition main has 2"),
        (["memory=64G"], "memory is 64G, but the largest node in partition main has 4000 MiB"),
        (["time=90"], "time is 90, but in partition main a job may take at most 1:00:00"),
        (["constraint=smal"], "unknown feature 'smal'; did you mean 'small'"),
        (["extra={reservation: demo}"], "refuses such a job: allocation failure: Requested reservation is invalid"),
    ],
)  # fmt: skip
def test_what_the_cluster_cannot_do_is_told_before_anything_is_written(
    options: list[str], said: str, tmp_path: Path, slurm: dict[str, str]
) -> None:
    lab = make(tmp_path / "lab", {"id": "A"} | answers(2), items=4)
    words = [word for option in options for word in ("--option", option)]
    process = start(lab, slurm, "run", "lab.yaml", *words)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said in err
    assert not (lab / "outputs").exists()
