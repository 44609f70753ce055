"""The index says what the files say, whatever happens to either, and reads again only what changed."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.lab import ARMS, Arm, change_record, make, make_lab, record_of
from unsay.store import archive, index, layout, read, write
from unsay.store.index import Filter, Index, Summary

SOURCE = str(Path(index.__file__).parents[2])


def expected(lab: Path) -> list[Summary]:
    """What a walk over the whole lab finds, as the index should say it."""
    found = []
    for entry in read.find(lab.absolute()):
        values = (entry.relative, *index._summary_of(entry), entry.archived)
        found.append(Summary(lab.absolute(), *values))
    return sorted(found, key=lambda one: one.relative)


def assert_true(lab: Path, *kept: Index) -> None:
    """Assert that a new index, and those that were used before, say what is on disk."""
    wanted = expected(lab)
    for each in (*kept, Index(lab)):
        assert sorted(each.refresh(), key=lambda one: one.relative) == wanted


_ages = count(1)


def age(lab: Path) -> None:
    """Make everything that was written since the last call old, and nothing as old as anything else."""
    for folder, _, names in os.walk(lab):
        for path in (Path(folder), *(Path(folder, name) for name in names)):
            if not path.is_symlink() and path.stat().st_mtime > 1e9:
                os.utime(path, (next(_ages), next(_ages)))


def reads(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Note which folders are listed and which records are read from now on."""
    seen: dict[str, list[str]] = {"listed": [], "read": []}
    inside, entry = read.inside, read.entry
    monkeypatch.setattr(read, "inside", lambda folder: seen["listed"].append(str(folder)) or inside(folder))
    monkeypatch.setattr(read, "entry", lambda lab, path: seen["read"].append(path) or entry(lab, path))
    return seen


# -- the same as the files ----------------------------------------------------------


def test_it_says_what_a_walk_over_the_lab_finds(tmp_path: Path) -> None:
    lab = make_lab(tmp_path / "outputs")
    write.write_text(lab / "broken" / layout.EXPERIMENT, "{")
    archive.archive(lab / ARMS[3].folder)
    assert_true(lab)
    assert (lab / layout.INDEX).exists()
    found = {one.relative: one for one in Index(lab).refresh()}
    assert found["broken"].status == "unreadable"
    assert "is not JSON" in str(found["broken"].problem)
    assert [path for path, one in found.items() if one.archived] == [ARMS[3].folder, ARMS[4].folder]
    assert found[ARMS[0].folder].changed == pytest.approx(1759503528.0)


def test_a_settled_lab_is_not_read_again_and_a_new_result_is_all_that_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = make_lab(tmp_path / "outputs", tuple(Arm(f"EXP-{n}", config=f"fewshot_{n}") for n in range(60)))
    age(lab)
    Index(lab).refresh()
    seen = reads(monkeypatch)
    assert len(Index(lab).refresh()) == 60
    assert seen == {"listed": [f"{lab}/."], "read": []}
    new = make(lab, Arm("EXP-100", model="another"))
    seen["listed"].clear()
    written = (lab / layout.INDEX).stat().st_ino
    assert "EXP-100" in [one.id for one in Index(lab).refresh()]
    assert seen["read"] == [new.relative_to(lab).as_posix()]
    assert len(seen["listed"]) == 1 + len(new.relative_to(lab).parts)
    assert (lab / layout.INDEX).stat().st_ino != written
    age(lab)
    Index(lab).refresh()
    seen["read"].clear()
    change_record(lab / "qwen3-4b/gsm8k/vanilla/lm_eval/fewshot_7", notes="other")
    assert [one.id for one in Index(lab).refresh() if one.notes == "other"] == ["EXP-7"]
    # A few stamps that settled are not worth writing the copy again: those are read anew.
    assert set(seen["read"]) == {"qwen3-4b/gsm8k/vanilla/lm_eval/fewshot_7", new.relative_to(lab).as_posix()}


def test_what_was_written_this_moment_is_not_trusted(tmp_path: Path) -> None:
    """Within one tick of the file system's clock a file changes without a new time stamp."""
    lab = make_lab(tmp_path / "outputs")
    kept = Index(lab)
    path = lab / ARMS[0].folder / layout.EXPERIMENT
    before = path.stat()
    kept.refresh()
    text = path.read_text()
    with path.open("r+") as file:  # in place: the same file, as long as before
        file.write(text.replace('"completed"', '"cancelled"', 1))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert_true(lab, kept)
    assert next(one for one in kept.refresh() if one.id == "EXP-001").status == "cancelled"


