"""Score a stream of samples of any length, on all cores and in bounded memory.

Samples are read as they are needed and measured in chunks, by worker processes where there are many. What is kept is
what `Metric.measure` gives: a few numbers per sample, and no text. Summed up at the end, every digit is that of
`metrics.score` on all samples at once. Knows nothing about files and where samples come from.

    values = score_stream(samples).values
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from unsay import cores
from unsay.errors import UnsayError
from unsay.metrics import Items, Measured, Metric, check_names, item_scores, load_all
from unsay.records import MetricValue, Sample

ALONE_UP_TO = 2000
"""Samples that are scored sooner than a worker process starts."""
SAMPLES_AT_ONCE = 512
CHARACTERS_AT_ONCE = 1 << 20
AHEAD = 2
"""Chunks read beyond one per worker, so that none of them waits."""
MOST_WORKERS = 8
"""Workers on a large machine: each takes about 150 MB, most of it jieba's dictionary."""

OnScored = Callable[[Sequence[Sample], Items], None]
Parts = list[Measured]
"""What each metric measured, in the order of the metrics."""


@dataclass(frozen=True)
class Summary:
    """Every metric of a stream of n samples, summed up."""

    n: int
    values: dict[str, MetricValue]


def score_stream(
    samples: Iterable[Sample],
    metrics: Sequence[Metric] | None = None,
    *,
    processes: int | None = None,
    progress: Callable[[int], None] | None = None,
    on_scored: OnScored | None = None,
) -> Summary:
    """Score samples with the metrics given, or one of every file found with its default options.

    `processes`: workers; None for one per core; with 1, or few samples, no process is started. `progress` gets the
    number of samples scored so far. `on_scored` gets every chunk of samples with its scores, in order, in this process.
    A script that calls this needs its `if __name__ == "__main__":`, as worker processes import it.

    Raises UnsayError where a metric fails on a sample, a worker is killed, or two metrics use one name.
    """
    measures = tuple(check_names(load_all() if metrics is None else metrics))
    kept: list[dict[str, list[NDArray[np.float64]]]] = [{name: [] for name in metric.names} for metric in measures]
    n = 0
    with closing(_measured(_chunks(samples), measures, _workers(processes))) as results:
        for chunk, parts in results:
            n += len(chunk)
            for columns, measured in zip(kept, parts, strict=True):
                for name, numbers in measured.items():
                    columns[name].append(_compact(numbers))
            if on_scored is not None:
                on_scored(chunk, {name: scores for part in parts for name, scores in item_scores(part).items()})
            if progress is not None:
                progress(n)
    values: dict[str, MetricValue] = {}
    for metric in measures:
        columns = kept.pop(0)  # let go of what is summed up
        whole = {name: np.concatenate(columns.pop(name)) for name in list(columns)} if n else metric.measure([])
        values.update(metric.summarise(whole))
    return Summary(n, values)


def _workers(processes: int | None) -> int:
    if processes is not None:
        if processes < 1:
            raise UnsayError(f"expected at least one process to score with, got {processes}")
        return processes
    if multiprocessing.current_process().daemon:  # may not have children
        return 1
    return min(cores.usable(), MOST_WORKERS)


def _chunks(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    chunk: list[Sample] = []
    characters = 0
    for sample in samples:
        chunk.append(sample)
        characters += len(sample.predict) + len(sample.label) + len(sample.question)
        if len(chunk) == SAMPLES_AT_ONCE or characters >= CHARACTERS_AT_ONCE:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _measured(
    chunks: Iterator[list[Sample]], metrics: tuple[Metric, ...], workers: int
) -> Generator[tuple[list[Sample], Parts], None, None]:
    first: list[list[Sample]] = []
    if workers > 1:
        while sum(map(len, first)) <= ALONE_UP_TO and (chunk := next(chunks, None)) is not None:
            first.append(chunk)
    if workers == 1 or sum(map(len, first)) <= ALONE_UP_TO:
        for chunk in chain(first, chunks):
            yield chunk, _measure(metrics, chunk)
        return
    waiting: deque[tuple[list[Sample], Future[Parts]]] = deque()
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_die_with_parent)
    try:
        for chunk in chain(first, chunks):
            with _interrupts_held():
                waiting.append((chunk, pool.submit(_measure, metrics, chunk)))
            if len(waiting) == workers + AHEAD:
                oldest, future = waiting.popleft()
                yield oldest, future.result()
        while waiting:
            oldest, future = waiting.popleft()
            yield oldest, future.result()
    except BrokenProcessPool as error:
        raise UnsayError(
            "a process that scores ended without a result: it was killed, memory ran out, or the script that called "
            'has no `if __name__ == "__main__":`; score with processes=1'
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)  # waits for the chunks in work, a second or so


def _measure(metrics: tuple[Metric, ...], chunk: list[Sample]) -> Parts:
    return [_measure_with(metric, chunk) for metric in metrics]


def _measure_with(metric: Metric, chunk: list[Sample]) -> Measured:
    try:
        measured = metric.measure(chunk)
    except UnsayError:
        raise
    except Exception as error:
        if len(chunk) > 1:
            for sample in chunk:
                _measure_with(metric, [sample])
        which = f"sample {chunk[0].key!r}" if len(chunk) == 1 else f"samples {chunk[0].key!r} to {chunk[-1].key!r}"
        raise UnsayError(f"{type(metric).__name__} fails on {which}: {type(error).__name__}: {error}") from error
    for name in metric.names:
        if len(measured[name]) != len(chunk):
            raise UnsayError(f"{name}: expected one row for each of {len(chunk)} samples, got {len(measured[name])}")
    return measured


def _compact(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keep one row of many equal ones, such as the NaN of answers without accounting."""
    if np.array_equal(numbers, np.broadcast_to(numbers[:1], numbers.shape), equal_nan=True):
        return np.broadcast_to(numbers[:1].copy(), numbers.shape)
    return np.ascontiguousarray(numbers)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Start workers that never see Ctrl-C, which a terminal sends to every process: this one ends them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _die_with_parent() -> None:
    """In a worker: end when the process that started it ends, however that happens."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
