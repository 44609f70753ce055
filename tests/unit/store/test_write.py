"""Whole files, journals, locks and superseding, with real processes and real kills."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.lab import ARMS, record_of
from unsay.errors import LockedError, StoreError
from unsay.store import claims, layout, read, write

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
json_lines = st.dictionaries(st.text().filter(lambda key: key != "crc32"), json_values, min_size=1, max_size=5)


# -- whole files ------------------------------------------------------------------


def test_write_json_is_indented_readable_and_ends_with_a_line_break(tmp_path: Path) -> None:
    write.write_json(tmp_path / "deep" / "a.json", {"name": "Zürich", "n": [1]})
    text = (tmp_path / "deep" / "a.json").read_text(encoding="utf-8")
    assert text == '{\n  "name": "Zürich",\n  "n": [\n    1\n  ]\n}\n'


def test_a_failed_write_keeps_the_old_content_and_leaves_no_file_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "metrics.json"
    write.write_text(path, "old")

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StoreError, match=r"No space left.*run the command again"):
        write.write_text(path, "new")
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["metrics.json"]


def test_a_refused_value_leaves_no_file_behind(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write.write_json(tmp_path / "a.json", {"value": float("nan")})
    assert list(tmp_path.iterdir()) == []


@given(json_values)
@settings(max_examples=40, deadline=None)
def test_json_round_trip(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.mktemp("json") / "a.json"
    write.write_json(path, value)
    assert json.loads(path.read_bytes()) == value


def test_half_a_surrogate_pair_survives(tmp_path: Path) -> None:
    write.write_json(tmp_path / "a.json", {"text": "\ud83d"})
    assert json.loads((tmp_path / "a.json").read_bytes()) == {"text": "\ud83d"}


# -- journals ---------------------------------------------------------------------


@given(st.lists(json_lines, max_size=6))
@settings(max_examples=40, deadline=None)
def test_journal_round_trip(tmp_path_factory: pytest.TempPathFactory, lines: list[dict[str, Any]]) -> None:
    path = tmp_path_factory.mktemp("journal") / "traces.jsonl"
    with write.Journal(path) as journal:
        for line in lines[:3]:
            journal.append(line)
    with write.Journal(path) as journal:
        for line in lines[3:]:
            journal.append(line)
    assert list(read.read_lines(path)) == lines
    assert not path.with_name("traces.jsonl.torn").exists()


def test_a_line_is_plain_json_ending_with_its_checksum(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with write.Journal(path) as journal:
        journal.append({"a": 1, "b": "é"})
    assert path.read_bytes() == '{"a":1,"b":"é","crc32":"18d73b40"}\n'.encode()


@given(st.lists(json_lines, min_size=1, max_size=4), st.data())
@settings(max_examples=60, deadline=None)
def test_a_torn_tail_is_moved_aside_and_appending_goes_on(
    tmp_path_factory: pytest.TempPathFactory, lines: list[dict[str, Any]], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("torn") / "traces.jsonl"
    whole = b"".join(write.seal(line) for line in lines)
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    complete = whole[:cut].count(b"\n")
    assert list(read.read_lines(path)) == lines[:complete]
    with write.Journal(path) as journal:
        journal.append({"next": 1})
    assert list(read.read_lines(path)) == [*lines[:complete], {"next": 1}]
    good = sum(len(write.seal(line)) for line in lines[:complete])
    torn = path.with_name("traces.jsonl.torn")
    assert (torn.read_bytes() if torn.exists() else b"") == (whole[good:cut] + b"\n" if cut > good else b"")


def test_two_torn_tails_are_both_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for tail in (b'{"first', b'{"second":1,"crc32":"00000000"}\n'):
        with path.open("ab") as file:
            file.write(tail)
        write.Journal(path).close()
    assert (tmp_path / "a.jsonl.torn").read_bytes() == b'{"first\n{"second":1,"crc32":"00000000"}\n'
    assert path.read_bytes() == b""


def test_a_damaged_line_in_the_middle_is_skipped_and_stays_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    damaged = write.seal({"n": 2}).replace(b"2", b"3", 1)
    path.write_bytes(write.seal({"n": 1}) + damaged + write.seal({"n": 4}))
    write.Journal(path).close()
    assert damaged in path.read_bytes()
    assert list(read.read_lines(path)) == [{"n": 1}, {"n": 4}]


@pytest.mark.parametrize("obj", [{}, {"crc32": "x"}])
def test_lines_that_could_not_be_checked_are_refused(tmp_path: Path, obj: dict[str, Any]) -> None:
    with write.Journal(tmp_path / "a.jsonl") as journal, pytest.raises(ValueError, match="crc32"):
        journal.append(obj)


def test_a_short_write_is_taken_back_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    real = os.write
    with write.Journal(path) as journal:
        journal.append({"n": 1})
        monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:5]))
        with pytest.raises(StoreError, match=r"only 5 of \d+ bytes"):
            journal.append({"n": 2})
        monkeypatch.undo()
        journal.append({"n": 3})
    assert list(read.read_lines(path)) == [{"n": 1}, {"n": 3}]


APPENDER = """
import sys
from pathlib import Path
from unsay.store import write
with write.Journal(Path(sys.argv[1])) as journal:
    n = int(sys.argv[2])
    while True:
        journal.append({"n": n, "text": "x" * (n * 7919 % 40000)})
        print(n, flush=True)
        n += 1
