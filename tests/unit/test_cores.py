"""How many threads each of several processes computes with."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from unsay import cores


def test_usable_cores_are_those_this_process_may_run_on() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert cores.usable() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert cores.usable() == len(before)


@pytest.mark.parametrize(("said", "processes", "threads"), [("8", 3, 2), ("8", 1, 8), ("2", 5, 1)])
def test_processes_share_the_threads_that_the_environment_says(
    said: str, processes: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(cores.OMP_NUM_THREADS, said)
    assert cores.share(processes) == threads


@pytest.mark.parametrize("said", [None, "", "many", "4,2"])
def test_otherwise_they_share_the_usable_cores(said: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if said is None:
        monkeypatch.delenv(cores.OMP_NUM_THREADS, raising=False)
    else:
        monkeypatch.setenv(cores.OMP_NUM_THREADS, said)
    monkeypatch.setattr(cores, "usable", lambda: 6)
    assert [cores.share(count) for count in (1, 2, 4, 9)] == [6, 3, 1, 1]


@pytest.mark.parametrize(("before", "after"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_a_command_does_not_spin_beside_other_processes_unless_told_to(before: dict[str, str], after: str) -> None:
    program = (
        "import os, sys; from unsay.cli import main; assert main() == 0; "
        "print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    )
    clean = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-c", program, "ls"], env=clean | before, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == f"{after} False"