CHANGES: tuple[Callable[[random.Random, Path, list[Path]], object], ...] = (
    lambda rng, lab, there: make(lab, Arm(f"NEW-{next(_ages)}", config=f"fewshot_{next(_ages)}")),
    lambda rng, lab, there: make(
        lab, Arm(f"NEW-{next(_ages)}", model=f"m{next(_ages)}", method="sft", config="lora/x")
    ),
    lambda rng, lab, there: shutil.rmtree(rng.choice(there)),
    lambda rng, lab, there: (path := rng.choice(there)).rename(path.with_name(f"moved_{next(_ages)}")),
    lambda rng, lab, there: change_record(rng.choice(there), notes=f"note {next(_ages)}"),
    lambda rng, lab, there: change_record(rng.choice(there), status="cancelled"),
    lambda rng, lab, there: (rng.choice(there) / layout.EXPERIMENT).unlink(),
    lambda rng, lab, there: archive.archive(rng.choice(there)),
    lambda rng, lab, there: archive.restore(rng.choice(there)),
    lambda rng, lab, there: make(lab, replace(ARMS[4], config=f"lora/{next(_ages)}")),
    lambda rng, lab, there: write.write_json(
        rng.choice(there) / f"limit_{next(_ages)}" / layout.EXPERIMENT, record_of(ARMS[4]).to_json()
    ),
    # a config called train below what becomes an experiment is no experiment any more
    lambda rng, lab, there: write.write_json(lab / "x" / "train" / layout.EXPERIMENT, record_of(ARMS[0]).to_json()),
    lambda rng, lab, there: write.write_json(lab / "x" / layout.EXPERIMENT, record_of(ARMS[1]).to_json()),
    lambda rng, lab, there: (lab / f"link{next(_ages)}").symlink_to(rng.choice(there).parent),
    lambda rng, lab, there: (rng.choice(there) / f"up{next(_ages)}").symlink_to(lab),
    lambda rng, lab, there: [path.unlink() for path in lab.glob("link*")],
    lambda rng, lab, there: (lab / layout.INDEX).unlink(),
    lambda rng, lab, there: (lab / layout.INDEX).write_bytes(b"nothing"),
)


@pytest.mark.parametrize("seed", range(12))
def test_whatever_changes_it_says_what_the_files_say(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    lab = make_lab(tmp_path / "outputs")
    kept = Index(lab)
    for _ in range(25):
        age(lab)
        assert_true(lab, kept)
        for _ in range(rng.randint(1, 3)):
            there = [path.parent for path in sorted(lab.rglob(layout.EXPERIMENT)) if read.record(path.parent)]
            try:
                rng.choice(CHANGES)(rng, lab, there)
            except (FileNotFoundError, NotADirectoryError, IndexError, FileExistsError):
                continue  # what was to be changed is gone
        assert_true(lab, kept)


# -- the copy is only a copy --------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes, list[Summary]]:
    lab = make_lab(tmp_path_factory.mktemp("small") / "outputs", ARMS[:4])
    age(lab)
    Index(lab).refresh()
    return lab, (lab / layout.INDEX).read_bytes(), expected(lab)


@given(damage=st.data())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_is_noticed_and_repaired(small: tuple[Path, bytes, list[Summary]], damage: st.DataObject) -> None:
    lab, whole, wanted = small
    data = bytearray(whole)
    kind = damage.draw(st.sampled_from(["bytes", "cut", "longer", "emptied"]))
    if kind == "bytes":
        places = damage.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=4, unique=True))
        for place in places:
            data[place] ^= damage.draw(st.integers(1, 255))
    elif kind == "cut":
        del data[damage.draw(st.integers(0, len(whole) - 1)) :]
    elif kind == "longer":
        data += damage.draw(st.binary(min_size=1, max_size=5000))
    else:
        data[:] = bytes(len(data))
    (lab / layout.INDEX).write_bytes(data)
    assert Index(lab).refresh() == wanted
    assert (lab / layout.INDEX).read_bytes() == whole


def test_an_index_of_another_version_is_made_again(small: tuple[Path, bytes, list[Summary]]) -> None:
    lab, _, wanted = small
    for version in (0, index.FORMAT + 1):
        connection = sqlite3.connect(":memory:")
        connection.execute(f"PRAGMA user_version = {version}")
        connection.execute("CREATE TABLE folders (path TEXT)")
        (lab / layout.INDEX).write_bytes(index._sealed(connection.serialize()))
        assert Index(lab).refresh() == wanted
        with sqlite3.connect(lab / layout.INDEX) as made:
            assert made.execute("PRAGMA user_version").fetchone() == (index.FORMAT,)


def test_any_program_can_read_it(small: tuple[Path, bytes, list[Summary]]) -> None:
    lab, whole, wanted = small
    (lab / layout.INDEX).write_bytes(whole)
    with sqlite3.connect(f"file:{lab / layout.INDEX}?mode=ro", uri=True) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        rows = connection.execute("SELECT path, id, status FROM experiments ORDER BY path").fetchall()
    assert rows == [(one.relative, one.id, one.status) for one in wanted]


