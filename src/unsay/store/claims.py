"""Who is at work in a folder: claims that hold on one machine and on a file system that several machines share.

    claim = claims.take(folder)       # LockedError, naming the holder, where somebody else is at work
    claims.check(path)                # ClaimLostError where a claim of this process on that path was taken over
    claim.release()

A claim is a file with a name of its own in the folder that it is about. Whoever wants the folder first leaves a claim
and then looks for others: of two at the same time at least one sees the other and takes its claim back, so that never
both go on. Nothing is renamed over and no file name is used twice, so that removing one's own claim, or a dead one,
cannot hit anybody else's.

A claim is dead when its process is gone (seen from the same machine), or when it was not renewed for `LOST_AFTER`
seconds (from anywhere else; both times are the file system's, whatever the machines' clocks say). Removing a dead claim
is the take-over: an owner that was only asleep finds its claim gone before it writes again.
"""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from unsay.errors import ClaimLostError, LockedError
from unsay.records import SCHEMA
from unsay.store import layout

HEARTBEAT_EVERY = 5.0
"""Seconds between two signs of life."""

LOST_AFTER = 180.0
"""Seconds without a sign of life after which whoever is at work on another machine counts as lost."""


# -- processes --------------------------------------------------------------------


@dataclass(frozen=True)
class Owner:
    """A process, named so that another one can tell whether it is still there."""

    pid: int
    host: str
    boot_id: str
    process_start: float
    """When it started, in units that only mean something on its machine: process ids are used again."""
    pid_namespace: str = ""
    """Containers of one machine count their processes each for itself."""

    def to_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA} | asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Owner:
        return cls(
            int(value["pid"]),
            str(value["host"]),
            str(value["boot_id"]),
            float(value["process_start"]),
            str(value.get("pid_namespace", "")),
        )

    def is_here(self) -> bool:
        """Say whether its process id means something in this process's world."""
        own = me()
        return (self.host, self.boot_id, self.pid_namespace) == (own.host, own.boot_id, own.pid_namespace)

    def is_there(self) -> bool:
        """Say whether the process of this machine is there: this very one, and not only waiting to be collected."""
        start = process_start(self.pid)
        return start is not None and (start == self.process_start or UNKNOWN_START in (start, self.process_start))

    def ask_to_stop(self) -> bool:
        """Send SIGTERM to the process of this machine, if it is there and may be asked; never to another one."""
        if not hasattr(os, "pidfd_open"):
            with suppress(OSError):
                if self.is_there():
                    os.kill(self.pid, signal.SIGTERM)
                    return True
            return False
        with suppress(OSError):
            process = os.pidfd_open(self.pid)  # from here on it names this process and no later one of its number
            try:
                if self.is_there():
                    signal.pidfd_send_signal(process, signal.SIGTERM)
                    return True
            finally:
                os.close(process)
        return False


UNKNOWN_START = -1.0
"""The start of a process that is there and that this user may not look at."""


def me() -> Owner:
    """Describe this process."""
    pid = os.getpid()
    return Owner(pid, hostname(), boot_id(), process_start(pid) or UNKNOWN_START, _pid_namespace())


def boot_id() -> str:
    """Return a name for the time since this machine was last started; process ids mean something only within it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        import psutil

        return f"booted-{int(psutil.boot_time())}"


def hostname() -> str:
    return os.uname().nodename


def process_start(pid: int) -> float | None:
    """Return when a process started, `UNKNOWN_START` where that cannot be seen, None where there is none."""
    if sys.platform == "linux":  # ticks since the machine was started: they stay when its clock is set
        with suppress(OSError, ValueError, IndexError):
            fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
            return None if fields[0] in "ZX" else float(fields[19])
    else:
        import psutil

        with suppress(psutil.AccessDenied):
            try:
                process = psutil.Process(pid)
                return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
            except psutil.NoSuchProcess:
                return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return UNKNOWN_START


def _pid_namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


# -- claims -----------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """A claim as another process sees it; `owner` is None where it cannot be read."""

    path: Path
    owner: Owner | None
    shared: bool
    renewed: float
    """When its owner last gave a sign of life, by the file system's clock."""

    def is_alive(self, now: float) -> bool:
        """Say whether somebody is behind it; `now` by the file system's clock."""
        if self.owner is not None and self.owner.is_here():
            return self.owner.is_there()
        return now - self.renewed < LOST_AFTER

    def who(self) -> str:
        """Name its holder and what can be done about it."""
        does = f"is {'reading' if self.shared else 'writing'} {self.path.parent}"
        if self.owner is None:
            return f"another process {does} (its claim {self.path.name} cannot be read)"
        return f"process {self.owner.pid} on {self.owner.host} {does}"

    def how_to_stop(self) -> str:
        if self.owner is None:
            return "or stop it"
        return f"or stop it {f'with `kill {self.owner.pid}`' if self.owner.is_here() else f'on {self.owner.host}'}"


