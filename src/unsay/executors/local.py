"""Runs each experiment in a process of its own on this machine (the default)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from unsay.executors import Outcome
from unsay.job import Job, Report
from unsay.store import layout, write

# Threads that wait for each other without spinning: a little slower alone, much faster beside another busy process.
_POLITE = {"OMP_WAIT_POLICY": "PASSIVE"}

JOB_SUFFIX = ".job.json"


@dataclass(frozen=True)
class Local:
    """No options."""

    def submit(self, job: Job, report: Report) -> _Process:
        stamp = datetime.now().strftime("%Y-%m-%dT%H-%M-%S.%f")
        log = layout.logs(job.result_folder) / f"{stamp}.log"
        job_file = log.with_suffix(JOB_SUFFIX)
        write.write_json(job_file, job.to_json() | {"log": str(log)})
        try:
            log_file = log.open("ab")
        except OSError as error:
            raise write.cannot_write(log, error) from error
        with log_file:
            # The worker watches its standard input: when this process dies, it ends and takes the worker along.
            process = subprocess.Popen(
                [sys.executable, "-m", "unsay.worker", str(job_file)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log_file,
                env={**_POLITE, **os.environ},
            )
        return _Process(process, report, log)


@dataclass(frozen=True)
class _Process:
    """A worker process and where its log is."""

    process: subprocess.Popen[bytes]
    report: Report
    log: Path

    def wait(self) -> Outcome:
        assert self.process.stdout is not None
        outcome: Outcome | None = None
        for line in self.process.stdout:
            try:
                event = json.loads(line)
            except ValueError:  # it was killed while it wrote
                continue
            if event["event"] == "end":
                outcome = Outcome(event["status"], event["error"], self.log, event["may_pass"])
            self.report(event)
        code = self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        if outcome is None:
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            return Outcome("failed", f"the worker {how}; its log is {self.log}", self.log, code < 0, silent=True)
        if outcome.status == "busy":  # nothing was done, so that there is nothing to tell
            for path in (self.log, self.log.with_suffix(JOB_SUFFIX)):
                with suppress(OSError):
                    path.unlink()
        return outcome

    def cancel(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.process.kill()
