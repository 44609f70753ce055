"""A worker as a process of the machine that this runs on, and the processes that help it with its answers.

process = WorkerProcess.start(job)
for event in process.events(): …
process.outcome()
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO

from unsay import cores
from unsay.executors import Outcome
from unsay.job import Event, Job
from unsay.store import layout, write

JOB_SUFFIX = ".job.json"


def start(module: str, argument: Path, log: Path, *, threads: int | None = None) -> subprocess.Popen[bytes]:
    """Start `python -m module argument`; its events are on its standard output, all else goes into the log.

    It computes with so many `threads`, or as many as its libraries choose. It watches its standard input: when this
    process dies, it ends, too. StoreError where the log cannot be written.
    """
    share = {} if threads is None else {cores.OMP_NUM_THREADS: str(threads)}
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        log_file = log.open("ab")
    except OSError as error:
        raise write.cannot_write(log, error) from error
    with log_file:
        return subprocess.Popen(
            [sys.executable, "-m", module, str(argument)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log_file,
            env=dict([cores.POLITE]) | os.environ | share,
        )


def events(pipe: IO[bytes]) -> Iterator[Event]:
    """Yield what a process reports, until it ends."""
    for line in pipe:
        with suppress(ValueError):  # it was killed while it wrote
            event = json.loads(line)
            if isinstance(event, dict) and "event" in event:
                yield event


def new_log(folder: Path, kind: str = "") -> Path:
    """Return where a process that begins now writes its log, in a result folder."""
    return layout.logs(folder) / f"{datetime.now().strftime('%Y-%m-%dT%H-%M-%S.%f')}{kind}.log"


class HelperProcesses:
    """Processes that answer the parts below a folder, with so many threads each."""

    def __init__(self, folder: Path, count: int, *, threads: int) -> None:
        self._processes = []
        self._logs = [new_log(folder.parent, f".shard-{number + 1}") for number in range(count)]
        for log in self._logs:
            process = start("unsay.shard", folder, log, threads=threads)
            assert process.stdout is not None
            process.stdout.close()  # whoever made the parts sees by itself what is answered
            self._processes.append(process)

    def failed(self) -> list[str]:
        codes = [process.poll() for process in self._processes]
        if None in codes:
            return []
        return [f"a helper ended; its log is {log}" for code, log in zip(codes, self._logs, strict=True) if code]

    def stop(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()

    def kill(self) -> None:
        for process in self._processes:
            process.kill()


@dataclass
class WorkerProcess:
    """A worker process and where its log is."""

    process: subprocess.Popen[bytes]
    log: Path
    _end: Event | None = None
    _helpers: HelperProcesses | None = None

    @classmethod
    def start(cls, job: Job, *, threads: int | None = None) -> WorkerProcess:
        log = new_log(job.result_folder)
        job_file = log.with_suffix(JOB_SUFFIX)
        write.write_json(job_file, job.to_json() | {"log": str(log)})
        return cls(start("unsay.worker", job_file, log, threads=threads), log)

    def events(self) -> Iterator[Event]:
        """Yield what the worker reports, until it ends."""
        assert self.process.stdout is not None
        for event in events(self.process.stdout):
            if event["event"] == "end":
                self._end = event
            yield event

    def help(self, folder: Path, count: int, *, threads: int) -> None:
        """Start processes that answer parts of the worker's prompts, below `folder`, with so many threads each."""
        self._helpers = HelperProcesses(folder, count, threads=threads)

    def outcome(self) -> Outcome:
        """Wait for the worker's end, and say how it ended; end its helpers."""
        code = self.process.wait()
        if self._helpers is not None:
            self._helpers.stop()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        if self._end is None:
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            return Outcome("failed", f"the worker {how}; its log is {self.log}", self.log, code < 0, silent=True)
        outcome = Outcome(self._end["status"], self._end["error"], self.log, self._end["may_pass"])
        if outcome.status == "busy":  # nothing was done, so that there is nothing to tell
            for path in (self.log, self.log.with_suffix(JOB_SUFFIX)):
                with suppress(OSError):
                    path.unlink()
        return outcome

    def stop(self) -> None:
        """Ask the worker to stop; what it finished stays."""
        self.process.terminate()

    def kill(self) -> None:
        """End the worker and its helpers at once."""
        self.process.kill()
        if self._helpers is not None:
            self._helpers.kill()
