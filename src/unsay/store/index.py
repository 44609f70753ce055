"""What listing and filtering need of every experiment of a lab, without reading every experiment again.

    for one in Index(Path("outputs")).refresh():
        print(one.name, one.status)

Files are the truth. `.index.sqlite` in the lab folder is a copy of what was read from them, with a stamp of every
folder and record: each is looked at (one `stat`), and only what changed is read. The copy carries a checksum and is
replaced in one step, so that a crash, several writers, a network file system or a flipped bit cost reading the lab
again at most. Where it cannot be written, or there is no SQLite, the same comes from the files. Nothing here raises
for what is on disk.
"""

from __future__ import annotations

import os
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unsay.errors import StoreError
from unsay.records import ExperimentRecord
from unsay.store import layout, read, write

if TYPE_CHECKING:
    from sqlite3 import Connection

Progress = Callable[[int, int | None], None]
"""Called while records are read, with how many are and how many there are (None while they are being found)."""

FORMAT = 1
"""Version of the tables; a copy with another one is made again."""
SETTLED = 2_000_000_000
"""Nanoseconds after which a time stamp is trusted: a file can change twice within one tick of its file system."""
TICK = 0.1
"""Seconds in which the clock of a file system goes on."""
WORTH_WRITING = 50
"""Stamps that are written though nothing else changed; below that, looking again is cheaper."""

_CHECKSUM = slice(68, 72)
"""Where a SQLite file keeps its application's number: here the CRC-32 of the rest."""
_TABLES = """
CREATE TABLE folders (path TEXT PRIMARY KEY, stamp TEXT, linked INTEGER, archived INTEGER, problem TEXT) WITHOUT ROWID;
CREATE TABLE experiments (
    path TEXT PRIMARY KEY, stamp TEXT, id TEXT, model TEXT, dataset TEXT, method TEXT, config TEXT, seed,
    status TEXT, max_items, changed REAL, notes TEXT, problem TEXT
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Summary:
    """One experiment folder (or `limit_<n>` folder) in a list; `unsay.store.read.entry` reads all of it.

    `changed` is when the record last says that something happened, in seconds since 1970, None before it ran.
    """

    lab: Path
    relative: str
    id: str = ""
    model: str = ""
    dataset: str = ""
    method: str = ""
    config: str = ""
    seed: int = 0
    status: str = "unreadable"
    limit: int | None = None
    changed: float | None = None
    notes: str = ""
    problem: str | None = None
    archived: bool = False

    @property
    def name(self) -> str:
        """The experiment's id; its folder until it has one."""
        return self.id or self.relative

    @property
    def folder(self) -> Path:
        return self.lab / self.relative


@dataclass(frozen=True)
class Filter:
    """Which experiments are wanted. Names are patterns (`qwen*`), upper and lower case alike; none means any.

    `search` is a part of the id, the folder or the note. `archived` None means both kinds.
    """

    model: tuple[str, ...] = ()
    dataset: tuple[str, ...] = ()
    method: tuple[str, ...] = ()
    config: tuple[str, ...] = ()
    status: tuple[str, ...] = ()
    search: str = ""
    archived: bool | None = False

    def __call__(self, one: Summary) -> bool:
        if self.archived is not None and one.archived != self.archived:
            return False
        for name in ("model", "dataset", "method", "config", "status"):
            wanted = getattr(self, name)
            if wanted and not _matches(getattr(one, name), wanted):
                return False
        texts = (one.id, one.relative, one.notes) if self.search else ()
        return not self.search or any(self.search.casefold() in text.casefold() for text in texts)


def _matches(value: str, patterns: Iterable[str]) -> bool:
    folded = value.casefold()
    return any(folded == each.casefold() or fnmatchcase(folded, each.casefold()) for each in patterns)


@dataclass(slots=True)
class _Folder:
    """What is known of one folder of the lab. An empty stamp is never trusted."""

    stamp: str
    linked: bool = False
    archived: bool = False
    problem: str | None = None
    record_stamp: str | None = None
    """Of its experiment.json; None where there is none."""
    summary: tuple[Any, ...] = ()
    """Columns `id` to `problem` of its experiment."""


_COLUMNS = tuple(item.name for item in fields(Summary) if item.name not in ("lab", "relative", "archived"))


