"""What a Slurm job runs: one experiment, stopped in time before the job's limit, queued again where that is allowed.

    python -m unsay.executors._slurm_job 0001.job.json

Slurm sends SIGUSR2 some time before the time limit, and SIGTERM when a job is cancelled, preempted or queued again;
`scontrol` tells which. However it ends, the record says so and what was finished can be gone on with.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from types import FrameType

from unsay import cores

os.environ.setdefault(*cores.POLITE)
# as many threads as the job was given processors
if "SLURM_CPUS_PER_TASK" in os.environ:
    os.environ.setdefault(cores.OMP_NUM_THREADS, os.environ["SLURM_CPUS_PER_TASK"])

from unsay import worker
from unsay.errors import ExecutorError, UnsayError
from unsay.executors import Outcome, _slurm
from unsay.job import Event, Job
from unsay.redaction import redact_output
from unsay.store import claims, layout, stopping, tickets
from unsay.store.tickets import Ticket

WARNING = signal.SIGUSR2
"""Comes before the time limit."""

_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, WARNING)
_BUSY_FOR = claims.LOST_AFTER + 60.0
"""Seconds to wait for a folder: until the claim of a node that died counts as dead."""
_LOOK_AGAIN = 5.0


@dataclass(frozen=True)
class _Place:
    """This job. `number` is what people and tickets call it, `raw` what `scontrol` requeues."""

    number: str
    raw: str
    restarts: int

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> _Place:
        raw = environment["SLURM_JOB_ID"]
        array, task = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
        number = f"{array}_{task}" if array and task else raw
        return cls(number, raw, int(environment.get("SLURM_RESTART_COUNT") or 0))


def main() -> int:
    value = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    timeouts_allowed = int(value.pop("requeues"))
    place = _Place.of(os.environ)
    job = Job.from_json(value)
    job = replace(job, place={**job.place, "job": place.number, "restarts": place.restarts})
    ticket = tickets.of(job.result_folder)
    if ticket is None or ticket.job not in ("", place.number):
        print("cancelled, or submitted again as another job, while this one was waiting")
        return 0
    log = _into_log(job)
    faulthandler.enable()
    redact_output()
    ticket = replace(ticket, job=place.number)
    tickets.leave(job.result_folder, ticket)
    with _asked() as asked:
        try:
            outcome = _carry_out(job, log)
        except KeyboardInterrupt as error:  # outside of the experiment: it was not begun, or has ended
            outcome = Outcome("cancelled", str(error), log)
    if outcome.status != "cancelled":
        tickets.drop(job.result_folder, place.number)
        return 0 if outcome.status == "completed" else 1
    return _stopped(job, ticket, place, outcome, asked, timeouts_allowed)


def _carry_out(job: Job, log: Path) -> Outcome:
    """Carry out the experiment; wait for its folder as long as a dead node's claim may hold it."""
    deadline = time.monotonic() + _BUSY_FOR
    while True:
        outcome = worker.carry_out(job, _nobody_listens, log=log)
        if outcome.status != "busy" or time.monotonic() > deadline:
            print(f"{worker.now()} {outcome.status}", outcome.error or "", flush=True)
            return outcome
        print(f"{worker.now()} waits: {outcome.error}", flush=True)
        time.sleep(_LOOK_AGAIN)


def _stopped(
    job: Job, ticket: Ticket, place: _Place, outcome: Outcome, asked: list[signal.Signals], allowed: int
) -> int:
    """Decide what becomes of an experiment that was stopped: cancelled, queued again, or failed at its time limit."""
    folders = job.folder, job.result_folder
    why, facts = outcome.error or "", _facts(place)
    if why.startswith(stopping.CALLED_OFF):
        tickets.drop(job.result_folder)
        return 1
    out_of_time = WARNING in asked or facts.get("Reason") == "TimeLimit" or facts.get("JobState") == "TIMEOUT"
    ending = facts.get("JobState") not in ("RUNNING", None)
    if out_of_time:
        limit = facts.get("TimeLimit", "its limit")
        if ticket.timeouts >= allowed:
            times = f" {ticket.timeouts + 1} times" if ticket.timeouts else ""
            why = (
                f"Slurm job {place.number} came to its time limit ({limit}){times}; `requeues` allows {allowed}. What "
                "it finished stays: give it more `time` or `requeues`, and run the same command again"
            )
            _write(lambda: stopping.close(*folders, "failed", why, of=("running", "cancelled", "pending"), wait=5.0))
            tickets.drop(job.result_folder)
            return 1
        ticket = replace(ticket, timeouts=ticket.timeouts + 1)
        why = f"time limit of Slurm job {place.number} ({limit}); queued again ({ticket.timeouts} of {allowed})"
    elif int(facts.get("Restarts") or 0) > place.restarts:
        why, ending = f"Slurm job {place.number} was queued again", True
    elif ending:  # by `scancel`
        tickets.drop(job.result_folder)
        return 1
    else:  # still running by Slurm's count: it is being preempted, or its node goes down
        why = f"Slurm job {place.number} was told to make room ({why}); queued again"
    _write(lambda: stopping.put_back(*folders, why, wait=5.0))
    tickets.leave(job.result_folder, ticket)
    print(f"{worker.now()} {why}", flush=True)
    if not ending or out_of_time:
        try:
            _slurm.requeue(place.raw)
        except ExecutorError as error:
            why = f"Slurm job {place.number} could not be queued again: {error}"
            _write(lambda: stopping.close(*folders, "failed", why, of=("pending",), wait=5.0))
            tickets.drop(job.result_folder)
    return 1


def _write(change: Callable[[], object]) -> None:
    """Change the record; whoever has the folder meanwhile has the last word."""
    try:
        change()
    except UnsayError as error:
        print(f"{worker.now()} {error}", flush=True)


def _facts(place: _Place) -> Mapping[str, str]:
    with suppress(ExecutorError):
        return _slurm.facts(place.raw)
    return {}


def _into_log(job: Job) -> Path:
    """Send what is printed from here on into a log of the experiment; return where it is."""
    stamp = datetime.now().strftime("%Y-%m-%dT%H-%M-%S.%f")
    log = layout.logs(job.result_folder) / f"{stamp}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    print(f"the log of this attempt is {log}", flush=True)
    for target in (1, 2):
        os.dup2(descriptor, target)
    os.close(descriptor)
    return log


@contextmanager
def _asked() -> Iterator[list[signal.Signals]]:
    """Turn the first signal that asks to stop into a KeyboardInterrupt; the list gets every one that came."""
    came: list[signal.Signals] = []

    def come(signum: int, frame: FrameType | None) -> None:
        came.append(signal.Signals(signum))
        if len(came) == 1:  # the next must not hit while it is written down where the work stopped
            what = "its time limit is near" if signum == WARNING else signal.Signals(signum).name
            raise worker.Stopped(f"stopped by {what}")

    for each in _STOPS:
        signal.signal(each, come)
    try:
        yield came
    finally:
        if not came:  # done: nothing is left to stop
            for each in _STOPS:
                signal.signal(each, signal.SIG_IGN)


def _nobody_listens(event: Event) -> None:
    """The result folder's heartbeat says how far it is."""


if __name__ == "__main__":
    sys.exit(main())
