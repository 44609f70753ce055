"""One file per place an experiment can run. Executors know jobs, not methods.

The contract: a module `executors/<name>.py` holds one frozen dataclass whose fields are its options, with

    at_once                            how many jobs may be in flight at a time; None: as many as there are
    check(jobs) -> mistakes            what is wrong with where it runs, told before anything is registered or submitted
    submit(job, report) -> Running     start the job; `report` is called with every event of the worker, from any thread

`submit` is called in the main thread, `wait` in a thread for each job, `cancel` and `kill` from anywhere. A failing job
ends with status `failed`, its last error and the path of its log; it never raises. Options have defaults; ConfigError
where they contradict each other. A file imports the library it needs inside its functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from unsay.job import Job, Report


@dataclass(frozen=True)
class Outcome:
    """How a job ended: `status` is completed, failed, cancelled, or `busy` where another process is at work on it."""

    status: str
    error: str | None
    log: Path | None
    may_pass: bool = False
    """Whether a failure is of a kind that trying again may get over."""
    silent: bool = False
    """Whether the worker was gone before it could write down how it ended."""


class Running(Protocol):
    """A job that was submitted."""

    def wait(self) -> Outcome:
        """Block until the job has ended."""
        ...

    def cancel(self) -> None:
        """Ask the job to stop; what it finished stays and can be resumed."""
        ...

    def kill(self) -> None:
        """End the job at once, whatever it is doing; what it finished stays, too."""
        ...


class Executor(Protocol):
    """What every module of this folder provides."""

    @property
    def at_once(self) -> int | None:
        """How many jobs may be in flight at a time; None: as many as there are."""
        ...

    def check(self, jobs: Sequence[Job]) -> list[str]:
        """Return what keeps these jobs from running there: what was expected, what there is, what to do."""
        ...

    def submit(self, job: Job, report: Report) -> Running: ...
