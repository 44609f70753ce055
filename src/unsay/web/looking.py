"""What the pages ask of a lab, kept in memory while its files do not change.

looking = Looking(Path("outputs"))
looking.every()                              # one Summary per experiment folder, as on disk now
looking.samples("qwen3-4b/gsm8k/…")          # its items, read once
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from unsay.errors import StoreError
from unsay.lab import Experiment, ScoredSample
from unsay.records import MetricValue
from unsay.report import compare, matched, sheets
from unsay.report.names import FLEXIBLE, STRICT, in_order, is_undo_measure
from unsay.store import layout, read
from unsay.store.index import Index, Summary
from unsay.store.read import Entry

KEPT = 16
"""Experiments (and comparisons) whose items stay in memory."""
METRICS_KEPT = 20_000
_RIGHT = 100.0
_ENDED = (None, "eos", "stop")
_TAG = re.compile(r"<[^<>]*>")
_SAYS_NOTHING = ("", "assistant", "model")

T = TypeVar("T")


class NotThereError(StoreError):
    """The lab has no such experiment or item."""


@dataclass(frozen=True)
class Seen:
    """One item in a list. `right` is None without a score; `repeat` counts answers to one item, from 0.

    `judge` is the score that says what is right, the same for all items of an experiment.
    """

    at: int
    repeat: int
    sample: ScoredSample
    question: str
    judge: str | None
    right: bool | None
    haystack: str

    @property
    def undos(self) -> int:
        return self.sample.counts.undos if self.sample.counts is not None else 0

    @property
    def cut(self) -> bool:
        return self.sample.finish_reason not in _ENDED


class Looking:
    """One lab folder, looked at by several threads."""

    def __init__(self, lab: Path) -> None:
        self.lab = lab.absolute()
        self._index = Index(self.lab)
        self._folders: frozenset[str] = frozenset()
        """The folders of the experiments, as last seen."""
        self._samples: _Kept[tuple[Seen, ...]] = _Kept(KEPT)
        self._comparisons: _Kept[tuple[compare.Comparison, ...]] = _Kept(KEPT)
        self._matched: _Kept[tuple[matched.Curve, ...]] = _Kept(METRICS_KEPT)
        self._metrics: _Kept[Mapping[str, MetricValue]] = _Kept(METRICS_KEPT)

    def every(self) -> list[Summary]:
        """Return every experiment as it is on disk now, archived and limited ones too."""
        found = self._index.refresh()
        self._folders = frozenset(one.relative for one in found)
        return found

    def is_folder(self, name: str) -> bool:
        """Say whether an experiment's folder is called so, as far as was seen when the lab was last looked at."""
        return name in self._folders

    def changed(self, one: Summary) -> float | None:
        """Return when an experiment last gave a sign, in seconds since 1970: a running one by its heartbeat."""
        beat = read.last_sign(one.folder) if one.status == "running" else None
        return max((time for time in (one.changed, beat) if time is not None), default=None)

    def at_budgets(self, entry: Entry) -> tuple[matched.Curve, ...]:
        """Return accuracy at matched sampled tokens of a finished experiment."""
        names = (layout.EXPERIMENT, layout.PREDICTIONS, layout.SCORES, layout.METRICS, layout.TRACES)
        stamp = _stamp(entry.folder, names)
        return self._matched.get(entry.relative, stamp, lambda: tuple(matched.curves([entry])))

    def entry(self, name: str) -> Entry:
        """Return an experiment by its folder or id; NotThereError where the lab has none of that name."""
        if name in self._folders:  # no need to look at the whole lab; what is in the folder is read now
            return read.entry(self.lab, name)
        try:
            return read.entry(self.lab, read.pick(self.every(), name).relative)
        except StoreError as error:
            raise NotThereError(str(error)) from error

    def metrics(self, one: Summary) -> Mapping[str, MetricValue]:
        """Return the metrics of a finished experiment; nothing where there are none or they cannot be read."""
        if one.status != "completed":
            return {}
        stamp = _stamp(one.folder, (layout.METRICS,))
        try:
            return self._metrics.get(one.relative, stamp, lambda: read.metrics(one.folder))
        except StoreError:
            return {}

    def samples(self, entry: Entry) -> tuple[Seen, ...]:
        """Return the items of an experiment in the order of the data set; StoreError where a file is broken."""
        names = [layout.EXPERIMENT, layout.PREDICTIONS, layout.SCORES, layout.TRACES, layout.PROMPTS]
        found = read.samples_file(entry.folder, entry.record)
        stamp = _stamp(entry.folder, [*names, *([found.name] if found is not None else [])])
        return self._samples.get(entry.relative, stamp, lambda: self._read_samples(entry))

    def comparisons(self, entries: Sequence[Entry]) -> tuple[compare.Comparison, ...]:
        """Compare every experiment with the first, each seed apart; UnsayError for what cannot be compared."""
        names = (layout.EXPERIMENT, layout.PREDICTIONS, layout.SCORES, layout.METRICS)
        stamp = tuple(_stamp(entry.folder, names) for entry in entries)
        key = "\n".join(entry.relative for entry in entries)

        def make() -> tuple[compare.Comparison, ...]:
            return tuple(compare.compare(compare.sides(entries, (), each_seed=True), compare.Options()))

        return self._comparisons.get(key, stamp, make)

    def _read_samples(self, entry: Entry) -> tuple[Seen, ...]:
        if entry.record is None:
            raise StoreError(entry.problem or f"{entry.folder} cannot be read")
        summary = next(one for one in self.every() if one.relative == entry.relative)
        questions = _questions(entry)
        samples = list(Experiment(summary).samples())
        judge = _judge(entry, samples)
        times: dict[str, int] = {}
        found = []
        for at, sample in enumerate(samples):
            score = None if judge is None else sample.scores.get(judge)
            question = questions.get(sample.item) or _asked(sample.prompt or "")
            repeat = times.get(sample.item, 0)
            times[sample.item] = repeat + 1
            right = None if score is None else score >= _RIGHT
            haystack = f"{sample.item}\n{question}\n{sample.predict}\n{sample.label or ''}".casefold()
            found.append(Seen(at, repeat, sample, question, judge, right, haystack))
        return tuple(found)


