"""Scoring a stream must give every digit that scoring it at once gives, and never leave a process behind."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.unit.metrics.varied_pairs import pairs
from unsay import metrics, scoring, stats
from unsay.errors import UnsayError
from unsay.metrics import Items, Measured, load
from unsay.metrics.rouge_l import RougeL
from unsay.records import Counts, Sample
from unsay.scoring import score_stream

COUNTS = (None, Counts(10, 10, 0, 0, 0, 0, (), (), None), Counts(20, 12, 4, 4, 0, 2, (1, 3), (5, 9), 6))
REASONS = (None, "eos", "max_steps")
FAST = [load(name, resamples=20) if name == "bleu" else load(name) for name in metrics.found()]


def made(count: int, seed: int = 0) -> list[Sample]:
    return [
        Sample(str(i), "", label, predict, REASONS[i % 3], COUNTS[i % 7 % 3])
        for i, (predict, label) in enumerate(pairs(count, seed))
    ]


class Kept:
    """Keeps what is told about each chunk."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self.items: Items = {}
        self.done: list[int] = []

    def on_scored(self, samples: Sequence[Sample], items: Items) -> None:
        self.samples += samples
        for name, scores in items.items():
            assert len(scores) == len(samples)
            self.items.setdefault(name, []).extend(scores)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 60), st.integers(1, 20), st.integers(0, 1000))
def test_a_stream_is_scored_like_a_list(count: int, at_once: int, seed: int) -> None:
    samples, kept = made(count, seed), Kept()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "SAMPLES_AT_ONCE", at_once)
        found = score_stream(iter(samples), FAST, progress=kept.done.append, on_scored=kept.on_scored)
    expected = metrics.score(samples, FAST)
    assert found.values == expected.values
    assert found.n == count
    assert kept.samples == samples
    assert kept.items == (expected.items if count else {})
    assert kept.done == [min(n, count) for n in range(at_once, count + at_once, at_once)][: len(kept.done)]
    assert not kept.done or kept.done[-1] == count


@pytest.mark.parametrize("processes", [1, 2])
def test_many_samples_are_scored_in_order_by_processes(processes: int) -> None:
    samples, kept = made(3300), Kept()
    found = score_stream(iter(samples), FAST, processes=processes, progress=kept.done.append, on_scored=kept.on_scored)
    expected = metrics.score(samples, FAST)
    assert found.values == expected.values
    assert kept.samples == samples
    assert kept.items == expected.items
    assert kept.done == [512, 1024, 1536, 2048, 2560, 3072, 3300]
    assert children() == []


def test_no_more_is_read_than_is_worked_on() -> None:
    read = 0

    def samples() -> Iterator[Sample]:
        nonlocal read
        for sample in made(100) * 100:
            read += 1
            yield sample

    def on_scored(chunk: Sequence[Sample], items: Items) -> None:
        nonlocal done
        done += len(chunk)
        assert read - done <= (2 + scoring.AHEAD) * scoring.SAMPLES_AT_ONCE

    done = 0
    assert score_stream(samples(), [RougeL()], processes=2, on_scored=on_scored).n == done == 10_000


def test_long_texts_make_small_chunks() -> None:
    sizes: list[int] = []
    samples = [Sample(str(i), "", "eggs " * 1000, "eggs " * 100_000) for i in range(5)]
    score_stream(samples, [RougeL()], on_scored=lambda chunk, _: sizes.append(len(chunk)))
    assert sizes == [3, 2]


def test_no_samples() -> None:
    found = score_stream([], FAST)
    assert found.n == 0
    assert found.values == metrics.score([], FAST).values


@dataclasses.dataclass(frozen=True)
class Stumbles(RougeL):
    """Fails on one sample."""

    key: str = "2900"

    def measure(self, samples: Sequence[Sample]) -> Measured:
        if any(sample.key == self.key for sample in samples):
            raise ZeroDivisionError("nothing to divide by")
        return super().measure(samples)


@dataclasses.dataclass(frozen=True)
class Loses(RougeL):
    """Forgets a sample."""

    def measure(self, samples: Sequence[Sample]) -> Measured:
        return super().measure(samples[1:])


@dataclasses.dataclass(frozen=True)
class Dies(RougeL):
    """Ends its process."""

    def measure(self, samples: Sequence[Sample]) -> Measured:
        os.kill(os.getpid(), signal.SIGKILL)
        return super().measure(samples)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_metric_that_fails_is_named_with_the_sample(processes: int) -> None:
    with pytest.raises(UnsayError, match="Stumbles fails on sample '2900': ZeroDivisionError: nothing to divide by"):
        score_stream(made(3300), [Stumbles()], processes=processes)
    assert children() == []


def test_a_lost_row_and_a_killed_process_are_errors() -> None:
    with pytest.raises(UnsayError, match="rouge_l: expected one row for each of 10 samples, got 9"):
        score_stream(made(10), [Loses()])
    with pytest.raises(UnsayError, match="ended without a result"):
        score_stream(made(2100), [Dies()], processes=2)
    assert children() == []


