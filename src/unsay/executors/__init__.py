"""One file per place an experiment can run. Executors know jobs, not methods.

The contract: a module `executors/<name>.py` holds one frozen dataclass whose fields are its options, with

    submit(job, report) -> Running     start the job; `report` is called with every event of the worker

A failing job ends with status `failed`, its last error and the path of its log; it never raises.
"""

from __future__ import annotations

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

    def submit(self, job: Job, report: Report) -> Running: ...
