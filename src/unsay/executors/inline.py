"""Runs an experiment inside this process, for a debugger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from unsay import worker
from unsay.executors import Outcome
from unsay.job import Job, Report


@dataclass(frozen=True)
class Inline:
    """No options."""

    at_once: ClassVar[int] = 1

    def check(self, jobs: Sequence[Job]) -> list[str]:
        return []

    def submit(self, job: Job, report: Report) -> _Done:
        return _Done(worker.carry_out(job, report))


@dataclass(frozen=True)
class _Done:
    """A job that ended before `submit` returned."""

    outcome: Outcome

    def wait(self) -> Outcome:
        return self.outcome

    def cancel(self) -> None:
        """Nothing is left to stop."""

    def kill(self) -> None:
        """Nothing is left to end."""
