"""What Slurm is told and what it says, without a cluster: commands that answer as it does, on a path of their own.

`tests/e2e/test_slurm.py` does the same with a real one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unsay import cli, config, runner
from unsay.errors import ConfigError, ExecutorError
from unsay.executors import _slurm, _slurm_job, slurm
from unsay.executors.slurm import Slurm
from unsay.job import Job
from unsay.placement import Placement
from unsay.records import Attempt, ExperimentRecord
from unsay.store import layout, read, stopping, tickets, write
from unsay.store.tickets import Ticket

GPU_NODES = """gpu*|up|1-00:00:00|32|256000|gpu:a100:4(S:0-1)|big,fast|node[1-4]
gpu*|up|1-00:00:00|16|128000|gpu:v100:2|fast|node[5-8]
cpu|up|infinite|64|512000|(null)|(null)|node[9-12]
old|down|infinite|8|16000|(null)|(null)|node13
"""
SBATCH = """
import json, os, pathlib, sys
here = pathlib.Path(__file__).parent
if "--test-only" in sys.argv:
    (here / "tested.sh").write_text(sys.stdin.read())
    sys.exit(0)
submitted = here / "submitted"
submitted.mkdir(exist_ok=True)
number = 100 + len(list(submitted.iterdir()))
if number - 100 >= int((here / "room").read_text()):
    print("sbatch: error: QOSMaxSubmitJobPerUserLimit", file=sys.stderr)
    sys.exit(1)
(submitted / f"{number}.sh").write_text(pathlib.Path(sys.argv[1]).read_text())
print(f"Submitted batch job {number}")
"""


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return what puts Slurm's commands on the path, with these answers; each writes down how it was called."""
    folder = tmp_path / "bin"

    def put(nodes: str = GPU_NODES, queue: str = "", room: int = 99, **others: str) -> Path:
        folder.mkdir(exist_ok=True)
        (folder / "room").write_text(str(room))
        (folder / "sbatch.py").write_text(SBATCH)
        answers = {"sinfo": nodes, "squeue": queue, "scancel": "", "scontrol": "", "srun": "", **others}
        for name, answer in answers.items():
            (folder / f"{name}.txt").write_text(answer)
            script = f'#!/bin/sh\necho "$@" >> {folder}/{name}.calls\ncat {folder}/{name}.txt\n'
            (folder / name).write_text(script)
        (folder / "sbatch").write_text(f'#!/bin/sh\nexec {sys.executable} {folder}/sbatch.py "$@"\n')
        for name in (*answers, "sbatch"):
            (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
        return folder

    return put


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> config.Plan:
    monkeypatch.chdir(tmp_path)
    experiments = [
        {"id": "TRAIN", "method": "sft", "config": "lora/train"},
        {"id": "ALONE", "method": "vanilla", "config": "fewshot_0"},
        {"id": "USES", "model": "TRAIN", "method": "vanilla", "config": "fewshot_0"},
        {"id": "SHARES", "method": "sft", "config": "lora/train", "decode": {"max_new_tokens": 7}},
        {"id": "OTHER", "method": "vanilla", "config": "fewshot_1"},
    ]
    lines = [{"model": "unsay-tiny", "dataset": "wordproblems"} | each for each in experiments]
    Path("lab.yaml").write_text(json.dumps({"experiments": lines}))
    return config.load(Path("lab.yaml"))


def jobs_of(plan: config.Plan, **options: Any) -> list[Job]:
    chosen = runner.Options(Placement("slurm"), **options)
    return [runner.job_of(plan, each, chosen) for each in plan.experiments]


def never() -> bool:
    return False


# -- options ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"time": "soon"}, "time: expected a value such as 30 (minutes)"),
        ({"memory": "lots"}, "memory: expected a value such as 32G"),
        ({"gpus": "a100"}, "gpus: expected a value such as 1 or a100:2"),
        ({"gpus": 0}, "gpus: expected a value such as"),
        ({"cpus": 0}, "cpus must be at least 1; got 0"),
        ({"requeues": -1}, "requeues must be at least 0"),
        ({"time": "1"}, "warning (90 s) must be shorter than time (1: 60 s)"),
        ({"parallel": 3}, "write `array: true` beside it"),
        ({"extra": {"cpus-per-task": 3}}, "extra: cpus-per-task is an option of its own"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Slurm(**options)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 1800), ("30:15", 1815), ("4:00:00", 14_400), ("2-0", 172_800), ("1-12:30", 131_400), ("1-0:0:1", 86_401)],
)
def test_times_are_those_of_sbatchs_manual(text: str, seconds: int) -> None:
    assert _slurm.seconds(text) == seconds
    assert _slurm.seconds("infinite") is None
    with pytest.raises(ValueError, match="4h"):
        _slurm.seconds("4h")


