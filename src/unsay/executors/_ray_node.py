"""What a Ray task does on its node: start a worker process, pass on its events and, without a shared folder, its files.

Knows nothing about Ray: these are plain functions that the executor makes tasks of.
"""

from __future__ import annotations

import os
import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from unsay.errors import StoreError
from unsay.executors._process import WorkerProcess, events, new_log, start
from unsay.job import Event, Job
from unsay.store import claims, layout, write

TELL_EVERY = 0.5
"""Seconds between two reports of progress; what is in between is left out."""
SEND_EVERY = 2.0
"""Seconds between two looks at what has changed in a folder that the other end does not see."""
_POLL = 0.2

Batch = dict[str, Any]
"""`events`, `files` (name, where the bytes begin, the bytes) and `gone` (names), names relative to the lab folder."""


def carry_out(value: dict[str, Any], names: Sequence[str] | None = None, *contents: bytes) -> Iterator[Batch]:
    """Carry out a job; yield what its worker reports, the last event being its outcome.

    With `names` and `contents`, the files of the lab that it needs, it works in a folder of its own and also yields the
    files that it writes. An exception that is thrown in stops the worker first.
    """
    job = Job.from_json(value)
    with ExitStack() as held:
        scratch = None
        if names is not None:
            scratch = held.enter_context(Scratch(names, contents))
            job = replace(job, output_dir=scratch.folder)
        worker = WorkerProcess.start(job)
        told = _Told(scratch)
        try:
            for event in _polled(worker.events()):
                batch = told.batch(event)
                if batch is not None:
                    yield batch
            outcome = worker.outcome()
        except BaseException:
            worker.stop()
            worker.outcome()
            raise
        end = {
            "event": "outcome",
            "status": outcome.status,
            "error": outcome.error,
            "log": None if outcome.log is None else os.path.relpath(outcome.log, job.result_folder),
            "may_pass": outcome.may_pass,
            "silent": outcome.silent,
        }
        yield told.last(end)


def help_with(folder: str, number: int) -> Event:
    """Answer parts of somebody's prompts; return the last event. ChildProcessError where the process was killed."""
    place = Path(folder)
    if not place.parent.is_dir():
        why = f"expected the result folder {place.parent}, got none on {claims.hostname()}"
        return {"event": "end", "status": "failed", "error": why}
    process = start("unsay.shard", place, new_log(place.parent, f".shard-{number}"))
    assert process.stdout is not None
    end: Event | None = None
    try:
        for event in _polled(events(process.stdout)):
            if event is not None and event["event"] == "end":
                end = event
    finally:
        process.terminate()
        process.wait()
    if end is None:
        raise ChildProcessError(f"a process that answers parts was killed on {claims.hostname()}")
    return end


def look(probes: Sequence[str], paths: Sequence[str]) -> list[str]:
    """Say what a task would miss on this node: output folders (by a file that is in each), models, data."""
    missing = []
    for probe in map(Path, probes):
        try:
            seen = probe.read_text(encoding="utf-8") == probe.name
            probe.with_name(f"{probe.name}-{os.urandom(4).hex()}").touch()
        except OSError as error:
            seen = False
            why = f"{error.strerror or error}"
        else:
            why = "another folder of that name"
            for mine in probe.parent.glob(f"{probe.name}-*"):
                mine.unlink(missing_ok=True)
        if not seen:
            missing.append(
                f"expected to read and write the output folder {probe.parent} there, got: {why}; use a folder that all "
                "nodes share, or `--option results=store`, which sends the files back"
            )
    missing += [
        f"expected {path} there, got nothing; put it at the same place on every node, or name a hub id"
        for path in paths
        if not Path(path).exists()
    ]
    return missing


def _polled(found: Iterator[Event]) -> Iterator[Event | None]:
    """Yield what another thread waits for, and None now and then: a cancelled task is told so between two steps."""
    arrived: queue.SimpleQueue[Event | None] = queue.SimpleQueue()

    def read() -> None:
        for event in found:
            arrived.put(event)
        arrived.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            event = arrived.get(timeout=_POLL)
        except queue.Empty:
            yield None
            continue
        if event is None:
            return
        yield event


class _Told:
    """What has to be passed on, and when."""

    def __init__(self, scratch: Scratch | None) -> None:
        self._scratch = scratch
        self._events: list[Event] = []
        self._said = self._sent = 0.0

    def batch(self, event: Event | None) -> Batch | None:
        """Take an event; return what is to be passed on now, if anything is."""
        at_once = False
        if event is not None:
            if event["event"] == "progress":  # only how far it is now is of interest
                self._events = [each for each in self._events if each["event"] != "progress"]
            else:
                at_once = True
            self._events.append(event)
        now = time.monotonic()
        files_due = self._scratch is not None and now - self._sent >= SEND_EVERY
        if not files_due and not (self._events and (at_once or now - self._said >= TELL_EVERY)):
            return None
        self._said = now
        told: Batch = {"events": self._events, "files": [], "gone": []}
        self._events = []
        if files_due and self._scratch is not None:
            self._sent = now
            told["files"], told["gone"] = self._scratch.changes()
        return told if told["events"] or told["files"] or told["gone"] else None

    def last(self, end: Event) -> Batch:
        files, gone = ([], []) if self._scratch is None else self._scratch.changes()
        return {"events": [*self._events, end], "files": files, "gone": gone}