def test_without_sqlite_the_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = make_lab(tmp_path / "outputs")
    monkeypatch.setitem(sys.modules, "sqlite3", None)
    kept = Index(lab)
    assert_true(lab, kept)
    change_record(lab / ARMS[0].folder, notes="seen")
    assert_true(lab, kept)
    assert not (lab / layout.INDEX).exists()


def test_where_folders_do_not_say_that_they_changed_there_is_no_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on some file systems in user space."""
    lab = make_lab(tmp_path / "outputs")
    status = index._status

    def fixed(path: str) -> os.stat_result:
        found = status(path)
        if not Path(path).is_dir():
            return found
        values = {name: getattr(found, name) for name in ("st_dev", "st_ino", "st_size")}
        return SimpleNamespace(**values, st_mtime_ns=5)  # type: ignore[return-value]

    monkeypatch.setattr(index, "_status", fixed)
    kept = Index(lab)
    assert_true(lab, kept)
    assert not (lab / layout.INDEX).exists()
    make(lab, Arm("EXP-300", config="fewshot_3"))
    assert_true(lab, kept)
    assert "EXP-300" in [one.id for one in kept.refresh()]


def test_a_folder_in_its_place_is_left_alone(tmp_path: Path) -> None:
    lab = make_lab(tmp_path / "outputs")
    (lab / layout.INDEX).mkdir()
    assert_true(lab)
    assert list((lab / layout.INDEX).iterdir()) == []
    assert list(lab.glob(f"{layout.TEMPORARY_PREFIX}*")) == []


def in_a_read_only_lab(lab: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run Python where the lab cannot be written, not even by root."""
    command = [sys.executable, "-c", code, str(lab)]
    if os.geteuid() == 0:
        mounted = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
        command = ["unshare", "--mount", "sh", "-c", mounted, str(lab), *command]
    else:
        for folder, _, _ in os.walk(lab):
            Path(folder).chmod(0o555)
    environment = os.environ | {"PYTHONPATH": SOURCE}
    return subprocess.run(command, env=environment, cwd=lab.parent, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("indexed", [False, True], ids=["without an index", "with one that is out of date"])
def test_a_read_only_lab_is_listed(tmp_path: Path, indexed: bool) -> None:
    lab = make_lab(tmp_path / "outputs")
    if indexed:
        Index(lab).refresh()
        make(lab, Arm("EXP-200", config="fewshot_2"))
    before = {path: path.stat().st_mtime_ns for path in lab.rglob("*")}
    code = (
        "import sys; from pathlib import Path; from unsay import cli; lab = Path(sys.argv[1])\n"
        "try:\n    (lab / 'probe').touch()\nexcept OSError:\n    print('cannot write', file=sys.stderr)\n"
        "for arguments in (['status'], ['show', 'EXP-004']):\n"
        "    assert cli.main([*arguments, '-o', str(lab)]) == 0\n"
        "assert cli.main(['archive', 'EXP-004', '-o', str(lab)]) == 1"
    )
    done = in_a_read_only_lab(lab, code)
    if done.returncode and "unshare" in done.stderr:
        pytest.skip(f"no read-only mount here: {done.stderr}")
    assert done.returncode == 0, done.stderr
    assert "cannot write" in done.stderr.splitlines()[0]
    assert "EXP-010" in done.stdout
    assert ("EXP-200" in done.stdout) == indexed
    assert f"cannot write {lab / ARMS[3].folder / layout.ARCHIVED}" in done.stderr
    for folder, _, _ in os.walk(lab):
        Path(folder).chmod(0o755)
    assert {path: path.stat().st_mtime_ns for path in lab.rglob("*")} == before


def test_a_folder_that_cannot_be_listed_is_listed_with_its_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = make_lab(tmp_path / "outputs")
    age(lab)
    kept = Index(lab)
    kept.refresh()
    refused = "qwen3-0.6b"
    inside = read.inside

    def refuse(folder: Path | str) -> read.Inside:
        if Path(folder).name == refused:
            raise PermissionError(13, "Permission denied")
        return inside(folder)

    monkeypatch.setattr(read, "inside", refuse)
    os.utime(lab / refused, (5, 5))
    assert_true(lab, kept)
    assert "Permission denied" in str(next(one for one in kept.refresh() if one.relative == refused).problem)
    monkeypatch.setattr(read, "inside", inside)
    assert_true(lab, kept)
    assert "EXP-002" in [one.id for one in kept.refresh()]


@pytest.mark.parametrize("moment", ["inside", "entry"])
def test_a_folder_that_vanishes_meanwhile_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    lab = make_lab(tmp_path / "outputs")
    doomed = lab / ARMS[2].folder
    original: Any = getattr(read, moment)

    def vanish(*arguments: Any) -> Any:
        if Path(*arguments) == doomed or Path(lab, *arguments) == doomed:
            shutil.rmtree(doomed, ignore_errors=True)
        return original(*arguments)

    monkeypatch.setattr(read, moment, vanish)
    kept = Index(lab)
    kept.refresh()
    assert not doomed.exists()
    assert_true(lab, kept)
    assert "EXP-003" not in [one.id for one in kept.refresh()]
    shutil.rmtree(lab)
    assert kept.refresh() == []


def test_hostile_names_and_numbers_come_back_as_they_are(tmp_path: Path) -> None:
    lab = tmp_path / "outputs"
    record = record_of(ARMS[0])
    odd = {
        "notes": "half \ud800 a pair, \0, '; DROP TABLE experiments; --",
        "seed": 2**80,
        "limit": 2**70,
        "id": "\udc80",
    }
    for name in ("plain", "quo'te\n\t", os.fsdecode(b"not \xff utf-8"), "ünï", "100%_*?["):
        write.write_json(lab / name / layout.EXPERIMENT, replace(record, **odd).to_json())
    age(lab)
    assert_true(lab)
    assert Index(lab).refresh() == expected(lab)
    assert (lab / layout.INDEX).exists()


# -- several at once ----------------------------------------------------------------


def _work(lab: Path, worker: int, rounds: int) -> None:
    kept = Index(lab)
    for turn in range(rounds):
        arm = Arm(f"W{worker}-{turn}", model=f"m{worker}", config=f"fewshot_{turn}", status="pending")
        make(lab, arm)
        for found in (kept.refresh(), Index(lab).refresh()):
            names = {one.id for one in found}
            assert {f"W{worker}-{before}" for before in range(turn + 1)} <= names
        if turn % 3 == 2:
            (lab / layout.INDEX).unlink(missing_ok=True)


def test_several_processes_write_and_read_it_at_once(tmp_path: Path) -> None:
    lab = make_lab(tmp_path / "outputs")
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_work, args=(lab, worker, 8)) for worker in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert_true(lab)
    assert len(Index(lab).refresh()) == len(ARMS) + 4 * 8
    assert list(lab.glob(f"{layout.TEMPORARY_PREFIX}*")) == []


