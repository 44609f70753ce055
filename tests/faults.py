"""Make the n-th write of a process fail: opening, writing, syncing or renaming a file, making a folder.

Python announces most of these to its audit hooks, whoever does them; what is written to an open file, and what
safetensors writes, is watched where it goes through Python.

    Faults(folder, log, at=17, error=errno.ENOSPC)()      # in the process that is to fail
"""

from __future__ import annotations

import errno
import io
import os
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_NOT_COUNTED = ("output.txt", ".heartbeat")


@dataclass(frozen=True)
class Faults:
    """What is to fail. `at` counts from 0 over the main thread's writes below `folder`; None fails nothing.

    Every write is a line of `log`: its number, what it is, its path. VANISH takes away the file that is to be renamed.
    """

    folder: Path
    log: Path
    at: int | None = None
    error: int = errno.ENOSPC
    vanish: bool = False

    def __call__(self) -> None:
        watcher = _Watcher(self)
        sys.addaudithook(watcher.audited)
        os.write = watcher.write  # type: ignore[assignment]
        os.fsync = watcher.fsync
        os.fdopen = watcher.fdopen  # type: ignore[assignment]
        import safetensors.torch

        watcher.serialize_file = safetensors.torch.serialize_file
        safetensors.torch.serialize_file = watcher.save_tensors


class _Watcher:
    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.count = 0
        self.busy = False
        self.log = faults.log.open("w")
        self.real_write, self.real_fsync, self.real_fdopen = os.write, os.fsync, os.fdopen
        self.serialize_file: Any = None

    def tick(self, kind: str, path: Any) -> bool:
        """Count one write; say whether it is the one that is to fail."""
        if self.busy or threading.current_thread() is not threading.main_thread() or not isinstance(path, str | Path):
            return False
        place = str(path)
        if not Path(place).is_absolute() or not place.startswith(f"{self.faults.folder}/"):
            return False
        if place.endswith(_NOT_COUNTED):
            return False
        self.busy = True
        number, self.count = self.count, self.count + 1
        self.log.write(f"{number}\t{kind}\t{place}\n")
        self.log.flush()
        self.busy = False
        return number == self.faults.at

    def fails(self, path: Any) -> OSError:
        return OSError(self.faults.error, os.strerror(self.faults.error), str(path))

    def audited(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if flags & WRITING and self.tick("open", path):
                raise self.fails(path)
        elif event == "os.rename":
            source, target = arguments[:2]
            if self.tick("rename", str(target)):
                if not self.faults.vanish:
                    raise self.fails(target)
                if Path(source).is_file():
                    Path(source).unlink()
        elif event == "os.mkdir" and not Path(arguments[0]).exists() and self.tick("mkdir", str(arguments[0])):
            raise self.fails(arguments[0])
        elif event == "os.link" and self.tick("link", str(arguments[1])):
            raise self.fails(arguments[1])

    def write(self, descriptor: int, data: bytes) -> int:
        path = self.path_of(descriptor)
        if self.tick("write", path):
            self.real_write(descriptor, data[: len(data) // 2])  # half a line reached the disk
            raise self.fails(path)
        return self.real_write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        path = self.path_of(descriptor)
        # A folder's is passed over where the file system has none; the rename before it has happened anyway.
        if path is not None and not Path(path).is_dir() and self.tick("fsync", path):
            raise self.fails(path)
        self.real_fsync(descriptor)

    def fdopen(self, descriptor: int, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        path = self.path_of(descriptor)
        if mode != "wb" or path is None:
            return self.real_fdopen(descriptor, mode, *arguments, **options)
        return io.BufferedWriter(_Raw(descriptor, self, path))

    def save_tensors(self, tensors: Any, filename: Any, metadata: Any = None) -> None:
        if self.tick("tensors", str(filename)):
            Path(filename).write_bytes(b"half a file")
            from safetensors import SafetensorError

            number = self.faults.error
            raise SafetensorError(f"Error while serializing: I/O error: {os.strerror(number)} (os error {number})")
        self.serialize_file(tensors, filename, metadata=metadata)

    @staticmethod
    def path_of(descriptor: int) -> str | None:
        try:
            return str(Path(f"/proc/self/fd/{descriptor}").readlink())
        except OSError:
            return None


class _Raw(io.FileIO):
    """An open file whose writes are counted."""

    def __init__(self, descriptor: int, watcher: _Watcher, path: str) -> None:
        super().__init__(descriptor, "w")
        self.watcher = watcher
        self.path = path

    def write(self, data: Any) -> int:
        if self.watcher.tick("write", self.path):
            super().write(bytes(data)[: len(data) // 2])
            raise self.watcher.fails(self.path)
        return int(super().write(data) or 0)
