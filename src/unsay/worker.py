"""What every executor starts: carry out one experiment and record how it went.

    python -m unsay.worker job.json      # events as JSON lines on standard output, everything else into the log

The experiment's method is found by name. Whatever happens, the record in experiment.json says so: completed, failed
with its error, or cancelled; a process that is killed leaves `running` behind, which readers recognise as stale.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import platform
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from unsay import catalog, code_version
from unsay.accounting import Meter, with_heartbeat
from unsay.errors import ClaimLostError, LockedError, StoreError, UnsayError, may_pass
from unsay.executors import Outcome
from unsay.identity import identity, spec
from unsay.job import Event, Job, Report, Result
from unsay.records import SCHEMA, Attempt, ExperimentRecord
from unsay.redaction import redact, redact_output
from unsay.store import claims, layout, read, stopping, write

_WRITTEN_BELOW = (layout.DATA, layout.TRAIN)
_WAIT_FOR_LOCK = 2.0
_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_HEARTBEAT_EVERY = 5.0
_FIRST = "open"
"""What is done before a method names a stage: importing, opening the model and the data, hashing them."""
_VERSIONED = (
    "unsay", "torch", "transformers", "peft", "accelerate", "datasets", "lm_eval", "tokenizers", "safetensors", "numpy"
)  # fmt: skip


class Stopped(KeyboardInterrupt):
    """The process was asked to stop (SIGTERM, Ctrl-C, or its parent is gone)."""


def carry_out(job: Job, report: Report, *, log: Path | None = None) -> Outcome:
    """Carry out one experiment; never raises for what the experiment does wrong.

    A finished result with the same identity is left alone unless `job.force`. Where another process is at work on it,
    or took over, the outcome is `busy`, and nothing was written.
    """
    with ExitStack() as held:
        try:
            for folder in job.written_folders:
                held.enter_context(write.lock(folder, wait=_WAIT_FOR_LOCK))
            for folder in job.read_folders:
                held.enter_context(write.lock(folder, wait=_WAIT_FOR_LOCK, shared=True))
            for folder in {*job.written_folders, job.result_folder, *map(job.train_folder.joinpath, _WRITTEN_BELOW)}:
                write.clear_unfinished(folder)
            record = _begin(job, log)
        except KeyboardInterrupt as error:
            return _end(report, _cancelled(error, log))
        except LockedError as error:
            return _end(report, Outcome("busy", str(error), log))
        except UnsayError as error:
            return _end(report, Outcome("failed", redact(str(error)), log, may_pass(error)))
        if record is None:
            return _end(report, Outcome("completed", None, log))
        record, outcome = _attempt(job, record, report, log)
        try:
            _write_down(job, record)
        except ClaimLostError as error:
            outcome = Outcome("busy", str(error), log)
        except UnsayError as error:  # as where the disk is full; the record still says running, and its process is gone
            outcome = Outcome("failed", "\n".join(filter(None, (outcome.error, str(error)))), log, may_pass(error))
        return _end(report, outcome)


def _write_down(job: Job, record: ExperimentRecord) -> None:
    path = job.result_folder / layout.EXPERIMENT
    try:
        write.write_json(path, record.to_json())
    except KeyboardInterrupt:  # asked to stop when it was done already; that is asked only once (`_stop`)
        write.write_json(path, record.to_json())


def _cancelled(error: KeyboardInterrupt, log: Path | None) -> Outcome:
    return Outcome("cancelled", str(error) or "stopped from the keyboard", log)


def _attempt(job: Job, record: ExperimentRecord, report: Report, log: Path | None) -> tuple[ExperimentRecord, Outcome]:
    """Run the method; return the record as it must be written, and the outcome."""
    observed = _Observed(
        report, job.result_folder, record.attempts[-1], server=job.experiment.model.backend is not None
    )
    try:
        with observed, stopping.heeding(job.result_folder, record.attempts[-1]):
            method = catalog.plugin("methods", job.experiment.method)()
            result: Result = method.run(job, observed)
        record = replace(
            record,
            status="completed",
            hashes=result.hashes,
            items=result.items,
            warnings=result.warnings,
            files=result.files,
            facts=result.facts,
        )
        outcome = Outcome("completed", None, log)
    except KeyboardInterrupt as error:
        outcome = _cancelled(error, log)
    except UnsayError as error:
        outcome = Outcome("failed", redact(str(error)), log, may_pass(error))
        sys.stderr.write(redact(traceback.format_exc()))
    except Exception as error:  # a bug or a library's failure: the trace is kept, the run goes on with the next one
        outcome = Outcome("failed", redact(f"{type(error).__name__}: {error}"), log, may_pass(error))
        sys.stderr.write(redact(traceback.format_exc()))
    last = replace(
        record.attempts[-1], ended=now(), outcome=outcome.status, error=outcome.error, **observed.meter.end()
    )
    return replace(record, status=outcome.status, end=now(), attempts=(*record.attempts[:-1], last)), outcome


def _begin(job: Job, log: Path | None) -> ExperimentRecord | None:
    """Write the record as `running`, moving an earlier, different result aside; None when there is nothing to do."""
    folder = job.result_folder
    wanted = identity(job.experiment)
    if job.is_done():
        return None
    if not job.called_off and stopping.are_called_off((job.folder, folder)):
        raise Stopped(stopping.CALLED_OFF)
    before = _as_left(folder)
    # A finished result that lost a file is gone on with: what is there still is not made again.
    resumes = before is not None and before.identity == wanted and (before.status != "completed" or job.is_finished())
    if before is not None and before.attempts and not resumes:
        write.set_aside(folder, before)
    experiment = job.experiment
    main = read.record(job.folder)
    record = ExperimentRecord(
        id=experiment.id or (main.id if main else ""),
        model=experiment.model.name,
        dataset=experiment.dataset.name,
        method=experiment.method,
        config=experiment.config,
        seed=experiment.seed,
        status="running",
        identity=wanted,
        spec=spec(experiment),
        notes=(before.notes if before else "") or (main.notes if main else "") or experiment.notes,
        limit=job.limit,
        start=before.start if before and resumes and before.start else now(),
        attempts=(*(before.attempts if before and before.identity == wanted else ()), _new_attempt(job, log)),
    )
    write.write_json(folder / layout.EXPERIMENT, record.to_json())
    return record


def _as_left(folder: Path) -> ExperimentRecord | None:
    """Return a folder's record; what an attempt took that was killed is known from its last sign of life."""
    record = read.record(folder)
    if record is None:
        return None
    return replace(record, attempts=with_heartbeat(record.attempts, read.heartbeat(folder), ended=True))


