"""Claims: one holder at a time, whoever races, dies, sleeps or sits on another machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from unsay.errors import ClaimLostError, LockedError
from unsay.store import claims, layout, write

ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}

HOLDER = """
import sys, time
from pathlib import Path
from unsay.store import claims
claims.take(Path(sys.argv[1]), shared=len(sys.argv) > 2)
print("held", flush=True)
time.sleep(60)
"""


@contextmanager
def holding(folder: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), *options], stdout=subprocess.PIPE, env=ENVIRONMENT
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        yield child
    finally:
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()


def leave(folder: Path, owner: claims.Owner | None, *, ago: float = 0.0) -> Path:
    """Leave a claim as another process would have, last renewed some seconds ago."""
    path = folder / f"{layout.CLAIM_PREFIX}other"
    path.write_text("" if owner is None else json.dumps(owner.to_json()))
    renewed = path.stat().st_mtime - ago
    os.utime(path, (renewed, renewed))
    return path


ELSEWHERE = replace(claims.me(), host="elsewhere", boot_id="another")


def test_a_process_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    with holding(tmp_path) as child:
        with pytest.raises(LockedError, match=f"process {child.pid} on"):
            claims.take(tmp_path, wait=0.2)
        child.send_signal(signal.SIGSTOP)  # asleep is not gone
        with pytest.raises(LockedError):
            claims.take(tmp_path)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and still in the process table
        claim = claims.take(tmp_path)
        assert [each.path for each in claims.found(tmp_path)] == [claim.path]
        claim.release()
    assert list(tmp_path.iterdir()) == []


def test_a_process_id_used_again_is_not_its_owner(tmp_path: Path) -> None:
    own = claims.me()
    leave(tmp_path, replace(own, process_start=own.process_start - 1))
    claims.take(tmp_path).release()
    leave(tmp_path, own)
    with pytest.raises(LockedError):
        claims.take(tmp_path)


def test_another_machine_is_believed_as_long_as_it_gives_signs_of_life(tmp_path: Path) -> None:
    path = leave(tmp_path, ELSEWHERE, ago=claims.LOST_AFTER - 30)
    with pytest.raises(LockedError, match="stop it on elsewhere"):
        claims.take(tmp_path)
    assert path.exists()
    leave(tmp_path, ELSEWHERE, ago=claims.LOST_AFTER + 1)
    claims.take(tmp_path).release()
    assert not path.exists()


@pytest.mark.parametrize(
    "owner",
    [
        None,  # cut short by a crash
        replace(claims.me(), boot_id="earlier", pid=2**22 - 1),  # before a restart, or a machine of the same name
        replace(claims.me(), pid_namespace="pid:[1]", pid=2**22 - 1),  # another container of this machine
    ],
)
def test_a_process_that_cannot_be_looked_for_is_gone_only_after_a_while(
    tmp_path: Path, owner: claims.Owner | None
) -> None:
    leave(tmp_path, owner)
    with pytest.raises(LockedError):
        claims.take(tmp_path)
    leave(tmp_path, owner, ago=claims.LOST_AFTER + 1)
    claims.take(tmp_path).release()


def test_the_clock_that_counts_is_the_file_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose clock runs an hour ahead must not believe everybody else to be lost."""
    leave(tmp_path, ELSEWHERE)
    true_time = time.time
    monkeypatch.setattr(time, "time", lambda: true_time() + 3600)
    with pytest.raises(LockedError):
        claims.take(tmp_path)


def test_a_claim_that_may_not_be_read_is_believed_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = leave(tmp_path, claims.me())
    original = Path.read_bytes

    def read_bytes(self: Path) -> bytes:  # root may read everything
        if self.name == path.name:
            raise PermissionError(13, "Permission denied")
        return original(self)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    with pytest.raises(LockedError, match="cannot be read"):
        claims.take(tmp_path)


def test_a_claim_holds_wherever_its_process_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with write.lock(Path("lab")):
        claims.found(Path("lab"))[0].path.unlink()
        monkeypatch.chdir("/")
        with pytest.raises(ClaimLostError):
            write.write_text(tmp_path / "lab" / "file", "x")


def test_an_owner_gives_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "HEARTBEAT_EVERY", 0.05)
    claim = claims.take(tmp_path)
    os.utime(claim.path, (0, 0))
    deadline = time.monotonic() + 10
    while claim.path.stat().st_mtime == 0:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    claim.release()


