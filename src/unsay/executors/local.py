"""Runs each experiment in a process of its own on this machine (the default)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from unsay.errors import ConfigError
from unsay.executors import Outcome
from unsay.executors._process import HelperProcesses, WorkerProcess
from unsay.job import Job, Report


@dataclass(frozen=True)
class Local:
    """`shards`: processes that generate an evaluation's answers together, each a part of them."""

    at_once: ClassVar[int] = 1
    takes_part: ClassVar[bool] = True

    shards: int = 1

    def __post_init__(self) -> None:
        if self.shards < 1:
            raise ConfigError(f"shards: expected at least 1, got {self.shards}")

    def check(self, jobs: Sequence[Job]) -> list[str]:
        return []

    def submit(self, job: Job, report: Report) -> _Running:
        return _Running(WorkerProcess.start(replace(job, shards=self.shards)), report)

    def helpers(self, job: Job, folder: Path, count: int) -> HelperProcesses:
        return HelperProcesses(folder, count)


@dataclass(frozen=True)
class _Running:
    """A worker and whoever is told of its events."""

    worker: WorkerProcess
    report: Report

    def wait(self) -> Outcome:
        for event in self.worker.events():
            if event["event"] == "shards":
                self.worker.help(Path(event["folder"]), event["helpers"])
            else:
                self.report(event)
        return self.worker.outcome()

    def cancel(self) -> None:
        self.worker.stop()

    def kill(self) -> None:
        self.worker.kill()