def test_mistakes_of_the_caller_end_it_and_its_processes() -> None:
    def broken() -> Iterator[Sample]:
        yield from made(2600)
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        score_stream(broken(), [RougeL()], processes=2)

    def refuse(chunk: Sequence[Sample], items: Items) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        score_stream(made(2600), [RougeL()], processes=2, on_scored=refuse)
    assert children() == []
    with pytest.raises(UnsayError, match="two metrics are called rouge_l"):
        score_stream([], [RougeL(), Stumbles()])
    with pytest.raises(UnsayError, match="at least one process"):
        score_stream([], [RougeL()], processes=0)


ENDLESS = """
import itertools, sys
from unsay.metrics.rouge_l import RougeL
from unsay.records import Sample
from unsay.scoring import score_stream

if __name__ == "__main__":
    samples = (Sample(str(i), "", "eggs " * 90, "eggs are " * 60) for i in itertools.count())
    score_stream(samples, [RougeL()], processes=2, progress=lambda n: print(n, flush=True))
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_the_process_that_started_them(how: signal.Signals, tmp_path: Path) -> None:
    script = tmp_path / "endless.py"
    script.write_text(ENDLESS)
    running = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert running.stdout is not None
    for _ in range(3):
        assert running.stdout.readline().strip()
    workers = psutil.Process(running.pid).children(recursive=True)
    assert len(workers) >= 2
    if how == signal.SIGINT:  # a terminal sends it to every process
        os.killpg(running.pid, how)
    else:
        running.send_signal(how)
    _, errors = running.communicate(timeout=30)
    assert running.returncode == -how
    assert (errors.count("Traceback") == 1) == (how == signal.SIGINT), errors  # this process's own
    gone_by = time.monotonic() + 20
    while any(lives(worker) for worker in workers):
        assert time.monotonic() < gone_by
        time.sleep(0.05)


def lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


_EARLIER: set[psutil.Process] = set()


@pytest.fixture(autouse=True)
def earlier() -> None:
    """Note the processes that other tests still use, as a browser."""
    _EARLIER.clear()
    _EARLIER.update(psutil.Process().children(recursive=True))


def children() -> list[psutil.Process]:
    """Worker processes of this test; the tracker that multiprocessing keeps is none."""
    mine = [child for child in psutil.Process().children(recursive=True) if child not in _EARLIER]
    return [child for child in mine if "resource_tracker" not in " ".join(child.cmdline())]


def test_the_bootstrap_of_many_items_draws_blocks_with_the_same_error() -> None:
    rng = np.random.default_rng(5)
    rows = np.stack([rng.exponential(3.0, size=130_007), rng.integers(1, 9, size=130_007)], axis=1)

    def ratio(totals: NDArray[np.float64]) -> NDArray[np.float64]:
        return totals[:, 0] / totals[:, 1]

    found = stats.bootstrap(rows, ratio)
    exact = stats.ratio(rows[:, 0].tolist(), rows[:, 1].tolist())
    assert exact.stderr is not None
    assert found.stderr == pytest.approx(exact.stderr, rel=0.1)  # 1,000 resamples alone: 0.022, four times over
    assert [found.low, found.high] == pytest.approx([exact.low, exact.high], rel=0.002)
    mixed = stats.bootstrap(rows[rng.permutation(len(rows))], ratio)
    assert (mixed.stderr, mixed.low, mixed.high) == (found.stderr, found.low, found.high)
    mean = stats.bootstrap(rows, lambda totals: totals[:, 0] / len(rows))  # every resample has as many items
    assert mean.stderr == pytest.approx(rows[:, 0].std() / len(rows) ** 0.5, rel=0.1)


def test_the_bootstrap_of_fewer_items_draws_items() -> None:
    rows = np.random.default_rng(6).integers(0, 50, size=(20_000, 2)).astype(np.float64)
    ordered = rows[np.lexsort(rows.T[::-1])]
    draws = np.random.default_rng(3)
    expected = np.array([ordered[draws.integers(0, 20_000, size=20_000)].sum(axis=0) for _ in range(60)])
    found = stats.bootstrap(rows, lambda totals: totals[:, 0] / totals[:, 1], resamples=60, seed=3)
    drawn = expected[:, 0] / expected[:, 1]
    assert found.stderr == drawn.std(ddof=1)
    assert (found.low, found.high) == tuple(np.quantile(drawn, [0.025, 0.975]))


BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "score.py"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--pairs", "60", "--rounds", "1"], "every digit equal"),
        (["--million", "--answers", "2100", "--processes", "2"], "peak memory of all processes"),
    ],
)
def test_the_benchmark_runs(options: list[str], said: str, tmp_path: Path) -> None:
    environment = os.environ | {"UNSAY_TEST_DATA": str(tmp_path)}  # generated word problems
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), *options], capture_output=True, text=True, env=environment, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
    assert "word problems" in done.stdout
