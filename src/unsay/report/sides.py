"""What can be compared: finished experiments with the scores of their items, and the seeds of one as one side.

a, b = sides([first, second], entries)
common_items(a, b)
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from unsay.errors import StoreError
from unsay.records import ExperimentRecord, MetricValue, Sample, short_hash
from unsay.report.names import CORPUS_BLEU, FLEXIBLE, STRICT
from unsay.store import read
from unsay.store.read import Entry

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# lm-eval's names of the filters behind our exact match.
_FILTERS = {"strict-match": STRICT, "flexible-extract": FLEXIBLE}
_RIGHT = 100.0


@dataclass(frozen=True)
class Run:
    """A finished experiment with the scores of its items: `items` maps an id to the hashes of question and reference.

    `scores` maps a metric and an item to a score; repeats of an item are averaged. `order` has the items line by line
    as in generated_predictions.jsonl, empty where that is not known.
    """

    entry: Entry
    record: ExperimentRecord
    items: Mapping[str, tuple[str | None, str]]
    scores: Mapping[str, Mapping[str, float]]
    values: Mapping[str, MetricValue]
    order: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.entry.name

    def definition(self, metric: str) -> str | None:
        value = self.values.get(metric)
        return value.definition if value is not None else None

    def lines(self) -> list[tuple[str, dict[str, Any]]]:
        """Return prompt, predict and label of every item; empty where the file does not fit the scores."""
        lines = list(read.predictions(self.entry.folder))
        fits = len(lines) == len(self.order) == len(set(self.order))
        return list(zip(self.order, lines, strict=True)) if fits else []

    @cached_property
    def bleu(self) -> dict[str, NDArray[np.float64]] | str:
        """What every item adds to corpus BLEU, or why that is not known."""
        return _bleu_counts(self)


@dataclass(frozen=True)
class Side:
    """What is compared: one experiment, or several seeds of one."""

    runs: tuple[Run, ...]

    @property
    def name(self) -> str:
        return f"{self.runs[0].name} ({len(self.runs)} seeds)" if self.is_group else self.runs[0].name

    @property
    def record(self) -> ExperimentRecord:
        return self.runs[0].record

    @property
    def is_group(self) -> bool:
        return len(self.runs) > 1

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(run.record.seed for run in self.runs)

    @property
    def trainings(self) -> tuple[str | None, ...]:
        """The hash of what was trained, of each run; None where nothing was, or where an import does not know it."""
        return tuple(run.record.hashes.get("train") for run in self.runs)

    def with_trainings(self, trainings: Collection[str | None]) -> Side:
        """Return the side with the runs of these trainings alone; itself where that is all."""
        kept = tuple(run for run, training in zip(self.runs, self.trainings, strict=True) if training in trainings)
        return self if len(kept) == len(self.runs) else Side(kept)

    def to_json(self) -> dict[str, Any]:
        record = self.record
        return {
            "name": self.name,
            "experiments": [run.name for run in self.runs],
            "folders": [run.entry.relative for run in self.runs],
            "model": record.model,
            "dataset": record.dataset,
            "method": record.method,
            "config": record.config,
            "seeds": list(self.seeds),
        }


# -- reading ----------------------------------------------------------------------


def load(entry: Entry) -> Run:
    """Read the scores of a finished experiment. Raises StoreError where there are none."""
    record = entry.record
    if record is None:
        raise StoreError(entry.problem or f"{entry.name} cannot be read")
    if record.status != "completed":
        raise StoreError(f"{entry.name} is {record.status}, expected a completed experiment; run it again first")
    found = _from_scores(entry) or _from_samples(entry)
    if not found.items:
        raise StoreError(
            f"{entry.name} has no scores per item ({entry.folder} has neither scores.jsonl nor lm-eval's samples), so "
            "it cannot be paired with another experiment. Run it again, or import it with its predictions or samples."
        )
    order, items, scores = found.order, found.items, found.scores
    means = {name: {item: sum(each) / len(each) for item, each in by.items()} for name, by in scores.items()}
    return Run(entry, record, items, means, read.metrics(entry.folder), tuple(order))


def seed_key(entry: Entry) -> tuple[Any, ...]:
    """Return what the seeds of one experiment have in common."""
    record = entry.record
    assert record is not None
    return record.model, record.dataset, record.method, record.config, entry.limit


def sides(chosen: Sequence[Entry], among: Iterable[Entry], *, each_seed: bool = False) -> list[Side]:
    """Make the sides of a comparison, in the order they were chosen.

    A chosen experiment brings the other finished seeds of it that are in `among`; `each_seed` keeps to the chosen ones,
    apart. Experiments that agree in their seed too are sides of their own.
    """
    distinct = list({entry.folder: entry for entry in chosen}.values())
    if each_seed:
        return [Side((load(entry),)) for entry in distinct]
    found: list[Side] = []
    done: set[Any] = set()
    for entry in distinct:
        if entry.record is None:
            load(entry)  # raises
        key = seed_key(entry)
        named = [other for other in distinct if other.record is not None and seed_key(other) == key]
        seeds = [other.record.seed for other in named if other.record is not None]
        if len(set(seeds)) < len(seeds):
            found.append(Side((load(entry),)))
        elif key not in done:
            done.add(key)
            runs = [load(one) for one in named] + _more_seeds(named, seeds, among)
            found.append(Side(tuple(sorted(runs, key=lambda run: run.record.seed))))
    return found


def _more_seeds(named: Sequence[Entry], seeds: Sequence[int], among: Iterable[Entry]) -> list[Run]:
    """Load the other finished seeds of an experiment; one without scores, or a second one of a seed, is passed over."""
    runs: list[Run] = []
    taken, folders = set(seeds), {entry.folder for entry in named}
    for entry in among:
        record = entry.record
        if record is None or record.status != "completed" or record.seed in taken or entry.folder in folders:
            continue
        if seed_key(entry) == seed_key(named[0]):
            try:
                runs.append(load(entry))
            except StoreError:
                continue
            taken.add(record.seed)
    return runs


@dataclass
class _Found:
    order: list[str] = field(default_factory=list)
    items: dict[str, tuple[str | None, str]] = field(default_factory=dict)
    scores: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.items)

    def add(self, metric: str, item: str, score: float) -> None:
        if math.isfinite(score):
            self.scores.setdefault(metric, {}).setdefault(item, []).append(score)


def _from_scores(entry: Entry) -> _Found:
    found = _Found()
    for line in read.scores(entry.folder):
        found.order.append(line.item)
        found.items.setdefault(line.item, (line.question, line.label))
        for metric, score in line.scores.items():
            found.add(metric, line.item, score)
    return found


def _from_samples(entry: Entry) -> _Found:
    """Read exact match from lm-eval's file of samples, for results that are older than scores.jsonl."""
    found = _Found()
    for line in read.samples(entry.folder, entry.record):
        metric, score = _FILTERS.get(str(line.get("filter"))), line.get("exact_match")
        if metric is None or not isinstance(score, int | float) or "doc_id" not in line:
            continue
        item, doc, target = str(line["doc_id"]), line.get("doc"), line.get("target")
        question = doc.get("question") if isinstance(doc, dict) else None
        # lm-eval's hash of a target is the one of ours for a text without white space around it
        reference = short_hash(str(target)) if target is not None else str(line.get("target_hash"))[:16]
        found.items.setdefault(item, (short_hash(str(question)) if question else None, reference))
        found.add(metric, item, _RIGHT * float(score))
    return found