"""


def test_a_killed_writer_loses_no_line_that_append_returned_for(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    rng = random.Random(0)
    for _ in range(6):
        before = len(list(read.read_lines(path)))
        child = subprocess.Popen(
            [sys.executable, "-c", APPENDER, str(path), str(before)],
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert child.stdout is not None
        assert child.stdout.readline()
        time.sleep(rng.uniform(0, 0.1))
        child.send_signal(signal.SIGKILL)
        told = [before, *(int(line) for line in child.stdout.read().split(b"\n")[:-1])]
        child.stdout.close()
        assert child.wait() == -signal.SIGKILL
        found = [line["n"] for line in read.read_lines(path)]
        assert found == list(range(len(found)))
        assert len(found) > max(told)
        with path.open("ab") as file:  # what a crash in the middle of a write leaves
            file.write(write.seal({"n": -1, "text": "torn"})[: rng.randrange(1, 20)])


# -- locks ------------------------------------------------------------------------

HOLDER = """
import sys, time
from pathlib import Path
from unsay.store import write
with write.lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_names_its_holder_and_is_freed_when_the_holder_is_killed(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        expected = rf"process {child.pid} on .* is writing .*`kill {child.pid}`"
        with pytest.raises(LockedError, match=expected), write.lock(tmp_path):
            pass
    finally:
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()
    with write.lock(tmp_path, wait=5):
        assert [each.owner for each in claims.found(tmp_path)] == [claims.me()]
    assert list(tmp_path.iterdir()) == []


def test_a_lock_can_be_taken_again_and_again(tmp_path: Path) -> None:
    for _ in range(3):
        with write.lock(tmp_path / "new"):
            pass


# -- superseding ------------------------------------------------------------------


def test_superseding_moves_and_never_overwrites(tmp_path: Path) -> None:
    for content in ("first", "second"):
        (tmp_path / "experiment.json").write_text(content)
        (tmp_path / "train").mkdir()
        (tmp_path / "train" / "adapter").write_text(content)
        write.supersede(tmp_path, ["experiment.json", "train", "absent.json"], "a" * 64)
    assert sorted(item.name for item in (tmp_path / "superseded").iterdir()) == ["a" * 12, "a" * 12 + "-2"]
    assert (tmp_path / "superseded" / ("a" * 12) / "train" / "adapter").read_text() == "first"
    assert (tmp_path / "superseded" / ("a" * 12 + "-2") / "experiment.json").read_text() == "second"
    assert [item.name for item in tmp_path.iterdir()] == ["superseded"]


def test_superseding_nothing_makes_no_folder(tmp_path: Path) -> None:
    assert write.supersede(tmp_path, ["experiment.json"], "b" * 64) is None
    assert list(tmp_path.iterdir()) == []


def test_a_result_set_aside_leaves_its_id_and_no_finished_result(tmp_path: Path) -> None:
    record = record_of(ARMS[0])
    write.write_json(tmp_path / layout.EXPERIMENT, record.to_json())
    (tmp_path / layout.METRICS).write_text("{}")
    (tmp_path / layout.TRAIN).mkdir()
    write.set_aside(tmp_path, record)
    left, kept = read.record(tmp_path), read.record(layout.superseded(tmp_path, record.identity))
    assert left is not None
    assert (left.id, left.notes, left.status, left.files) == (record.id, record.notes, "pending", {})
    assert kept == record
    assert not (tmp_path / layout.METRICS).exists()
    assert (layout.superseded(tmp_path, record.identity) / layout.METRICS).exists()
    assert (tmp_path / layout.TRAIN).exists()


# -- what libraries write ---------------------------------------------------------


def fail_in(place: AbstractContextManager[Path], name: str, error: Exception) -> None:
    """Write a part of a file, and fail."""
    with place as beside:
        (beside / name).write_bytes(b"half")
        raise error


def test_files_of_a_library_take_their_names_together_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "train"
    with write.filling(folder) as beside:
        (beside / "a.json").write_text("1")
        (beside / "b.json").write_text("2")
        assert not list(folder.glob("*.json"))
    assert sorted(path.name for path in folder.iterdir()) == ["a.json", "b.json"]
    with pytest.raises(ValueError, match="the library's own"):
        fail_in(write.filling(folder), "a.json", ValueError("the library's own"))
    assert (folder / "a.json").read_text() == "1"
    assert sorted(path.name for path in folder.iterdir()) == ["a.json", "b.json"]


def test_a_folder_is_replaced_when_the_new_one_is_full(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-1"
    for content in ("old", "new"):
        with write.completing(folder) as beside:
            (beside / content).write_text(content)
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        Exception("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
    ids=["python", "rust"],
)
def test_what_a_library_could_not_write_is_named_by_its_own_name(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(StoreError, match=rf"cannot write {tmp_path}/step/weights: No space left"):
        fail_in(write.completing(tmp_path / "step"), "weights", error)
    assert list(tmp_path.iterdir()) == []


def test_a_half_written_line_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "trainer_log.jsonl"
    write.append_text(path, "first\n")
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:3]))
    with pytest.raises(StoreError, match=f"cannot write {path}"):
        write.append_text(path, "second\n")
    assert path.read_text() == "first\n"


def test_what_a_killed_process_left_unnamed_goes_and_nothing_else(tmp_path: Path) -> None:
    old, fresh, folder = (tmp_path / f".unsay-{name}.tmp" for name in ("old", "fresh", "folder"))
    for path in (old, fresh, tmp_path / "metrics.json", tmp_path / ".unsay-served"):
        path.write_text("")
    (folder / "model").mkdir(parents=True)
    os.utime(old, (0, 0))
    write.clear_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".unsay-fresh.tmp", ".unsay-served", "metrics.json"]