class Index:
    """The summaries of one lab; keep it to look again for less. Several threads may share it."""

    def __init__(self, lab: Path) -> None:
        self.lab = lab.absolute()
        self._root = str(self.lab)
        self._lock = threading.Lock()
        self._folders: dict[str, _Folder] | None = None
        self._gone: set[str] = set()
        self._changed: set[str] = set()
        self._restamped: set[str] = set()
        """Folders with nothing new but their stamp."""
        self._connection: Connection | None = None
        self._can_write = os.access(self.lab, os.W_OK)
        self._folders_tell = True
        """Whether a folder's time says that something in it came or went; there are file systems where it does not."""

    def refresh(self, progress: Progress | None = None) -> list[Summary]:
        """Return every experiment as it is on disk now, in the order of their folders."""
        with self._lock:
            if self._folders is None:
                self._connection, self._folders = _load(self.lab / layout.INDEX)
            self._look(progress or (lambda done, total: None))
            if self._can_write and (self._changed or len(self._restamped) >= WORTH_WRITING):
                self._can_write = self._save()
            return [self._summary(path, each) for path, each in sorted(self._folders.items()) if _is_listed(each)]

    def _summary(self, path: str, folder: _Folder) -> Summary:
        if folder.record_stamp is None:
            return Summary(self.lab, path, problem=folder.problem)
        archived = folder.archived
        if not archived and read.limit_of(path.rpartition("/")[2]) is not None:
            above = self._known.get(path.rpartition("/")[0])
            archived = above is not None and above.archived
        return Summary(*(self.lab, path, *folder.summary, archived))

    @property
    def _known(self) -> dict[str, _Folder]:
        assert self._folders is not None
        return self._folders

    # -- what changed -----------------------------------------------------------------

    def _look(self, progress: Progress) -> None:
        """Look at every folder and record that is known, and read what is new."""
        known = self._known
        if not known:
            self._walk_all(progress)
            return
        other: list[str] = []
        unread: list[str] = []
        for path, folder in known.items():
            try:
                if not (self._folders_tell and folder.stamp) or folder.stamp != _stamp(_status(f"{self._root}/{path}")):
                    other.append(path)
                elif folder.record_stamp is not None and not self._is_read(folder, path):
                    unread.append(path)
            except OSError:
                other.append(path)
        linked = any(folder.linked for folder in known.values())
        below = _below(known) if other else {}
        for path in other:
            if path in known and not self._look_into(path, below.get(path, set()), unread, linked):
                self._gone.clear()
                self._walk_all(progress)
                return
        self._forget_gone()
        self._read([path for path in unread if path in known], progress)

    def _look_into(self, path: str, before: set[str], unread: list[str], linked: bool) -> bool:
        """Look into a folder that changed, and into what is new below it.

        False where symbolic links decide what a folder is called: then only a walk from the top tells.
        """
        found = self._visit(path, unread)
        after = {_join(path, name) for name in found.below} if found is not None else set()
        if (linked or (found is not None and found.linked)) and (found is None or after != before):
            return False
        self._gone |= before - after if found is not None else {path}
        waiting = sorted(after - before)
        while waiting:
            new = waiting.pop()
            inner = self._visit(new, unread)
            if inner is not None:
                if inner.linked:
                    return False
                waiting += [_join(new, name) for name in inner.below]
        return True

    def _walk_all(self, progress: Progress) -> None:
        """Walk the whole lab from the top; records whose stamp is known are not read again."""
        seen: set[tuple[int, int]] = set()
        unread: list[str] = []
        found: set[str] = set()
        waiting = ["."]
        while waiting:
            path = waiting.pop()
            try:
                status = _status(f"{self._root}/{path}")
            except OSError:
                status = None
            if status is not None and (status.st_dev, status.st_ino) in seen:
                continue  # a symbolic link back up
            inside = self._visit(path, unread)
            if inside is None:
                continue
            if status is not None:
                seen.add((status.st_dev, status.st_ino))
            found.add(path)
            waiting += [_join(path, name) for name in reversed(inside.below)]
            if len(found) % 1000 == 0:
                progress(len(found), None)
        for path in self._known.keys() - found:
            del self._known[path]
            self._changed.add(path)
        self._read(unread, progress)

    def _visit(self, path: str, unread: list[str]) -> read.Inside | None:
        """Note what a folder holds, and in `unread` that its record has to be read; None where it is gone."""
        place = f"{self._root}/{path}"
        before = self._known.get(path)
        try:
            stamp = _stamp(_status(place))
            inside = read.inside(place)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            inside, stamp = read.Inside(False, False, (), False), ""
            folder = _Folder("", problem=read.cannot_list(error))
        else:
            # The lab folder is always looked into: writing the index changes it.
            folder = _Folder("" if path == "." else stamp, inside.linked, inside.archived)
        if inside.experiment:
            if before is not None and before.record_stamp is not None:
                folder.record_stamp, folder.summary = before.record_stamp, before.summary
            folder.record_stamp = folder.record_stamp or ""
            if not self._is_read(folder, path):
                unread.append(path)
        self._note(path, before, folder)
        return inside

    def _read(self, paths: list[str], progress: Progress) -> None:
        """Read the records of these folders."""
        for done, path in enumerate(paths):
            progress(done, len(paths))
            before = self._known[path]
            stamp = self._record_stamp(path)
            folder = _Folder(before.stamp, before.linked, before.archived)
            found = read.entry(self.lab, path)
            # What cannot be read is looked at again each time: why it cannot may have nothing to do with the file.
            folder.record_stamp = stamp if found.record is not None else ""
            folder.summary = _summary_of(found)
            self._note(path, before, folder)
        if paths:
            progress(len(paths), len(paths))

    def _is_read(self, folder: _Folder, path: str) -> bool:
        return folder.record_stamp != "" and folder.record_stamp == self._record_stamp(path)

    def _record_stamp(self, path: str) -> str:
        try:
            status = _status(f"{self._root}/{path}/{layout.EXPERIMENT}")
        except OSError:
            return ""
        return _stamp(status, f":{status.st_size}")

    def _note(self, path: str, before: _Folder | None, after: _Folder) -> None:
        self._known[path] = after
        if before is None or _without_stamps(before) != _without_stamps(after):
            self._changed.add(path)
        elif before != after:
            self._restamped.add(path)

    def _forget_gone(self) -> None:
        """Forget the folders that are gone with all below them."""
        for path in list(self._known) if self._gone else ():
            if path in self._gone or any(above in self._gone for above in _above(path)):
                del self._known[path]
                self._changed.add(path)
        self._gone.clear()

    # -- the copy ---------------------------------------------------------------------

    def _save(self) -> bool:
        """Write the copy and return True, or False where that is not possible."""
        paths = self._changed | self._restamped
        try:
            if self._connection is None:
                self._connection, paths = _empty(), set(self._known)
            _update(self._connection, paths, self._known)
            self._folders_tell = self._write(_sealed(self._connection.serialize()))
        except _failures():
            return False
        if not self._folders_tell:
            return False
        self._changed.clear()
        self._restamped.clear()
        return True

    def _write(self, data: bytes) -> bool:
        """Write the copy. False, and no copy, where the lab folder's time does not say that something was written."""
        path = self.lab / layout.INDEX
        for _ in range(2):
            before = _status(self._root).st_mtime_ns
            write.write_bytes(path, data)
            if _status(self._root).st_mtime_ns != before:
                return True
            time.sleep(TICK)
        path.unlink()
        return False