def _bleu_counts(run: Run) -> dict[str, NDArray[np.float64]] | str:
    value = run.values.get(CORPUS_BLEU)
    if value is None or value.value is None:
        return "it has no value of it"
    lines = run.lines()
    if not lines:
        return "its generated_predictions.jsonl does not say which item a line is"
    import numpy as np

    from unsay.metrics.bleu import Bleu, corpus_bleu

    if Bleu().definition[CORPUS_BLEU] != value.definition:
        return f"it was computed as {value.definition!r}, which cannot be computed again here"
    samples = [Sample(item, "", str(line.get("label", "")), str(line.get("predict", ""))) for item, line in lines]
    rows = Bleu().counts(samples)
    again = float(corpus_bleu(rows.sum(axis=0, keepdims=True))[0]) if len(rows) else math.nan
    if not np.isclose(again, value.value, rtol=1e-6, atol=1e-6):
        return f"its predictions give {again:.4f}, its metrics.json says {value.value:.4f}"
    return dict(zip(run.order, rows, strict=True))


# -- the same items ---------------------------------------------------------------


def common_items(a: Side, b: Side) -> tuple[str, ...]:
    """Return the items whose id, reference and (where both are known) question agree in all runs, in natural order."""
    return tuple(sorted(_common_items(a, b), key=read.natural))


def why_not(a: Side, b: Side) -> str | None:
    """Say why two sides were not scored on the same items; None where they were."""
    first, *others = (*a.runs, *b.runs)
    for run in others:
        if missing := first.items.keys() ^ run.items.keys():
            both = len(first.items.keys() & run.items.keys())
            example = min(missing, key=read.natural)
            return (
                f"expected the same items, got {len(first.items)} in {first.name} and {len(run.items)} in {run.name}, "
                f"{both} of them in both (item {example} is in only one)"
            )
    common = set(_common_items(a, b))
    if len(common) == len(first.items):
        return None
    others_of = sorted((item for item in first.items if item not in common), key=read.natural)
    item = others_of[0]
    references = any(run.items[item][1] != first.items[item][1] for run in others)
    word = "references" if references else "questions"
    return (
        f"expected the same {word}, got other {word} for {len(others_of)} of {len(first.items)} items in "
        f"{a.name} and {b.name} (first: item {item})"
    )


def _common_items(a: Side, b: Side) -> list[str]:
    runs = (*a.runs, *b.runs)
    common = []
    for item in runs[0].items:
        known = [run.items[item] for run in runs if item in run.items]
        questions = {question for question, _ in known if question is not None}
        references = {reference for _, reference in known}
        if len(known) == len(runs) and len(references) == 1 and len(questions) <= 1:
            common.append(item)
    return common
