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

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from unsay.job import Event, Job, Report
from unsay.store.tickets import Ticket


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


class Stoppable(Protocol):
    """What can be told to end."""

    def cancel(self) -> None:
        """Ask the job to stop; what it finished stays and can be resumed."""
        ...

    def kill(self) -> None:
        """End the job at once, whatever it is doing; what it finished stays, too."""
        ...


class Running(Stoppable, Protocol):
    """A job that was submitted."""

    def wait(self) -> Outcome:
        """Block until the job has ended."""
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


class Helpers(Protocol):
    """Processes that answer parts of somebody's prompts (`unsay.shard`)."""

    def failed(self) -> list[str]:
        """Return why they failed, once none is left that works or may begin."""
        ...

    def stop(self) -> None:
        """End them; what they answered stays."""
        ...


@runtime_checkable
class Helping(Executor, Protocol):
    """An executor that gives helpers, who answer the parts of a job together with, or for, whoever makes them."""

    def divided(self, job: Job) -> Job:
        """Return a job as it is given to whoever makes the parts."""
        ...

    def helpers(self, job: Job, folder: Path, count: int) -> Helpers:
        """Start so many processes that answer the parts below a folder, with what such a job gets."""
        ...


@dataclass(frozen=True)
class Queued:
    """A job in a queue, and the ticket in its result folder."""

    job: Job
    ticket: Ticket


@dataclass(frozen=True)
class Standing:
    """What a queue says of one of its jobs; `over` where it neither waits nor runs any more."""

    text: str
    over: bool


@runtime_checkable
class Queue(Executor, Protocol):
    """An executor whose jobs outlive the run that submits them; each has a ticket in its result folder.

    The job itself takes the ticket away when it ends. Errors of the queue are `ExecutorError`.
    """

    def submit_all(self, jobs: Sequence[Job], enough: Callable[[], bool]) -> Iterator[Queued]:
        """Submit jobs, those that need another's training after it; stop before the next one once it is `enough`.

        A job that is in the queue already is not submitted again.
        """
        ...

    def watch(
        self, queued: Sequence[Queued], report: Callable[[Job, Event], None], over: threading.Event
    ) -> Iterator[tuple[Job, Outcome]]:
        """Wait for jobs and yield each as it ends, until all have or `over` is set."""
        ...

    def look(self, jobs: Sequence[str], *, patience: float = ...) -> Mapping[str, Standing]:
        """Return how jobs of these numbers stand; those the queue does not know are left out."""
        ...

    def stop(self, jobs: Sequence[str]) -> None:
        """End jobs of these numbers, waiting or running; what they finished stays."""
        ...

    def script(self, commands: Sequence[Sequence[str]], output_dir: Path) -> str:
        """Return a batch script that carries out each of these commands as one task of an array."""
        ...