def _is_listed(folder: _Folder) -> bool:
    return folder.record_stamp is not None or folder.problem is not None


def _without_stamps(folder: _Folder) -> tuple[Any, ...]:
    return folder.linked, folder.archived, folder.problem, folder.record_stamp is None, folder.summary


def _status(path: str) -> os.stat_result:
    return os.stat(path)  # noqa: PTH116 - for every folder and record of a lab


def _stamp(status: os.stat_result, more: str = "") -> str:
    """Name the state of a file or folder; nothing where it changed so lately that it can have changed since."""
    if status.st_mtime_ns > time.time_ns() - SETTLED:
        return ""
    return f"{status.st_ino}:{status.st_mtime_ns}{more}"


def _join(path: str, name: str) -> str:
    return name if path == "." else f"{path}/{name}"


def _above(path: str) -> Iterator[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def _below(known: Iterable[str]) -> dict[str, set[str]]:
    below: dict[str, set[str]] = {}
    for path in known:
        if path != ".":
            below.setdefault(path.rpartition("/")[0] or ".", set()).add(path)
    return below


def _summary_of(entry: read.Entry) -> tuple[Any, ...]:
    record = entry.record
    if record is None:
        return ("", "", "", "", "", 0, "unreadable", entry.limit, None, "", entry.problem)
    names = (record.id or "", record.model, record.dataset, record.method, record.config)
    return (*names, record.seed, record.status, entry.limit, _last_change(record), record.notes, None)


def _last_change(record: ExperimentRecord) -> float | None:
    times = [record.end, record.start, *(record.attempts[-1:] and (record.attempts[-1].started,))]
    found = []
    for text in times:
        try:
            found.append(datetime.fromisoformat(text).timestamp() if text else None)
        except (ValueError, OverflowError, OSError):
            continue
    return max((each for each in found if each is not None), default=None)


# -- SQLite -----------------------------------------------------------------------


def _failures() -> tuple[type[Exception], ...]:
    """What reading or writing the copy can end with: broken files, a full disk, a Python without (all of) SQLite."""
    try:
        from sqlite3 import Error
    except ImportError:
        return (ImportError, OSError, StoreError)
    return (Error, OSError, StoreError, AttributeError, OverflowError, ValueError, TypeError, MemoryError)


def _load(path: Path) -> tuple[Connection | None, dict[str, _Folder]]:
    """Return what the copy holds, and the database; nothing where it is not there, not whole, or not ours."""
    try:
        data = path.read_bytes()
        if len(data) < _CHECKSUM.stop or data[_CHECKSUM] != _checksum(data):
            return None, {}
        connection = _open()
        connection.deserialize(data)
        if connection.execute("PRAGMA user_version").fetchone() != (FORMAT,):
            return None, {}
        return connection, dict(_rows(connection))
    except _failures():
        return None, {}


def _rows(connection: Connection) -> Iterator[tuple[str, _Folder]]:
    columns = f"e.stamp, {', '.join(f'e.{_sql(name)}' for name in _COLUMNS)}"
    query = f"SELECT f.path, f.stamp, linked, archived, f.problem, {columns} FROM folders f LEFT JOIN experiments e "
    for path, stamp, linked, archived, problem, record, *summary in connection.execute(f"{query} USING (path)"):
        if record is not None:
            summary[_SEED] = int(summary[_SEED])
            summary[_LIMIT] = None if summary[_LIMIT] is None else int(summary[_LIMIT])
        known = tuple(summary) if record is not None else ()
        yield path, _Folder(stamp, bool(linked), bool(archived), problem, record, known)


_SEED, _LIMIT = _COLUMNS.index("seed"), _COLUMNS.index("limit")


def _sql(column: str) -> str:
    return "max_items" if column == "limit" else column


def _open() -> Connection:
    import sqlite3

    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    connection.text_factory = lambda data: data.decode("utf-8", "surrogatepass")
    return connection


def _empty() -> Connection:
    connection = _open()
    connection.executescript(_TABLES)
    connection.execute(f"PRAGMA user_version = {FORMAT}")
    return connection


def _update(connection: Connection, paths: Iterable[str], known: dict[str, _Folder]) -> None:
    """Write these folders as they are known now; those that are not known any more go."""
    named = [(_value(path),) for path in paths]
    left = [(path, known[path]) for path in paths if path in known]
    folders = [(path, each.stamp, int(each.linked), int(each.archived), each.problem) for path, each in left]
    records = [(path, each.record_stamp, *each.summary) for path, each in left if each.record_stamp is not None]
    text = "CAST(? AS TEXT)"
    connection.execute("BEGIN")
    for table, rows, marks in (
        ("folders", folders, [text, text, "?", "?", text]),
        ("experiments", records, [text, text, *("?" if name in _NUMBERS else text for name in _COLUMNS)]),
    ):
        connection.executemany(f"DELETE FROM {table} WHERE path = {text}", named)
        values = (tuple(map(_value, row)) for row in rows)
        connection.executemany(f"INSERT INTO {table} VALUES ({', '.join(marks)})", values)
    connection.execute("COMMIT")


_NUMBERS = ("seed", "limit", "changed")


def _value(value: Any) -> Any:
    """Return a value as SQLite takes it: text that may hold half a surrogate pair as bytes, a long number as text."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    return str(value) if isinstance(value, int) and value.bit_length() > 63 else value


def _sealed(data: bytes) -> bytes:
    return data[: _CHECKSUM.start] + _checksum(data) + data[_CHECKSUM.stop :]


def _checksum(data: bytes) -> bytes:
    return zlib.crc32(data[_CHECKSUM.stop :], zlib.crc32(data[: _CHECKSUM.start])).to_bytes(4, "big")