def _new_attempt(job: Job, log: Path | None) -> Attempt:
    import psutil

    owner = claims.me()
    log_name = None if log is None else os.path.relpath(log, job.result_folder)
    hardware = {
        "platform": platform.platform(),
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "memory": psutil.virtual_memory().total,
        "device": job.device,
        "dtype": job.dtype,
    }
    group: dict[str, Any] = {}
    if job.experiment.model.backend is not None:
        group["backend"] = job.experiment.model.backend.to_json()
    if job.processes is not None and job.experiment.settings.training is not None:
        kind = job.processes["distributed_type"]
        group |= {"training_processes": job.processes["num_processes"], "accelerate": kind}
    return Attempt(
        started=now(),
        host=owner.host,
        pid=owner.pid,
        boot_id=owner.boot_id,
        log=log_name,
        hardware=hardware | {"batch_size": job.batch_size} | group | dict(job.place),
        versions=dict(_versions()),
        code=_code(job),
    )


def _code(job: Job) -> dict[str, Any]:
    file = None if job.file is None else code_version.of_folder(job.file.parent)
    found = {"unsay": code_version.of_package(), "file": file}
    return {name: version for name, version in found.items() if version is not None}


def _processor() -> str:
    """Return the processor's name: two kinds may round differently."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _versions() -> Iterator[tuple[str, str]]:
    yield "python", platform.python_version()
    for name in _VERSIONED:
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue


def now() -> str:
    """Return the clock's time with its zone, to the second."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


class _Observed:
    """Pass events on, measure each stage, and leave a sign of life in the result folder.

    The heartbeat file says how far the run is and what it took so far; a thread renews it, so that another machine can
    tell a long step from a dead process. `meter` has everything after the `with` block.
    """

    def __init__(self, report: Report, folder: Path, attempt: Attempt, *, server: bool) -> None:
        self.meter = Meter(server=server)
        self._report = report
        self._attempt = attempt.started
        self._path = folder / layout.HEARTBEAT
        self._state: Event = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __call__(self, event: Event) -> None:
        if event["event"] == "stage":
            self.meter.begin(event["stage"])
        self.meter.count(event.get("spent", {}))
        if event["event"] in ("stage", "progress"):
            self._state = {key: value for key, value in event.items() if key not in ("event", "spent")}
        self._report(event)

    def __enter__(self) -> _Observed:
        self.meter.begin(_FIRST)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self.meter.end()
        with suppress(ClaimLostError):  # else it is somebody else's sign of life by now
            claims.check(self._path)
            self._path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while True:
            beat = {"schema": SCHEMA, "time": now(), "attempt": self._attempt, **self.meter.so_far()}
            with suppress(StoreError):  # a full disk, or a claim that was lost: whoever writes results finds out, too
                write.write_json(self._path, beat | self._state)
            if self._ended.wait(_HEARTBEAT_EVERY):
                return


def _end(report: Report, outcome: Outcome) -> Outcome:
    report({"event": "end", "status": outcome.status, "error": outcome.error, "may_pass": outcome.may_pass})
    return outcome


@contextmanager
def _events() -> Iterator[Report]:
    """Keep standard output for events alone: whatever libraries print goes to standard error, the log."""
    descriptor = os.dup(1)
    os.dup2(2, 1)

    def report(event: Event) -> None:
        with suppress(BrokenPipeError):  # whoever listened is gone; `_watch_parent` ends the work
            os.write(descriptor, json.dumps(event).encode() + b"\n")

    try:
        yield report
    finally:
        os.close(descriptor)


def _stop(signum: int, frame: Any) -> None:
    # Ctrl-C reaches this process twice, from the terminal and from the one that started it. The first is enough; the
    # second must not hit while it is written down where the work stopped.
    for each in _STOPS:
        signal.signal(each, signal.SIG_IGN)
    raise Stopped(f"stopped by {signal.Signals(signum).name}")


def _watch_parent() -> None:
    """End this process when the one that started it is gone (its end of our standard input closes)."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def process() -> Iterator[Report]:
    """Make this process one that an executor started: it can be asked to stop, and reports events."""
    for each in _STOPS:
        if signal.getsignal(each) != signal.SIG_IGN:  # as `nohup` wants it
            signal.signal(each, _stop)
    faulthandler.enable()
    threading.Thread(target=_watch_parent, daemon=True).start()
    redact_output()
    try:
        with _events() as report:
            yield report
    finally:
        gc.freeze()  # Python's last collection would look at every object of every library: more than a second


def main() -> int:
    value = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    log = Path(value.pop("log"))
    with process() as report:
        outcome = carry_out(Job.from_json(value), report, log=log)
    return 0 if outcome.status == "completed" else 1


if __name__ == "__main__":
    sys.exit(main())
