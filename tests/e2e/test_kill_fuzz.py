"""Killed at any moment, any number of times: what comes out in the end is what an undisturbed run gives, byte by byte.

The runner and its worker are killed together (SIGKILL to the process group) when something is seen in the files, plus a
random delay. After every kill: no finished answer is lost or generated twice, at most one batch of work is repeated,
finished experiments are as they were.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from tests import crash
from unsay.store import layout, read
from unsay.train.loop import CHECKPOINT, STATE

LONGEST_DELAY = 0.04
"""Seconds between seeing something and the kill: about what one step of anything takes here."""


class Lab:
    """A lab on its way through many kills, and what was there after each of them."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        self.folder = crash.make_lab(folder)
        self.rng = rng
        self.traces: dict[str, bytes] = {}
        self.finished: dict[str, dict[str, str]] = {}

    # -- moments ----------------------------------------------------------------------------------------------------

    def moments(self) -> dict[str, Callable[[], Callable[[], object]]]:
        """Return, by name, what gives the condition to wait for, as seen from now."""
        return {
            "start": lambda: after(self.rng.uniform(0, 0.6)),
            "anywhere": lambda: after(self.rng.uniform(0, 6.0)),
            "data": lambda: self.more_files(f"{layout.DATA}/*"),
            "train": lambda: self.longer(f"{layout.TRAIN}/{layout.TRAINER_LOG}"),
            "checkpoint": lambda: self.more_files(f"{layout.TRAIN}/{layout.TEMPORARY_PREFIX}*"),
            "trained": lambda: self.more_files(f"{layout.TRAIN}/adapter_config.json"),
            "evaluate": lambda: self.longer(layout.TRACES),
            "score": lambda: self.more_files(f"{layout.TEMPORARY_PREFIX}*"),
            "written": lambda: self.more_files("samples_*"),
            "page": lambda: self.newer(self.folder / layout.PAGE),
        }

    def more_files(self, pattern: str) -> Callable[[], bool]:
        """Wait for a file that is not there now, in any experiment that is not finished."""
        places = self.expected()
        before = {path for place in places for path in place.glob(pattern)}
        return lambda: any(path not in before for place in places for path in place.glob(pattern))

    def longer(self, name: str) -> Callable[[], bool]:
        """Wait until a file has some lines more than now, or than before it was cut back."""
        files = [place / name for place in self.expected()]
        before = [crash.complete_lines(file).count(b"\n") for file in files]
        more = self.rng.randint(1, 5)
        return lambda: any(
            crash.complete_lines(file).count(b"\n") - lines >= more for file, lines in zip(files, before, strict=True)
        )

    def newer(self, path: Path) -> Callable[[], bool]:
        def stamp() -> int:
            return path.stat().st_mtime_ns if path.exists() else 0

        before = stamp()
        return lambda: stamp() != before

    def expected(self) -> list[Path]:
        """Return the folders of what is not finished, whether they are there yet or not."""
        top = self.folder / "outputs" / "unsay-tiny" / "own"
        kinds = ("vanilla/lm_eval/fewshot_8+new16", "sft/lora/train", "sft/lora/train_bt", "sft/lora/train_bt_unmasked")
        done = {str(folder) for id, folder in crash.folders(self.folder).items() if id in self.finished}
        return [top / kind for kind in kinds if str(top / kind) not in done]

    # -- laws -------------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Say what must be so after a kill, and remember what is there."""
        for id, folder in crash.folders(self.folder).items():
            record = read.record(folder)
            assert record is not None
            if id in self.finished:
                assert contents(folder) == self.finished[id], f"{id} was finished, and then changed"
                continue
            lines = crash.complete_lines(folder / layout.TRACES)
            assert lines.startswith(self.traces.get(id, b"")), f"{id} lost finished answers"
            self.traces[id] = lines
            keys = Counter(trace.key for trace in read.traces(folder))
            assert set(keys.values()) <= {1}, f"{id} generated an answer twice"
            assert steps_to_repeat(layout.train(folder)) <= 1, f"{id} lost more than one optimiser step"
            if record.status == "completed":
                self.finished[id] = contents(folder)
        page = self.folder / layout.PAGE
        assert not page.exists() or "## Experiment Details" in page.read_text(), "half a page was left"


def after(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")  # locks, signs of life
    }


def steps_to_repeat(train: Path) -> int:
    """Return how many optimiser steps were taken and are in no complete checkpoint."""
    log = crash.complete_lines(train / layout.TRAINER_LOG).splitlines()
    logged = max((json.loads(line)["current_steps"] for line in log), default=0)
    saved = [json.loads(path.read_bytes())["step"] for path in train.glob(f"{CHECKPOINT}*/{STATE}")]
    if logged == crash.STEPS:  # of the last step there is no checkpoint: what follows is saved from memory
        return logged - max(saved, default=0) if not (train / layout.TRAIN_RESULTS).exists() else 0
    return logged - max(saved, default=0)


def fuzz(nursery: crash.Nursery, folder: Path, kills: int, *, local: int = 0) -> Counter[str]:
    """Kill `kills` times over as many labs as that takes; every `local`-th run has its worker in a process of its own.

    Return how often it was killed at which moment.
    """
    whole = crash.make_lab(folder / "whole")
    process = nursery.start(whole, *crash.run_arguments())
    process.join()
    assert process.exitcode == 0, (whole / "output.txt").read_text()[-2000:]
    expected, page = crash.results(whole), crash.normalised_page(whole)

    rng = random.Random(20260)
    hit: Counter[str] = Counter()
    rounds = runs = 0
    while hit.total() < kills:
        rounds += 1
        lab = Lab(folder / f"round-{rounds}", rng)
        while True:
            runs += 1
            executor = "local" if local and runs % local == 0 else "inline"
            name = rng.choice(sorted(lab.moments()))
            process = nursery.start(lab.folder, *crash.run_arguments(executor))
            if hit.total() < kills and strike(process, lab, name):
                hit[name] += 1
                lab.check()
                continue
            process.join()
            assert process.exitcode == 0, (lab.folder / "output.txt").read_text()[-3000:]
            break
        lab.check()
        assert len(lab.finished) == 4
        found = crash.results(lab.folder)
        assert {name for name in expected if found[name] != expected[name]} == set()
        assert crash.normalised_page(lab.folder) == page
        aside = {path.parent.name for path in (lab.folder / "outputs").rglob(f"{layout.SUPERSEDED}/*/*")}
        assert all(name.startswith("unfinished") for name in aside), aside
        left = [path for path in (lab.folder / "outputs").rglob(f"{layout.TEMPORARY_PREFIX}*") if path.is_dir()]
        assert left == []
        shutil.rmtree(lab.folder)
    return hit


def strike(process: ForkServerProcess, lab: Lab, name: str) -> bool:
    """Kill at a moment; say whether the run was still going."""
    if not crash.wait_for(lab.moments()[name](), process):
        return False
    time.sleep(lab.rng.uniform(0, LONGEST_DELAY))
    if not process.is_alive():
        return False
    crash.kill(process)
    return True


def test_twenty_kills(nursery: crash.Nursery, tmp_path: Path) -> None:
    hit = fuzz(nursery, tmp_path, 20)
    assert len(hit) >= 5, hit


@pytest.mark.slow
def test_two_hundred_kills(nursery: crash.Nursery, tmp_path: Path) -> None:
    hit = fuzz(nursery, tmp_path, 200, local=4)
    print(dict(hit))
    assert len(hit) == len(Lab(tmp_path / "names", random.Random(0)).moments()), hit
    assert min(hit.values()) >= 3, hit