def test_threads_may_share_one(tmp_path: Path) -> None:
    lab = make_lab(tmp_path / "outputs")
    kept = Index(lab)
    with ThreadPoolExecutor(8) as pool:
        for turn in range(5):
            make(lab, Arm(f"T-{turn}", config=f"fewshot_{turn}", status="pending"))
            names = [{one.id for one in found} for found in pool.map(lambda _: kept.refresh(), range(16))]
            assert all(f"T-{turn}" in each for each in names)
    assert (lab / layout.INDEX).exists()
    assert len(index._load(lab / layout.INDEX)[1]) == len(kept._known)
    assert_true(lab, kept)


# -- what is wanted -----------------------------------------------------------------


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Summary]]:
    lab = make_lab(tmp_path_factory.mktemp("listed") / "outputs")
    archive.archive(lab / ARMS[2].folder)
    return sorted(Index(lab).refresh(), key=read.order)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (Filter(), ["EXP-001", "EXP-002", "EXP-004", "EXP-004", "EXP-010", "qwen3-4b/gsm8k/sft/lora/low"]),
        (Filter(archived=True), ["EXP-003"]),
        (Filter(archived=None, method=("sft",), status=("completed",)), ["EXP-003", "EXP-004", "EXP-004"]),
        (Filter(model=("QWEN3-0*",)), ["EXP-002"]),
        (Filter(model=("qwen3-0.6b", "none"), dataset=("gsm*",)), ["EXP-002"]),
        (Filter(config=("lora/train_bt",)), ["EXP-004", "EXP-004"]),
        (Filter(status=("failed", "pending")), ["EXP-010", "qwen3-4b/gsm8k/sft/lora/low"]),
        (Filter(search="BASELINE"), ["EXP-001"]),
        (Filter(search="lr3e"), ["EXP-010"]),
        (Filter(search="exp-00", method=("vanilla",)), ["EXP-001", "EXP-002"]),
        (Filter(dataset=("math",)), []),
    ],
)
def test_filters(listed: list[Summary], wanted: Filter, found: list[str]) -> None:
    assert [one.name for one in listed if wanted(one)] == found


def test_progress_counts_the_records_that_are_read(tmp_path: Path) -> None:
    lab = make_lab(tmp_path / "outputs")
    said: list[tuple[int, int | None]] = []
    Index(lab).refresh(lambda done, total: said.append((done, total)))
    assert said == [(done, len(ARMS)) for done in range(len(ARMS) + 1)]
