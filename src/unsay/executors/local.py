"""Runs each experiment in a process of its own on this machine (the default)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from unsay import cores
from unsay.errors import ConfigError
from unsay.executors import Outcome
from unsay.executors._process import HelperProcesses, WorkerProcess
from unsay.job import Job, Report


@dataclass(frozen=True)
class Local:
    """`at_once`: experiments that run at the same time, each with its share of the processor's cores.

    `shards`: processes that generate an evaluation's answers together, each a part of them and with its share of the
    experiment's cores.
    """

    at_once: int = 1
    shards: int = 1

    def __post_init__(self) -> None:
        for name in ("at_once", "shards"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected at least 1, got {getattr(self, name)}")

    def check(self, jobs: Sequence[Job]) -> list[str]:
        groups = [job.processes["num_processes"] for job in jobs if job.processes is not None]
        if self.at_once == 1 or not groups:
            return []
        return [
            f"at_once: expected 1 where a training takes {groups[0]} processes, as all would take the same devices, "
            f"got {self.at_once}; leave it out, or leave out --processes"
        ]

    def submit(self, job: Job, report: Report) -> _Running:
        threads = cores.share(self.at_once) if self.at_once > 1 else None
        return _Running(WorkerProcess.start(self.divided(job), threads=threads), report, self._threads_of_a_part())

    def divided(self, job: Job) -> Job:
        return replace(job, shards=self.shards, threads=self._threads_of_a_part() if self.shards > 1 else None)

    def helpers(self, job: Job, folder: Path, count: int) -> HelperProcesses:
        return HelperProcesses(folder, count, threads=self._threads_of_a_part())

    def _threads_of_a_part(self) -> int:
        return cores.share(self.at_once * self.shards)


@dataclass(frozen=True)
class _Running:
    """A worker, whoever is told of its events, and the threads of those that help it."""

    worker: WorkerProcess
    report: Report
    threads: int

    def wait(self) -> Outcome:
        for event in self.worker.events():
            if event["event"] == "shards":
                self.worker.help(Path(event["folder"]), event["helpers"], threads=self.threads)
            else:
                self.report(event)
        return self.worker.outcome()

    def cancel(self) -> None:
        self.worker.stop()

    def kill(self) -> None:
        self.worker.kill()