class _Kept(Generic[T]):
    """Values by key, each made again when its stamp changed; the ones not asked for longest go."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: OrderedDict[str, tuple[object, T]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str, stamp: object, make: Callable[[], T]) -> T:
        with self._lock:
            known = self._values.get(key)
            if known is not None and known[0] == stamp:
                self._values.move_to_end(key)
                return known[1]
        value = make()
        with self._lock:
            self._values[key] = (stamp, value)
            self._values.move_to_end(key)
            while len(self._values) > self._most:
                self._values.popitem(last=False)
        return value


def _stamp(folder: Path, names: Sequence[str]) -> tuple[object, ...]:
    found: list[object] = []
    for name in names:
        try:
            status = (folder / name).stat()
        except OSError:
            found.append(None)
        else:
            found.append((name, status.st_ino, status.st_mtime_ns, status.st_size))
    return tuple(found)


def _judge(entry: Entry, samples: Sequence[ScoredSample]) -> str | None:
    """Return the score that says whether an answer is right: exact match, else one that is 0 or 100 for every item."""
    names = {name for sample in samples for name in sample.scores}
    exact = next((name for name in (STRICT, FLEXIBLE) if name in names), None)
    if exact is not None:
        return exact
    values = read.metrics(entry.folder)
    for name in in_order(names):
        found = {sample.scores[name] for sample in samples if name in sample.scores}
        definition = values[name].definition if name in values else name
        if found <= {0.0, _RIGHT} and _RIGHT in found and not is_undo_measure(definition):
            return name
    return None


def _questions(entry: Entry) -> dict[str, str]:
    try:
        return sheets.asked(read.samples(entry.folder, entry.record))
    except StoreError:
        return {}  # only what to call the items; the answers are elsewhere


def _asked(prompt: str) -> str:
    """Return the last line of a prompt that is more than the name of who speaks next."""
    lines = reversed(prompt.splitlines())
    return next((line for line in lines if _TAG.sub("", line).strip() not in _SAYS_NOTHING), "")
