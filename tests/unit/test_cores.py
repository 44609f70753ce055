"""How many threads each of several processes computes with."""

from __future__ import annotations

import os

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
