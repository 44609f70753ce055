"""Every write of a run fails once: the error names the file, what was finished stays, the next run completes.

No space, input/output error, read-only, a file that vanishes before it is renamed, half a line written. And a disk that
is really full.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import crash
from tests.faults import Faults
from unsay.store import layout, read

ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS)
RUN = (*crash.run_arguments(), "EXP-001", "EXP-003")
FINISHED = "unsay-tiny/own/vanilla"


@dataclass(frozen=True)
class Template:
    """A lab with one finished experiment, and what the run that is to fail does undisturbed."""

    folder: Path
    expected: dict[str, bytes]
    writes: list[tuple[str, str]]
    """What each write is, and its path below the lab."""


@pytest.fixture(scope="module")
def template(nursery: crash.Nursery, tmp_path_factory: pytest.TempPathFactory) -> Template:
    top = tmp_path_factory.mktemp("faults")
    folder = crash.make_lab(top / "template", experiments=3, max_steps=2)
    assert run(nursery, folder, *crash.run_arguments(), "EXP-001") == 0
    whole = shutil.copytree(folder, top / "whole")
    assert run(nursery, whole, *RUN, faults=Faults(whole, top / "writes.txt")) == 0
    lines = [line.split("\t") for line in (top / "writes.txt").read_text().splitlines()]
    writes = [(kind, os.path.relpath(path, whole)) for _, kind, path in lines]
    return Template(folder, results(whole), writes)


def run(nursery: crash.Nursery, lab: Path, *arguments: str, faults: Faults | None = None) -> int:
    (lab / "output.txt").unlink(missing_ok=True)
    process = nursery.start(lab, *arguments, inside=faults)
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def results(lab: Path) -> dict[str, bytes]:
    return crash.results(lab, "EXP-001", "EXP-003")


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def named(output: str, lab: Path, path: str) -> bool:
    """Say whether the output names the file that could not be written, or the one it was to become."""
    place = lab / path
    wanted = {place}
    for each in (place, *place.parents):
        if each.name.startswith(layout.TEMPORARY_PREFIX):
            wanted.add(each.parent)
    said = "".join(output.split("\n"))
    if any(str(each) in said for each in wanted):
        return True
    return re.search(rf"cannot write {re.escape(str(place.parent))}/?[\w.-]*", said) is not None


def survives(nursery: crash.Nursery, template: Template, folder: Path, at: int) -> str:
    """Let one write fail and check everything; return what became of the run: failed, or completed all the same."""
    lab = shutil.copytree(template.folder, folder)
    finished = contents(lab / "outputs" / FINISHED)
    kind, path = template.writes[at]
    vanish = kind == "rename" and at % 2 == 0
    faults = Faults(lab, folder.with_suffix(".txt"), at, ERRORS[at % len(ERRORS)], vanish)
    code = run(nursery, lab, *RUN, faults=faults)
    output = (lab / "output.txt").read_text()
    told = f"write {at}, {kind} {path}:\n{output[-3000:]}"
    assert contents(lab / "outputs" / FINISHED) == finished, told
    if code:
        failed = folder.with_suffix(".txt").read_text().splitlines()[at].split("\t")[2]
        assert named(output, lab, os.path.relpath(failed, lab)), told
        assert run(nursery, lab, *RUN) == 0, told + (lab / "output.txt").read_text()[-2000:]
    assert contents(lab / "outputs" / FINISHED) == finished, told
    assert results(lab) == template.expected, told
    assert len(list((lab / "outputs").rglob(layout.TRACES))) == 2, told
    shutil.rmtree(lab)
    return "failed" if code else "completed"


def test_a_write_that_fails_costs_nothing(nursery: crash.Nursery, template: Template, tmp_path: Path) -> None:
    chosen = range(3, len(template.writes), len(template.writes) // 5)
    found = [survives(nursery, template, tmp_path / str(at), at) for at in chosen]
    assert found.count("failed") >= 4, found


@pytest.mark.slow
def test_every_write_may_fail(nursery: crash.Nursery, template: Template, tmp_path: Path) -> None:
    assert {"open", "write", "fsync", "rename", "mkdir", "tensors"} <= {kind for kind, _ in template.writes}
    found = [survives(nursery, template, tmp_path / str(at), at) for at in range(len(template.writes))]
    print(len(found), "writes;", found.count("failed"), "ended the run")
    assert found.count("failed") > len(found) // 2


def test_a_file_of_a_finished_result_that_is_gone_is_made_again(
    nursery: crash.Nursery, template: Template, tmp_path: Path
) -> None:
    """Nothing else is: the answers are still there."""
    lab = shutil.copytree(template.folder, tmp_path / "lab")
    assert run(nursery, lab, *RUN) == 0
    for id, names in {
        "EXP-001": (layout.METRICS, layout.PREDICTIONS, "samples_*", "results_*"),
        "EXP-003": (layout.METRICS, layout.EXPERIMENT),
    }.items():
        folder = crash.folders(lab)[id]
        traces = (folder / layout.TRACES).read_bytes()
        adapter = layout.train(folder) / "adapter_model.safetensors"
        trained = adapter.stat().st_mtime_ns if adapter.exists() else 0
        for name in names:
            (path,) = folder.glob(name)
            path.unlink()
        assert run(nursery, lab, *RUN) == 0, (lab / "output.txt").read_text()[-2000:]
        assert results(lab) == template.expected
        assert (folder / layout.TRACES).read_bytes() == traces
        assert (adapter.stat().st_mtime_ns if adapter.exists() else 0) == trained
    # With its answers gone, an experiment is generated again, to the same result.
    (crash.folders(lab)["EXP-001"] / layout.TRACES).unlink()
    assert run(nursery, lab, *RUN) == 0, (lab / "output.txt").read_text()[-2000:]
    assert results(lab) == template.expected


# A run asks for a gigabyte before it begins. What it writes here is a megabyte or two.
ROOMY = "size=2g"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a folder on a disk of its own, or skip."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", ROOMY, "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small disk is not permitted here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def resize(disk: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{size}", str(disk)], check=True)


def fill(disk: Path, room: int) -> None:
    """Leave `room` kilobytes more than are in use; what is in use may grow meanwhile."""
    for _ in range(50):
        size = f"size={used(disk) + room}k"
        if not subprocess.run(["mount", "-o", f"remount,{size}", str(disk)], capture_output=True).returncode:
            return
    raise AssertionError(f"{disk} cannot be made smaller")


def used(disk: Path) -> int:
    """Return the kilobytes in use."""
    found = os.statvfs(disk)
    return (found.f_blocks - found.f_bfree) * found.f_frsize // 1024


def test_a_disk_that_is_really_full(nursery: crash.Nursery, template: Template, small_disk: Path) -> None:
    """The disk shrinks when an attempt has begun, to a little more room each time: another write meets its end."""
    lab = small_disk / "lab"
    shutil.copytree(template.folder, lab)
    finished = contents(lab / "outputs" / FINISHED)
    failed: list[str] = []
    for room in (0, 8, 40, 160, 640, 2500, 6000):
        (lab / "output.txt").unlink(missing_ok=True)
        (lab / "output.txt").symlink_to(small_disk.parent / f"output-{room}.txt")  # a terminal is on no disk
        before = attempts(lab)
        process = nursery.start(lab, *RUN)
        assert crash.wait_for(lambda seen=before: attempts(lab) > seen, process)
        fill(small_disk, room)
        process.join()
        output = (lab / "output.txt").read_text()
        resize(small_disk, ROOMY)
        assert contents(lab / "outputs" / FINISHED) == finished
        if process.exitcode == 0:
            break
        failed.append(" ".join(output.split()))
    for output in failed:
        assert re.search(rf"(cannot|could not) write .*{re.escape(str(lab))}", output), output
    assert run(nursery, lab, *RUN) == 0, (lab / "output.txt").read_text()[-3000:]
    assert len(failed) >= 3
    assert results(lab) == template.expected
    assert contents(lab / "outputs" / FINISHED) == finished


def attempts(lab: Path) -> int:
    record = read.record(lab / "outputs" / "unsay-tiny" / "own" / "sft" / "lora" / "train_bt")
    return 0 if record is None else len(record.attempts)