def test_readers_go_together_and_exclude_a_writer(tmp_path: Path) -> None:
    with holding(tmp_path, "shared"):
        first = claims.take(tmp_path, shared=True)
        with pytest.raises(LockedError):
            claims.take(tmp_path)
        first.release()
    writer = claims.take(tmp_path)
    with pytest.raises(LockedError):
        claims.take(tmp_path, shared=True)
    writer.release()


def test_an_owner_that_was_taken_over_writes_nothing_more(tmp_path: Path) -> None:
    """What a machine does that wakes up after another one took over: every way to write is closed to it."""
    path, text, whole = tmp_path / "inner" / layout.TRACES, tmp_path / "log", tmp_path / layout.METRICS
    with write.lock(tmp_path), write.Journal(path) as journal:
        journal.append({"n": 0})
        write.append_text(text, "one\n")
        write.write_json(whole, {"n": 0})
        (held,) = claims.found(tmp_path)
        held.path.unlink()
        (tmp_path / "new").mkdir()
        attempts = [
            lambda: journal.append({"n": 1}),
            lambda: write.append_text(text, "two\n"),
            lambda: write.write_json(whole, {"n": 1}),
            lambda: write.supersede(tmp_path, [whole.name], "a" * 64),
            lambda: write.Journal(path),
        ]
        for attempt in attempts:
            with pytest.raises(ClaimLostError, match="took over"):
                attempt()
        with pytest.raises(ClaimLostError), write.filling(tmp_path / "new") as folder:
            (folder / "file").write_text("x")
        with pytest.raises(ClaimLostError), write.completing(tmp_path / "new") as folder:
            (folder / "file").write_text("x")
    assert list((tmp_path / "new").iterdir()) == []
    assert path.read_bytes().count(b"\n") == 1
    assert text.read_text() == "one\n"
    assert json.loads(whole.read_text()) == {"n": 0}
    assert list(tmp_path.glob(f"{layout.TEMPORARY_PREFIX}*")) == []


# Each takes the claim as often as it can, and leaves a mark while it has it: a second mark is a second holder.
RACER = """
import os, sys, time
from pathlib import Path
from unsay.errors import LockedError
from unsay.store import claims
folder, mark = Path(sys.argv[1]), Path(sys.argv[2])
claims.LOST_AFTER = 1e9 if sys.argv[3] == "here" else 0.5
if sys.argv[3] == "elsewhere":  # nobody can look for anybody's process: only signs of life count
    claims.HEARTBEAT_EVERY = 0.05
    claims.hostname = lambda: f"host-{os.getpid()}"
    claims.Owner.is_here = lambda self: False
print("ready", flush=True)
sys.stdin.readline()
until = time.monotonic() + 1
won = 0
while time.monotonic() < until:
    try:
        claim = claims.take(folder, wait=0.3)
    except LockedError:
        continue
    os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
    won += 1
    time.sleep(0.002)
    mark.unlink()
    claim.release()
print(won, flush=True)
"""


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_of_many_that_race_for_a_dead_claim_one_wins(tmp_path: Path, where: str) -> None:
    folder, mark = tmp_path / "folder", tmp_path / "mark"
    folder.mkdir()
    leave(folder, replace(ELSEWHERE, host="dead"), ago=1e10)
    command = [sys.executable, "-c", RACER, str(folder), str(mark), where]
    racers = [
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
        )
        for _ in range(4)
    ]
    for each in racers:
        assert each.stdout is not None
        assert each.stdout.readline() == b"ready\n"
    said = [each.communicate(b"\n", timeout=60) for each in racers]
    assert all(not error for _, error in said), said
    wins = [int(out) for out, _ in said]
    assert sum(wins) > 20
    assert list(folder.iterdir()) == []


def test_a_claim_is_not_left_behind_by_an_error(tmp_path: Path) -> None:
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError), write.lock(tmp_path):
        _ = 1 / 0
    assert list(tmp_path.iterdir()) == []
    assert threading.active_count() <= before + 1


def test_a_process_that_was_given_the_same_number_is_never_asked_to_stop(tmp_path: Path) -> None:
    with holding(tmp_path) as child:
        (claim,) = claims.found(tmp_path)
        assert claim.owner is not None
        earlier = replace(claim.owner, process_start=claim.owner.process_start - 1)
        assert not earlier.ask_to_stop()
        time.sleep(0.2)
        assert child.poll() is None
        assert claim.owner.ask_to_stop()
        assert child.wait(10) == -signal.SIGTERM
        assert not claim.owner.ask_to_stop()