# -- without a shared folder ------------------------------------------------------

_File = tuple[str, int, bytes]


class Scratch:
    """A lab folder on the node of a task, with the files its job needs; `changes` is what has to go back."""

    def __init__(self, names: Sequence[str], contents: Sequence[bytes]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="unsay-"))
        for name, content in zip(names, contents, strict=True):
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        self._known = {name: _state(status) for name, _, status in _files(self.folder)}

    def __enter__(self) -> Scratch:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def changes(self) -> tuple[list[_File], list[str]]:
        """Return what was written since the last time, the oldest first, and the names of files that are gone."""
        found = sorted(_files(self.folder), key=lambda each: each[2].st_mtime_ns)
        changed: list[_File] = []
        for name, path, status in found:
            before = self._known.get(name)
            if before == _state(status):
                continue
            with suppress(FileNotFoundError), path.open("rb") as file:
                status = os.fstat(file.fileno())
                # A journal or a log grows; all other files are replaced as a whole, by another file.
                grown = before is not None and before[0] == status.st_ino and before[1] <= status.st_size
                begin = before[1] if before is not None and grown else 0
                file.seek(begin)
                changed.append((name, begin, file.read(status.st_size - begin)))
                self._known[name] = _state(status)
        there = {name for name, _, _ in found}
        gone = [name for name in self._known if name not in there and not (self.folder / name).exists()]
        for name in gone:
            del self._known[name]
        return changed, gone


class Mirror:
    """The same files in the lab folder, which this process claims while a task works on them elsewhere."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._held = ExitStack()

    def __enter__(self) -> Mirror:
        with ExitStack() as held:
            for folder in self._job.written_folders:
                held.enter_context(write.lock(folder, wait=2.0))
            for folder in self._job.read_folders:
                held.enter_context(write.lock(folder, wait=2.0, shared=True))
            self._held = held.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._held.__exit__(*error)

    def files(self) -> Iterator[tuple[str, Path]]:
        """Yield name and path of every file that the job's worker needs."""
        lab, job = self._job.output_dir, self._job
        for folder in dict.fromkeys((*job.written_folders, *job.read_folders)):
            for name, path, _ in _files(folder):
                parts = Path(name).parts
                limited = parts[0].startswith(layout.LIMIT_PREFIX) and folder / parts[0] != job.result_folder
                if not limited and parts[0] not in (layout.SUPERSEDED, layout.LOGS):
                    yield path.relative_to(lab).as_posix(), path

    def write(self, files: Sequence[_File], gone: Sequence[str]) -> None:
        """Do to the lab folder what the worker did to its own."""
        new: dict[Path, Path] = {}
        for name, begin, content in files:
            path = self._path(name)
            above = next((each for each in reversed(path.parents) if not each.exists()), None)
            if above is not None:  # a folder that is new there, as a checkpoint, is new here once it is whole
                aside = f"{layout.TEMPORARY_PREFIX}{os.urandom(6).hex()}{layout.TEMPORARY_SUFFIX}"
                path = new.setdefault(above, above.with_name(aside)) / path.relative_to(above)
            if begin == 0:
                write.write_bytes(path, content)
                continue
            with path.open("r+b") as file:
                file.truncate(begin)
                file.seek(begin)
                file.write(content)
        for folder, filled in new.items():
            filled.rename(folder)
        for name in gone:
            self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        path = self._job.output_dir / name
        if ".." in path.parts or not any(folder in path.parents for folder in self._job.written_folders):
            raise StoreError(f"expected files of {self._job.folder} from its worker, got {name}")
        claims.check(path)
        return path


def _files(folder: Path) -> Iterator[tuple[str, Path, os.stat_result]]:
    """Yield name, path and status of the files below a folder, but for claims and what is being written."""
    for place, _, names in os.walk(folder):
        for name in names:
            if not name.startswith((layout.CLAIM_PREFIX, layout.TEMPORARY_PREFIX)):
                path = Path(place, name)
                if not any(part.startswith(layout.TEMPORARY_PREFIX) for part in path.relative_to(folder).parts):
                    with suppress(FileNotFoundError):
                        yield path.relative_to(folder).as_posix(), path, path.stat()


def _state(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns
