"""Writing results so that a crash at any moment loses nothing that was reported as written.

Whole files are written beside and renamed; append-only files carry a checksum per line; one writer per folder, which
stops when it finds that another one took over. Knows nothing about what the files mean.

    with write.lock(folder), write.Journal(layout.traces(folder)) as journal:
        journal.append(trace.to_json())
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from unsay.errors import StoreError
from unsay.records import ExperimentRecord
from unsay.redaction import redacted
from unsay.store import claims, layout

_LEFT_BEHIND = 600.0
"""Seconds after which a file without its name is not being written any more."""

SYNC_EVERY = 5.0
"""Seconds of appended lines a machine crash (not a killed process) may cost."""

# `,"crc32":"89abcdef"}` ends every line of a journal.
_TAIL = b',"crc32":"'
_TAIL_LENGTH = len(_TAIL) + 8 + 2


# -- whole files ------------------------------------------------------------------


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that readers see the old content or the new, never a part; missing folders are made."""
    write_parts(path, (data,))


def write_parts(path: Path, parts: Iterable[bytes]) -> None:
    """Write a file piece by piece, with the promise of `write_bytes`; an error while making a piece leaves no file."""
    with writing(path) as file:
        file.writelines(parts)


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write to that takes its name only when the block ends well, with the promise of `write_bytes`."""
    temporary = _temporary(path.parent)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            claims.check(path)
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error


@contextmanager
def filling(folder: Path) -> Iterator[Path]:
    """Give an empty folder for a library to write files into; when the block ends well, they go into `folder`.

    Each file is synced and takes its name in one step; after an error none does. What libraries raise where they cannot
    write becomes StoreError.
    """
    with _beside(folder, folder) as temporary:
        yield temporary
        claims.check(folder)
        for path in _synced(temporary):
            path.replace(folder / path.name)
        sync_folder(folder)
        temporary.rmdir()


@contextmanager
def completing(folder: Path) -> Iterator[Path]:
    """Give an empty folder that takes its name only when it is full, in place of an earlier one; else as `filling`."""
    with _beside(folder.parent, folder) as temporary:
        yield temporary
        _synced(temporary)
        claims.check(folder)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
        sync_folder(folder.parent)


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """Give an empty folder inside another that is gone when the block ends; errors are those of `filling`."""
    with _beside(folder, folder) as temporary:
        yield temporary
        shutil.rmtree(temporary)


@contextmanager
def _beside(folder: Path, final: Path) -> Iterator[Path]:
    """Give an empty folder inside `folder` whose files are to be in `final`; errors are said of those."""
    temporary = _temporary(folder)
    try:
        temporary.mkdir(parents=True)
        yield temporary
    except BaseException as error:
        found = _system_error(error)
        name = Path(os.fsdecode(found.filename or _newest(temporary))) if found is not None else temporary
        shutil.rmtree(temporary, ignore_errors=True)
        if found is None:
            raise
        if name == temporary or temporary in name.parents:
            name = final / name.relative_to(temporary)
        raise cannot_write(name, found) from error


def _newest(folder: Path) -> Path:
    """Return the file that was written last; the folder where there is none."""
    return max(folder.glob("*"), key=lambda path: path.stat().st_mtime_ns, default=folder)


def _synced(folder: Path) -> list[Path]:
    files = sorted(folder.iterdir())
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    sync_folder(folder)
    return files


def _system_error(error: BaseException) -> OSError | None:
    """Return the operating system's error behind one; libraries written in Rust tell only its number."""
    if isinstance(error, OSError):
        return error
    match = re.search(r"\(os error (\d+)\)", str(error)) if isinstance(error, Exception) else None
    return None if match is None else OSError(int(match[1]), os.strerror(int(match[1])))


def _temporary(folder: Path) -> Path:
    return folder / f"{layout.TEMPORARY_PREFIX}{os.urandom(6).hex()}{layout.TEMPORARY_SUFFIX}"


def clear_unfinished(folder: Path) -> None:
    """Remove what a killed process was writing in a folder and had not named. The caller holds the folder's lock.

    Files may be written without that lock, too: only those that nobody can be writing any more go.
    """
    for path in folder.glob(f"{layout.TEMPORARY_PREFIX}*{layout.TEMPORARY_SUFFIX}"):
        with suppress(OSError):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif time.time() - path.lstat().st_mtime > _LEFT_BEHIND:
                path.unlink()


def append_text(path: Path, text: str) -> None:
    """Append to a file that others read while it grows: the whole text, or nothing and StoreError."""
    try:
        claims.check(path)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            _append(descriptor, text.encode("utf-8"))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise cannot_write(path, error) from error


def _append(descriptor: int, data: bytes) -> None:
    size = os.fstat(descriptor).st_size
    try:
        written = os.write(descriptor, data)
        if written != len(data):
            raise OSError(errno.ENOSPC, f"only {written} of {len(data)} bytes fitted")
    except OSError:
        with suppress(OSError):
            os.ftruncate(descriptor, size)
        raise


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode("utf-8"))


_FOR_READERS = (layout.EXPERIMENT, layout.REHEARSAL_REPORT)
"""Documents with messages and notes in them, which may name what is secret."""


def write_json(path: Path, obj: Any) -> None:
    """Write indented JSON; what JSON cannot say (NaN, infinity) is refused with ValueError.

    Experiment records and reports are written without secrets (`unsay.redaction`), whoever put them there.
    """
    write_bytes(path, _json_bytes(redacted(obj) if path.name in _FOR_READERS else obj, indent=2) + b"\n")


def json_line(obj: Any) -> bytes:
    """Return one line of a JSON Lines file that needs no checksum because it is written whole."""
    return _json_bytes(obj) + b"\n"