@dataclass
class Claim:
    """A claim of this process; it is renewed by a thread until it is released."""

    path: Path
    shared: bool
    _released: threading.Event = field(default_factory=threading.Event)

    def check(self) -> None:
        """Raise ClaimLostError where somebody took over, as after this machine was asleep."""
        try:
            os.close(os.open(self.path, os.O_RDONLY))  # unlike its status, opening is never answered from a cache
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ESTALE):
                raise
            raise ClaimLostError(
                f"another process took over {self.path.parent}: this one gave no sign of life for {LOST_AFTER:.0f} s, "
                "as when its machine is asleep, or its claim was deleted. Nothing was written since; `unsay status` "
                "shows who is at work."
            ) from None

    def release(self) -> None:
        self._released.set()
        _held.remove(self)
        with suppress(OSError):
            self.path.unlink()

    def renew(self) -> None:
        while not self._released.wait(HEARTBEAT_EVERY):
            with suppress(OSError):
                os.utime(self.path)  # without a time: the file system takes its own


_held: list[Claim] = []


def take(folder: Path, *, wait: float = 0.0, shared: bool = False) -> Claim:
    """Claim a folder, making it if need be; LockedError where others are at work for longer than `wait` seconds.

    Shared claims go together, and exclude one that is not. OSError where nothing can be written.
    """
    deadline = time.monotonic() + wait
    while True:
        other = in_the_way(folder, shared=shared)
        if other is None:
            claim, other = _try(folder, shared)
            if other is None:
                _held.append(claim)
                threading.Thread(target=claim.renew, daemon=True).start()
                return claim
        if time.monotonic() >= deadline:
            raise LockedError(
                f"{other.who()}. Wait until it has finished (`unsay status` shows how far it is), "
                f"{other.how_to_stop()}; then run the same command again."
            )
        time.sleep(min(random.uniform(0.02, 0.2), max(0.0, deadline - time.monotonic())))


def in_the_way(folder: Path, *, shared: bool = False) -> Found | None:
    """Return whose claim excludes one on this folder now; None where it could be had. OSError as `take`."""
    others = [each for each in found(folder) if not (shared and each.shared)]
    if not others:
        return None
    elsewhere = any(each.owner is None or not each.owner.is_here() for each in others)
    now = _file_clock(folder) if elsewhere else 0.0
    return next((each for each in others if each.is_alive(now)), None)


def _file_clock(folder: Path) -> float:
    """Return what time it is for the file system."""
    path = folder / f"{layout.TEMPORARY_PREFIX}{os.urandom(6).hex()}{layout.TEMPORARY_SUFFIX}"
    try:
        path.touch(exist_ok=False)
        return path.stat().st_mtime
    finally:
        path.unlink(missing_ok=True)


def _try(folder: Path, shared: bool) -> tuple[Claim, Found | None]:
    """Leave a claim, then look: return it, or who is in the way after it was taken back."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{layout.CLAIM_PREFIX}{layout.SHARED if shared else ''}{os.urandom(6).hex()}"
    claim = Claim(folder.absolute() / name, shared)
    temporary = folder / f"{layout.TEMPORARY_PREFIX}{name}{layout.TEMPORARY_SUFFIX}"
    try:
        temporary.write_text(json.dumps(me().to_json()) + "\n", encoding="utf-8")
        temporary.rename(claim.path)
        now = claim.path.stat().st_mtime
        for other in found(folder):
            if other.path.name == name:
                continue
            if not other.is_alive(now):
                other.path.unlink(missing_ok=True)
            elif not (shared and other.shared):
                claim.path.unlink()
                return claim, other
    except BaseException:
        for path in (temporary, claim.path):
            with suppress(OSError):
                path.unlink()
        raise
    return claim, None


def found(folder: Path) -> list[Found]:
    """Return the claims in a folder, dead ones too; none where there is no folder."""
    claims = []
    with suppress(FileNotFoundError), os.scandir(folder) as items:
        for item in items:
            if item.name.startswith(layout.CLAIM_PREFIX):
                path = folder / item.name
                with suppress(FileNotFoundError):  # released while we look
                    claims.append(Found(path, _owner(path), _is_shared(path), path.stat().st_mtime))
    return claims


def check(path: Path) -> None:
    """Raise ClaimLostError where a claim of this process on a folder above `path` was taken over."""
    place = path.absolute()
    for claim in tuple(_held):
        if claim.path.parent in (place, *place.parents):
            claim.check()


def _is_shared(path: Path) -> bool:
    return path.name.startswith(layout.CLAIM_PREFIX + layout.SHARED)


def _owner(path: Path) -> Owner | None:
    try:
        return Owner.from_json(json.loads(path.read_bytes()))
    except (PermissionError, ValueError, KeyError, TypeError, AttributeError):
        return None