def test_sizes() -> None:
    assert [_slurm.mebibytes(text) for text in ("4000", "32G", "1T", "64MB", "2048K")] == [4000, 32768, 1048576, 64, 2]


# -- before anything is submitted -------------------------------------------------


def checked(commands: Callable[..., Path], jobs: list[Job], nodes: str = GPU_NODES, **options: Any) -> list[str]:
    commands(nodes)
    return Slurm(**{"shared": True} | options).check(jobs)


def test_what_fits_is_fine_and_slurm_is_asked_with_the_very_script(
    commands: Callable[..., Path], plan: config.Plan
) -> None:
    asked = {"gpus": "a100:4", "time": "1-0", "memory": "250000M", "constraint": "big", "account": "me"}
    assert checked(commands, jobs_of(plan), **asked) == []
    assert "#SBATCH --account=me\n" in (commands() / "tested.sh").read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"partition": "gpus"}, "unknown partition 'gpus'; did you mean 'gpu'? there are: cpu, gpu, old"),
        ({"partition": "old"}, "partition old is down"),
        ({"gpus": 5}, "gpus is 5, but no node in partition gpu has that many; the nodes there have a100:4, v100:2"),
        ({"gpus": "v100:3"}, "gpus is v100:3, but no node in partition gpu has that many"),
        ({"gpus": 1, "partition": "cpu"}, "the nodes there have no GPUs"),
        ({"cpus": 33}, "cpus is 33, but the largest node in partition gpu has 32"),
        ({"memory": "1T"}, "memory is 1T, but the largest node in partition gpu has 256000 MiB"),
        ({"time": "2-0"}, "time is 2-0, but in partition gpu a job may take at most 1-0:00:00"),
        ({"constraint": "fats"}, "constraint: unknown feature 'fats'; did you mean 'fast'?"),
        ({"shared": False}, "expected the lab folder where the nodes (node[1-4], node[5-8]) see it, got"),
    ],
)
def test_what_the_cluster_does_not_have(
    options: dict[str, Any],
    said: str,
    commands: Callable[..., Path],
    plan: config.Plan,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(slurm, "_file_system", lambda path: "ext4")
    found = checked(commands, jobs_of(plan), **options)
    assert said in "\n".join(found), found


def test_a_partition_without_a_limit_takes_any_time(commands: Callable[..., Path], plan: config.Plan) -> None:
    assert checked(commands, jobs_of(plan), partition="cpu,gpu", time="9-0") == []


def test_there_is_no_default_partition(commands: Callable[..., Path], plan: config.Plan) -> None:
    (said,) = checked(commands, jobs_of(plan), nodes=GPU_NODES.replace("*", ""))
    assert "no default partition; write `partition:`, one of cpu, gpu, old" in said


def test_devices_that_the_jobs_do_not_ask_for(commands: Callable[..., Path], plan: config.Plan) -> None:
    assert "needs GPUs, but the jobs ask for none" in checked(commands, jobs_of(plan, device="cuda"))[0]
    together = {"num_processes": 4, "distributed_type": "MULTI_GPU"}
    said = checked(commands, jobs_of(plan, processes=together), gpus=2)[0]
    assert "4 processes train together, one per GPU, but a job asks for gpus: 2" in said


def test_the_only_node_sees_every_folder(
    commands: Callable[..., Path], plan: config.Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "_file_system", lambda path: "ext4")
    alone = f"main*|up|infinite|4|8000|(null)|(null)|{os.uname().nodename}\n"
    assert checked(commands, jobs_of(plan), nodes=alone, shared=False) == []


def test_file_systems_of_this_machine_have_a_kind(tmp_path: Path) -> None:
    assert slurm._file_system(Path("/proc")) == "proc"
    assert slurm._file_system(tmp_path / "not" / "there") == slurm._file_system(tmp_path)


def test_no_slurm_and_one_that_does_not_answer(
    commands: Callable[..., Path], plan: config.Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = commands()
    (folder / "sinfo").write_text(
        "#!/bin/sh\necho slurm_load_partitions: Unable to contact slurm controller >&2; exit 1\n"
    )
    (said,) = Slurm().check(jobs_of(plan))
    assert "Slurm does not answer (slurm_load_partitions: Unable to contact slurm controller)" in said
    monkeypatch.setenv("PATH", "/nowhere")
    (said,) = Slurm().check(jobs_of(plan))
    assert "there is no sbatch, squeue, scancel, scontrol, sinfo. Do this on a login node" in said


def test_a_run_says_so_before_it_writes_anything(
    plan: config.Plan, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert cli.main(["run", "lab.yaml", "--executor", "slurm"]) == 1
    assert "expected Slurm's commands on the path" in capsys.readouterr().err
    assert not Path("outputs").exists()


def test_trying_again_needs_somebody_who_waits(
    commands: Callable[..., Path], plan: config.Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    commands()
    words = ["run", "lab.yaml", "--executor", "slurm", "--option", "shared=true", "--retries", "2"]
    assert cli.main(words) == 1
    assert "--retries needs --wait here" in capsys.readouterr().err
    assert not Path("outputs").exists()


# -- what is submitted ------------------------------------------------------------

SCRIPT = """#!/bin/bash

# Parameters
#SBATCH --account=me
#SBATCH --cpus-per-task=4
#SBATCH --gpus-per-node=a100:1
#SBATCH --job-name=unsay-TRAIN
#SBATCH --mem=32G
#SBATCH --nodes=1
#SBATCH --open-mode=append
#SBATCH --output=FOLDER/%j.out
#SBATCH --partition=gpu
#SBATCH --qos=high
#SBATCH --requeue
#SBATCH --reservation=demo
#SBATCH --signal=B:USR2@60
#SBATCH --time=4:00:00

# setup
module load cuda
source env

# command
export SUBMITIT_EXECUTOR=slurm
trap '' USR2
exec PYTHON -u -m unsay.executors._slurm_job FOLDER/00001.job.json
"""


def test_the_script_is_what_it_should_be(commands: Callable[..., Path], plan: config.Plan) -> None:
    folder = commands()
    executor = Slurm(
        partition="gpu", account="me", qos="high", time="4:00:00", gpus="a100:1", cpus=4, memory="32G", warning=60,
        setup=("module load cuda", "source env"), extra={"reservation": "demo"},
    )  # fmt: skip
    (queued,) = executor.submit_all(jobs_of(plan)[:1], never)
    (where,) = (plan.output_dir / layout.SUBMITTED).iterdir()
    script = (folder / "submitted" / "100.sh").read_text()
    assert script.replace(str(where), "FOLDER").replace(sys.executable, "PYTHON") == SCRIPT
    assert sorted(path.name for path in where.iterdir()) == ["00001.job.json", "100_submission.sh"]
    value = json.loads((where / "00001.job.json").read_text())
    assert value.pop("requeues") == 3
    assert Job.from_json(value) == jobs_of(plan)[0]
    ticket = tickets.of(queued.job.result_folder)
    assert ticket is not None
    assert (ticket.executor, ticket.job) == ("slurm", "100")
    assert (queued.job.result_folder / str(ticket.output)).resolve() == where / "100.out"


def after(script: Path) -> str | None:
    lines = [line for line in script.read_text().splitlines() if "--dependency" in line]
    return lines[0].rpartition("=")[2].removeprefix("afterany:") if lines else None


def test_what_needs_a_training_comes_after_it(commands: Callable[..., Path], plan: config.Plan) -> None:
    folder = commands() / "submitted"
    queued = list(Slurm().submit_all(jobs_of(plan), never))
    assert [each.ticket.job for each in queued] == ["100", "101", "102", "103", "104"]
    # SHARES writes where TRAIN does, and USES reads there meanwhile
    assert [after(folder / f"{n}.sh") for n in range(100, 105)] == [None, None, "100", "100:102", None]


def test_an_array_has_what_needs_nothing(commands: Callable[..., Path], plan: config.Plan) -> None:
    folder = commands() / "submitted"
    queued = {
        each.job.experiment.id: each.ticket.job
        for each in Slurm(array=True, parallel=2).submit_all(jobs_of(plan), never)
    }
    assert queued == {"TRAIN": "100_0", "ALONE": "100_1", "OTHER": "100_2", "USES": "101", "SHARES": "102"}
    script = (folder / "100.sh").read_text()
    assert "#SBATCH --array=0-2%2\n" in script
    (where,) = (plan.output_dir / layout.SUBMITTED).iterdir()
    assert f"#SBATCH --output={where}/%A_%a.out\n" in script
    ticket = tickets.of(jobs_of(plan)[1].result_folder)
    assert ticket is not None
    assert (jobs_of(plan)[1].result_folder / str(ticket.output)).resolve() == where / "100_1.out"
    assert script.rstrip().endswith('/array/\'"$SLURM_ARRAY_TASK_ID".job.json') or script.rstrip().endswith(
        '/array/"$SLURM_ARRAY_TASK_ID".job.json'
    )
    assert [after(folder / f"{n}.sh") for n in (101, 102)] == ["100_0", "100_0:101"]


def test_what_is_in_the_queue_is_not_submitted_again(commands: Callable[..., Path], plan: config.Plan) -> None:
    jobs = jobs_of(plan)
    commands(queue="77|PENDING|Priority|\n78|TIMEOUT|None|node1\n")
    tickets.leave(jobs[0].result_folder, Ticket("slurm", "77", "2026-01-01T00:00:00+00:00"))
    tickets.leave(jobs[1].result_folder, Ticket("slurm", "78", "2026-01-01T00:00:00+00:00"))
    queued = list(Slurm().submit_all(jobs[:3], never))
    assert [each.ticket.job for each in queued] == ["77", "100", "101"]
    assert after(commands() / "submitted" / "101.sh") == "77"


def test_a_queue_that_is_full_keeps_what_it_took(commands: Callable[..., Path], plan: config.Plan) -> None:
    commands(room=2)
    jobs = jobs_of(plan)
    with pytest.raises(ExecutorError, match="sbatch refused unsay-USES: sbatch: error: QOSMaxSubmitJobPerUserLimit"):
        list(Slurm().submit_all(jobs, never))
    assert [tickets.of(job.result_folder) is not None for job in jobs] == [True, True, False, False, False]


def test_what_is_submitted_again_waits(commands: Callable[..., Path], plan: config.Plan) -> None:
    commands()
    job = jobs_of(plan)[1]
    put(job, "failed")
    list(Slurm().submit_all([job], never))
    record = read.record(job.result_folder)
    assert record is not None
    assert (record.status, record.attempts[-1].outcome) == ("pending", "failed")


def test_a_printed_script_has_a_task_for_what_belongs_together(
    commands: Callable[..., Path],
    plan: config.Plan,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    words = ["run", "lab.yaml", "--print-script", "--limit", "5", "--dtype", "float32", "--force"]
    assert cli.main([*words, "--executor", "slurm", "--option", "time=60"]) == 0
    script = capsys.readouterr().out
    assert "#SBATCH --time=60\n" in script
    assert "#SBATCH --array=1-3%3\n" in script
    assert "#SBATCH --signal=B:TERM@90\n" in script
    tasks = [line.split("unsay run ")[1].split() for line in script.splitlines() if "unsay run" in line]
    assert [[word for word in task if word.isupper()] for task in tasks] == [
        ["ALONE"],
        ["TRAIN", "USES", "SHARES"],
        ["OTHER"],
    ]
    end = "--executor local --output-dir OUT --limit 5 --force --dtype float32 ;;".replace("OUT", str(plan.output_dir))
    assert all(" ".join(task).endswith(end) for task in tasks)
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=True).returncode == 0
    wrong = subprocess.run(["bash", "-s", "9"], input=script, text=True, capture_output=True, check=False)
    assert (wrong.returncode, wrong.stderr) == (2, "expected a task from 1 to 3, got: 9\n")
    assert not Path("outputs").exists()


# -- how jobs end -----------------------------------------------------------------


def put(job: Job, status: str, error: str | None = None) -> None:
    outcome = None if status == "running" else status
    attempt = Attempt("2026-01-01T00:00:00+00:00", "node1", 1, "boot", outcome=outcome, error=error)
    record = ExperimentRecord("ALONE", "m", "d", "vanilla", "c", 0, status, "", {}, attempts=(attempt,))
    write.write_json(job.result_folder / layout.EXPERIMENT, record.to_json())


@pytest.mark.parametrize(
    ("queue", "status", "said", "passes"),
    [
        ("", "failed", "Slurm job 5 is gone from Slurm's queue; its shell's output:", True),
        ("5|OUT_OF_MEMORY|None|node1\n", "failed", "ended as OUT_OF_MEMORY (give it more `memory:`)", True),
        ("5|NODE_FAIL|None|node1\n", "failed", "ended as NODE_FAIL", True),
        ("5|FAILED|None|node1\n", "failed", "before the experiment began (look at `setup:`", False),
        ("5|CANCELLED|None|node1\n", "cancelled", "ended as CANCELLED", False),
    ],
)
def test_a_job_that_ended_without_a_word_is_written_down(
    queue: str, status: str, said: str, passes: bool, commands: Callable[..., Path], plan: config.Plan,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(slurm, "_SETTLES", 0.0)
    commands(queue=queue)
    job = jobs_of(plan)[1]
    put(job, "running")
    ticket = Ticket("slurm", "5", "2026-01-01T00:00:00+00:00", "../5.out")
    tickets.leave(job.result_folder, ticket)
    one = slurm._One(Slurm(), slurm.Queued(job, ticket), lambda event: None)
    monkeypatch.setattr(slurm, "_LOOK", (0.0, 0.0))
    outcome = one.wait()
    assert (outcome.status, outcome.may_pass) == (status, passes)
    assert said in str(outcome.error)
    record = read.record(job.result_folder)
    assert record is not None
    assert (record.status, said in str(record.attempts[-1].error)) == (status, True)
    assert tickets.of(job.result_folder) is None


def test_a_job_that_said_how_it_ended_is_believed(
    commands: Callable[..., Path], plan: config.Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "_LOOK", (0.0, 0.0))
    commands(queue="5|COMPLETED|None|node1\n")
    job = jobs_of(plan)[1]
    put(job, "failed", "no such column")
    outcome = slurm._One(Slurm(), slurm.Queued(job, Ticket("slurm", "5", "")), lambda event: None).wait()
    assert (outcome.status, outcome.error) == ("failed", "no such column")


def test_a_job_whose_ticket_is_gone_does_nothing(plan: config.Plan, tmp_path: Path) -> None:
    job = jobs_of(plan)[1]
    (tmp_path / "a.job.json").write_text(json.dumps(job.to_json() | {"requeues": 1}))
    command = [sys.executable, "-m", "unsay.executors._slurm_job", str(tmp_path / "a.job.json")]
    environment = {**os.environ, "SLURM_JOB_ID": "12"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "cancelled, or submitted again as another job, while this one was waiting\n"
    tickets.leave(job.result_folder, Ticket("slurm", "13", ""))
    assert subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout == done.stdout
    assert not (job.result_folder / layout.EXPERIMENT).exists()


@pytest.mark.parametrize(
    ("facts", "timeouts", "status", "said", "requeued"),
    [
        ("JobState=RUNNING Reason=None Restarts=0 TimeLimit=00:10:00", 0, "pending", "queued again (1 of 2)", True),
        ("JobState=RUNNING Reason=None Restarts=0 TimeLimit=00:10:00", 2, "failed", "`requeues` allows 2", False),
    ],
)
def test_a_job_at_its_time_limit_is_queued_again_so_often(
    facts: str, timeouts: int, status: str, said: str, requeued: bool, commands: Callable[..., Path], plan: config.Plan
) -> None:
    folder, job = commands(scontrol=facts), jobs_of(plan)[1]
    put(job, "cancelled", "stopped by its time limit is near")
    ticket = Ticket("slurm", "12", "", timeouts=timeouts)
    tickets.leave(job.result_folder, ticket)
    place = _slurm_job._Place("12", "12", 0)
    outcome = slurm.Outcome("cancelled", "stopped", None)
    assert _slurm_job._stopped(job, ticket, place, outcome, [_slurm_job.WARNING], 2) == 1
    record = read.record(job.result_folder)
    assert record is not None
    assert (record.status, said in str(record.attempts[-1].error)) == (status, True)
    assert ("requeue 12" in (folder / "scontrol.calls").read_text()) == requeued
    left = tickets.of(job.result_folder)
    assert (left is not None and left.timeouts == timeouts + 1) == requeued


@pytest.mark.parametrize(
    ("facts", "error", "status", "requeued"),
    [
        (
            "JobState=RUNNING Restarts=0",
            "stopped by SIGTERM",
            "pending",
            True,
        ),  # preempted, while it may still end well
        ("JobState=COMPLETING Restarts=1", "stopped by SIGTERM", "pending", False),  # queued again by Slurm
        ("JobState=COMPLETING Restarts=0", "stopped by SIGTERM", "cancelled", False),  # scancel
        ("JobState=RUNNING Restarts=0", f"{stopping.CALLED_OFF} (by x:1)", "cancelled", False),
    ],
)
def test_a_job_that_is_told_to_end_asks_why(
    facts: str, error: str, status: str, requeued: bool, commands: Callable[..., Path], plan: config.Plan
) -> None:
    folder, job = commands(scontrol=facts), jobs_of(plan)[1]
    put(job, "cancelled", error)
    ticket = Ticket("slurm", "12", "")
    tickets.leave(job.result_folder, ticket)
    outcome = slurm.Outcome("cancelled", error, None)
    _slurm_job._stopped(job, ticket, _slurm_job._Place("12", "12", 0), outcome, [], 2)
    record = read.record(job.result_folder)
    assert record is not None
    assert record.status == status
    assert ("requeue 12" in (folder / "scontrol.calls").read_text()) == requeued
    assert (tickets.of(job.result_folder) is not None) == (status == "pending")


@pytest.mark.parametrize(
    "written",
    ["", "[]", "{}", '{"executor": "slurm"}', '{"executor": "slurm", "job": "1", "submitted": "", "timeouts": "many"}'],
)
def test_a_ticket_that_cannot_be_read_is_none(written: str, tmp_path: Path) -> None:
    (tmp_path / layout.TICKET).write_text(written)
    assert tickets.of(tmp_path) is None


def test_a_job_takes_away_no_other_ones_ticket(tmp_path: Path) -> None:
    tickets.leave(tmp_path, Ticket("slurm", "13", ""))
    tickets.drop(tmp_path, "12")
    assert tickets.of(tmp_path) is not None
    tickets.drop(tmp_path, "13")
    assert tickets.of(tmp_path) is None


def test_only_numbers_of_jobs_reach_slurm(commands: Callable[..., Path]) -> None:
    folder = commands(queue="12|RUNNING|None|node1\n")
    hostile = ["--user=root", "12", "13_4", "1 2", "12;reboot", "\u0661"]
    Slurm().stop(hostile)
    assert (folder / "scancel.calls").read_text() == "12 13_4\n"
    Slurm().stop(["--state=RUNNING"])
    assert (folder / "scancel.calls").read_text() == "12 13_4\n"
    assert str(Slurm().look(hostile)["12"].text) == "RUNNING on node1"
    assert "--jobs=12,13_4" in (folder / "squeue.calls").read_text()


def test_status_shows_a_ticket_of_anything_without_asking(
    commands: Callable[..., Path], plan: config.Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    commands()
    job = jobs_of(plan)[1]
    put(job, "pending")
    tickets.leave(job.result_folder, Ticket("no\x1b[31msuch", "7\x07", "", "../\x1b]0;x\x07out"))
    assert cli.main(["status"]) == 0
    shown = capsys.readouterr().out
    assert "pending (no" in shown
    assert "\x1b" not in shown
    tickets.leave(job.result_folder, Ticket("slurm", "7", "", "../\x1b]0;x\x07out"))
    assert cli.main(["status"]) == 0
    shown = capsys.readouterr().out
    assert "pending (slurm job 7: gone from the queue)" in shown
    assert "ALONE: slurm job 7 is gone without a word" in shown
    assert "\x1b" not in shown


def test_submitits_log_leaves_those_of_others_open() -> None:
    program = """
import io, logging
from unsay.executors.slurm import Slurm

closed = []

class Handler(logging.StreamHandler):
    def close(self):
        closed.append(self)
        super().close()

logging.getLogger().addHandler(Handler(io.StringIO()))
import submitit
assert Slurm and not closed
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