def sync_folder(folder: Path) -> None:
    """Make renames and new names in a folder survive a machine crash, where the file system offers that."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some network file systems cannot sync a folder; the rename itself already happened
    finally:
        os.close(descriptor)


def _json_bytes(obj: Any, *, indent: int | None = None) -> bytes:
    separators = (",", ": ") if indent else (",", ":")
    text = json.dumps(obj, ensure_ascii=False, allow_nan=False, indent=indent, separators=separators)
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:  # half a surrogate pair has no UTF-8; as an escape it survives the round trip
        return json.dumps(obj, allow_nan=False, indent=indent, separators=separators).encode("ascii")


def cannot_write(path: Path, error: OSError) -> StoreError:
    """Return the error for a file or folder that the operating system does not let us write."""
    return StoreError(
        f"cannot write {path}: {error.strerror or error}. "
        "Check the free space and permissions of that folder (`unsay doctor` shows both), then run the command again."
    )


# -- append-only lines ------------------------------------------------------------


def seal(obj: dict[str, Any]) -> bytes:
    """Return one line of a journal: compact JSON whose last member is the checksum of the bytes before it."""
    if not obj or "crc32" in obj:
        raise ValueError("a journal line needs at least one member, and none called crc32")
    head = _json_bytes(obj)[:-1]
    return head + _TAIL + b'%08x"}\n' % zlib.crc32(head)


def is_sealed(line: bytes) -> bool:
    """Say whether a line (with its line break) is complete and its checksum fits."""
    if not line.endswith(b'"}\n') or len(line) <= _TAIL_LENGTH + 1:
        return False
    body = line[:-1]
    head, tail = body[:-_TAIL_LENGTH], body[-_TAIL_LENGTH:]
    return tail.startswith(_TAIL) and tail[len(_TAIL) : -2] == b"%08x" % zlib.crc32(head)


class Journal:
    """An append-only file of checksummed JSON lines. The caller holds the folder's lock.

    When `append` returns, the line survives the death of this process; a crash of the machine costs at most the last
    `SYNC_EVERY` seconds. Opening moves what follows the last complete line aside (into `<name>.torn`), never away.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._synced = time.monotonic()
        try:
            claims.check(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise cannot_write(path, error) from error
        try:
            self._cut_torn_tail()
        except OSError as error:
            os.close(self._descriptor)
            self._descriptor = -1
            raise cannot_write(path, error) from error

    def append(self, obj: dict[str, Any]) -> None:
        if self._descriptor < 0:
            raise StoreError(f"{self.path} was closed; open a new Journal to append to it")
        line = seal(obj)
        try:
            claims.check(self.path)
            _append(self._descriptor, line)
            if time.monotonic() - self._synced >= SYNC_EVERY:
                self.sync()
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def sync(self) -> None:
        """Wait until everything appended so far survives a machine crash."""
        os.fsync(self._descriptor)
        self._synced = time.monotonic()

    def close(self) -> None:
        if self._descriptor < 0:
            return
        descriptor, self._descriptor = self._descriptor, -1
        try:
            os.fsync(descriptor)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        finally:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _cut_torn_tail(self) -> None:
        good = end = 0
        with self.path.open("rb") as file:
            for line in file:
                end += len(line)
                if is_sealed(line):
                    good = end
            if good == end:
                return
            file.seek(good)
            tail = file.read()
        aside = self.path.with_name(self.path.name + layout.TORN_SUFFIX)
        with aside.open("ab") as file:
            file.write(tail if tail.endswith(b"\n") else tail + b"\n")
            file.flush()
            os.fsync(file.fileno())
        sync_folder(self.path.parent)
        os.ftruncate(self._descriptor, good)
        os.fsync(self._descriptor)


# -- one writer per folder --------------------------------------------------------


@contextmanager
def lock(folder: Path, *, wait: float = 0.0, shared: bool = False) -> Iterator[None]:
    """Be the only writer of a folder; raise LockedError, naming the holder, when that takes longer than `wait` seconds.

    With `shared` it is only read, which others may do at the same time. `unsay.store.claims` says how long it holds.
    """
    try:
        claim = claims.take(folder, wait=wait, shared=shared)
    except OSError as error:
        raise cannot_write(folder, error) from error
    try:
        yield
    finally:
        claim.release()


def supersede(folder: Path, names: Iterable[str], identity: str) -> Path | None:
    """Move files and folders of an earlier result into `superseded/<identity>/`; return that folder, None without any.

    Nothing is deleted or overwritten.
    """
    present = sorted({name for name in names if (folder / name).exists()})
    if not present:
        return None
    wanted = layout.superseded(folder, identity)
    target, count = wanted, 1
    try:
        claims.check(folder)
        wanted.parent.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                target.mkdir()
                break
            except FileExistsError:
                count += 1
                target = wanted.with_name(f"{wanted.name}-{count}")
        for name in present:
            (folder / name).rename(target / name)
    except OSError as error:
        raise cannot_write(target, error) from error
    sync_folder(target)
    sync_folder(folder)
    return target


def set_aside(folder: Path, record: ExperimentRecord) -> None:
    """Move a result and its record into `superseded/`, leaving a `pending` record with the same id and notes.

    Whenever this is cut short, the record in the folder says that there is no finished result in it.
    """
    left = replace(record, status="pending", hashes={}, files={}, facts={}, warnings=(), start=None, end=None)
    write_json(folder / layout.EXPERIMENT, left.to_json())
    names = [path.name for path in folder.iterdir() if layout.is_result_name(path.name)]
    target = supersede(folder, [name for name in names if name != layout.EXPERIMENT], record.identity)
    if target is not None:
        write_json(target / layout.EXPERIMENT, record.to_json())
