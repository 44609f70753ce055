"""The best value of each column and dataset, and what in a table of results cannot be compared.

A value is marked where its experiment is better than *every* other one that can be compared with it: same dataset, same
items, same definition of the metric. The claim is as strong as its weakest comparison, so its p is the largest of the
paired p-values against the others (an intersection-union test: Berger 1982, "Multiparameter hypothesis testing and
acceptance sampling"). That the best one was chosen by looking is paid for by testing on two sides (Hung & Fithian 2019,
"Rank verification for exponential families"). The claims of one table are adjusted together (Holm).

    found = standing(rows, tables.same_items(entries))
    found.is_best(entry, "exact_match_strict")

Few scores are read for it: others are tested from the nearest on until one is as good as the best, and one whose value
is so far away that no pairing of the items could make the difference one of chance is not read at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path

from unsay import stats
from unsay.errors import StoreError
from unsay.report import compare, differing, tables
from unsay.report.compare import Run, Side
from unsay.report.names import COLUMNS, FLEXIBLE, SHORT, STRICT, label
from unsay.report.numbers import ALPHA
from unsay.report.results import results_of, seeds_of
from unsay.report.tables import Row, SameItems
from unsay.store.read import Entry

MOST_NAMED = 4
"""Experiments that a note names one by one."""
KEPT = 64
"""Experiments whose scores of one metric stay in memory."""
_JUDGED = (STRICT, FLEXIBLE)
_RIGHT = 100.0
_Member = tuple[int | None, tuple[Row, ...]]
"""The number of the items that were scored, None where they are not known, and an experiment with all its seeds."""


@dataclass(frozen=True)
class Standing:
    """Which values of a table stand out, and the notes that belong at it.

    `marked` has the folders of an experiment, all its seeds together, with the metric it is best in; `claims` counts
    the best values that were tested.
    """

    marked: frozenset[tuple[tuple[str, ...], str]]
    claims: int
    notes: tuple[str, ...]

    def is_best(self, entries: Entry | Sequence[Entry], metric: str) -> bool:
        """Say whether an experiment (or the seeds of one) is marked in a column."""
        each = [entries] if isinstance(entries, Entry) else entries
        return (tuple(entry.relative for entry in each), metric) in self.marked

    @property
    def short_legend(self) -> str | None:
        """Say at the table what a mark means; None where nothing could have been marked."""
        return "In bold: better than every other comparable experiment, beyond chance." if self.claims else None

    @property
    def legend(self) -> str | None:
        """Say what was tested for the marks."""
        if not self.claims:
            return None
        return (
            "A value in bold is the best of its column and dataset, and better than every other one it can be compared "
            "with beyond chance. The best value is tested against each of the others on the same items: McNemar's "
            "exact test where answers are right or wrong, else a bootstrap over items; several seeds of one experiment "
            "are one value (in the table of seeds) with t tests that count the chance of trainings and of questions; "
            "where there are no scores per item, the two standard errors. The largest p counts, and has to be below "
            f"{ALPHA} when it is adjusted (Holm) for the number of best values that were tested, here {self.claims}. "
            "No mark: which one is best is not known. Of a dataset with several sets of items, the one with most "
            "experiments is looked at."
        )


@dataclass(frozen=True)
class _Contender:
    """One value of a column: `group` numbers the items it was scored on, None where they are not known."""

    rows: tuple[Row, ...]
    value: float
    stderr: float | None
    n: int
    group: int | None

    @property
    def key(self) -> tuple[str, ...]:
        return tuple(row.entry.relative for row in self.rows)


def standing(rows: Sequence[Row], same: SameItems) -> Standing:
    """Find what stands out among rows of whole runs, whose scores per item are grouped by `same`."""
    by_folder = {row.entry.folder: row for row in rows if row.metrics}
    sides: list[_Member] = [
        (number, tuple(by_folder[run.entry.folder] for run in side.runs))
        for number, group in enumerate(same.groups)
        for side in tables.with_seeds([run for run in group if run.entry.folder in by_folder])
    ]
    known = {row.entry.folder for _, each in sides for row in each}
    alone: list[_Member] = [(None, (row,)) for folder, row in by_folder.items() if folder not in known]
    claims = [
        (metric, group) for metric in COLUMNS for group in _comparable(metric, [*sides, *alone]) if len(group) > 1
    ]
    reads = _Reader({run.entry.folder: run for group in same.groups for run in group}, same.metric)
    tested = [_p_of_best(metric, group, ALPHA / len(claims), reads.scores) for metric, group in claims]
    marked = {
        (max(group, key=lambda one: one.value).key, metric)
        for (metric, group), p in zip(claims, stats.holm(tested), strict=True)
        if p < ALPHA
    }
    return Standing(frozenset(marked), len(claims), tuple(_notes([*sides, *alone], same)))


# -- who can be compared ----------------------------------------------------------


def _comparable(metric: str, sides: Iterable[_Member]) -> list[list[_Contender]]:
    """Return the values of a column that can be compared, dataset by dataset: the largest such group of each.

    One without scores per item joins those of as many items.
    """
    groups: dict[tuple[str, str], list[_Contender]] = {}
    for group, rows in sides:
        values = [value for row in rows if (value := row.metric(metric)) is not None and value.value is not None]
        if len(values) < len(rows) or len({value.definition for value in values}) > 1:
            continue
        levels = [value.value for value in values if value.value is not None]
        errors = [value.stderr for value in values]
        stderr = None
        if all(error is not None for error in errors):
            stderr = math.hypot(max(error for error in errors if error is not None), _of_seeds(levels))
        one = _Contender(rows, seeds_of(levels)[0], stderr, values[0].n, group)
        groups.setdefault((rows[0].dataset, values[0].definition), []).append(one)
    largest: dict[str, list[_Contender]] = {}
    for (dataset, _), each in groups.items():
        by_items: dict[int, list[_Contender]] = {}
        by_count: dict[int, list[_Contender]] = {}
        for one in each:
            if one.group is None:
                by_count.setdefault(one.n, []).append(one)
            else:
                by_items.setdefault(one.group, []).append(one)
        joined = [[*alike, *by_count.get(alike[0].n, [])] for alike in by_items.values()]
        for alike in (*joined, *by_count.values()):
            if len(alike) > len(largest.get(dataset, [])):
                largest[dataset] = alike
    return list(largest.values())


# -- the test ---------------------------------------------------------------------


def _p_of_best(
    metric: str, group: Sequence[_Contender], sure: float, read: Callable[[Entry, str], Run | None]
) -> float:
    """Return the largest p of the best one against the others, or the first that is not below ALPHA.

    A comparison whose p cannot reach `sure` stands for itself by that bound.
    """
    best, *others = sorted(group, key=lambda one: one.value, reverse=True)
    largest = 0.0
    nearest: tuple[float, _Contender] | None = None
    for other in others:
        bound = _most(metric, best, other)
        if bound < sure:
            largest = max(largest, bound)
            continue
        p, screened = _p(metric, best, other, read)
        if p >= ALPHA:
            return p
        if screened and (nearest is None or p > nearest[0]):
            nearest = (p, other)
        largest = max(largest, p)
    # of many comparisons by a normal distribution only the closest is worth a bootstrap
    return largest if nearest is None else max(largest, _paired(metric, best, nearest[1], read) or 0.0)


def _most(metric: str, best: _Contender, other: _Contender) -> float:
    """Return the largest p that any pairing of the items could give two values with these errors."""
    gap = best.value - other.value
    if _several(best, other):  # how much few seeds know is no matter of the errors alone
        return 1.0
    if metric in _JUDGED and best.group is not None and best.group == other.group and best.n == other.n:
        counts = [one.value * one.n / _RIGHT for one in (best, other)]
        if all(math.isclose(count, round(count), abs_tol=1e-6) for count in counts):
            return _least_agreement(round(counts[0]), round(counts[1]), best.n)
    if best.stderr is None or other.stderr is None or gap <= 0:
        return 1.0
    total = best.stderr + other.stderr  # the error of a difference, where every item pulls the two apart
    return stats.two_sided_p(gap / total) if total else 0.0


@cache
def _least_agreement(best: int, other: int, n: int) -> float:
    """Return McNemar's p where two systems with so many right answers agree on as few of n items as they can."""
    only_best = min(best, n - other)
    return stats.mcnemar(only_best, only_best - (best - other)).p


def _p(
    metric: str, best: _Contender, other: _Contender, read: Callable[[Entry, str], Run | None]
) -> tuple[float, bool]:
    """Return the p of a difference, and whether it is a normal distribution's that a bootstrap should confirm."""
    if best.group is not None and best.group == other.group:
        if _several(best, other):
            p = _paired(metric, best, other, read)
            if p is not None:
                return p, False
        elif (one := read(best.rows[0].entry, metric)) and (two := read(other.rows[0].entry, metric)):
            return _p_of_runs(metric, one, two)
    if best.stderr is None or other.stderr is None or _several(best, other):
        return 1.0, False
    return stats.two_sided_p(_ratio(best.value - other.value, math.hypot(best.stderr, other.stderr))), False


def _several(best: _Contender, other: _Contender) -> bool:
    return len(best.rows) > 1 or len(other.rows) > 1


def _p_of_runs(metric: str, best: Run, other: Run) -> tuple[float, bool]:
    ours, theirs = best.scores[metric], other.scores[metric]
    items = [item for item in ours if item in theirs]
    if not items:
        return 1.0, False
    one, two = [ours[item] for item in items], [theirs[item] for item in items]
    if all(score in (0.0, _RIGHT) for score in (*one, *two)):
        return stats.mcnemar(*stats.discordant(one, two)).p, False
    found = stats.paired_difference(one, two)
    if found.diff is None or found.stderr is None:
        return 1.0, False
    return stats.two_sided_p(_ratio(found.diff, found.stderr)), True


def _of_seeds(values: Sequence[float]) -> float:
    """Return the standard error of a mean over seeds, 0 with one seed."""
    return (seeds_of(values)[1] or 0.0) / math.sqrt(len(values))


def _paired(metric: str, best: _Contender, other: _Contender, read: Callable[[Entry, str], Run | None]) -> float | None:
    """Return the p that `unsay compare` gives; None where one has no scores of the metric."""
    runs = [[read(row.entry, metric) for row in side.rows] for side in (best, other)]
    sides = [Side(tuple(run for run in each if run is not None)) for each in runs]
    if any(len(side.runs) < len(each) for side, each in zip(sides, runs, strict=True)):
        return None
    (result,) = results_of(sides[1], sides[0], [metric], compare.common_items(*sides), resample=False)
    return 1.0 if result.p is None or (result.diff or 0.0) <= 0 else result.p


def _ratio(diff: float, stderr: float) -> float:
    return diff / stderr if stderr else (math.inf if diff else 0.0)


class _Reader:
    """Scores per item of one metric: those that were read before, else from disk, the last ones kept."""

    def __init__(self, before: Mapping[Path, Run], metric: str) -> None:
        self._before = before
        self._metric = metric
        self._kept = lru_cache(maxsize=KEPT)(self._read)

    def scores(self, entry: Entry, metric: str) -> Run | None:
        """Return a run with the scores of this metric; None where it has none."""
        run = self._before.get(entry.folder)
        if run is None or metric == self._metric:
            return run if run is not None and run.scores else None
        return self._kept(entry.folder, metric)

    def _read(self, folder: Path, metric: str) -> Run | None:
        before = self._before[folder]
        try:
            scores = compare.load(before.entry).scores
        except (StoreError, ValueError, OSError):
            return None
        return replace(before, scores={metric: scores[metric]}) if metric in scores else None


# -- what is said at the table ----------------------------------------------------


def _notes(sides: Sequence[_Member], same: SameItems) -> list[str]:
    """Say dataset by dataset what cannot be compared, and what differs in what can be."""
    by_dataset: dict[str, list[tuple[int | None, Row]]] = {}
    for group, rows in sides:
        for row in rows:
            by_dataset.setdefault(row.dataset, []).append((group, row))
    notes = []
    for dataset, members in by_dataset.items():
        if len(members) > 1:
            every = [row for _, row in members]
            found = [*_other_items(members, same), *_other_definitions(every), *_without_items(members)]
            notes += [f"{dataset}: {text}" for text in (*found, *_otherwise_asked(every))]
    return notes


def _other_items(members: Sequence[tuple[int | None, Row]], same: SameItems) -> list[str]:
    by_group: dict[int, list[Row]] = {}
    for group, row in members:
        if group is not None:
            by_group.setdefault(group, []).append(row)
    if len(by_group) < 2:
        return []
    texts = []
    for group, rows in by_group.items():
        plant, twin = tables.beginning(same.groups[group][0].record)
        kind = "" if plant is None else f", behind the beginning of {'a right' if twin else 'a wrong'} answer"
        texts.append(f"{_names(rows)} ({len(same.groups[group][0].items)} items{kind})")
    return [f"not scored on the same items, so only comparable within each of {'; '.join(texts)}."]


def _other_definitions(rows: Sequence[Row]) -> list[str]:
    found = []
    for metric in COLUMNS:
        by_definition: dict[str, list[Row]] = {}
        for row in rows:
            value = row.metric(metric)
            if value is not None and value.value is not None:
                by_definition.setdefault(value.definition, []).append(row)
        if len(by_definition) > 1:
            texts = [f"{text} in {_names(each)}" for text, each in by_definition.items()]
            found.append(
                f"{SHORT.get(metric, label(metric))} is not defined alike, so not compared: {'; '.join(texts)}."
            )
    return found


def _without_items(members: Sequence[tuple[int | None, Row]]) -> list[str]:
    rows = [row for group, row in members if group is None]
    if not rows:
        return []
    return [f"without scores per item, so that it is not known whether the items are the same: {_names(rows)}."]


def _otherwise_asked(rows: Sequence[Row]) -> list[str]:
    """Say which settings of asking and answering differ: the usual value, then the others with their experiments."""
    records = [record for row in rows if (record := row.entry.record) is not None]
    read = [row for row in rows if row.entry.record is not None]
    texts = []
    for setting, by_value in differing.spread(records).items():
        usual, *others = sorted(by_value.items(), key=lambda one: -len(one[1]))
        said = [f"{value} in {_names([read[at] for at in places])}" for value, places in others]
        texts.append(f"{setting} {usual[0]}, but {', '.join(said)}")
    return [f"asked or answered differently, which belongs to what is compared: {'; '.join(texts)}."] if texts else []


def _names(rows: Sequence[Row]) -> str:
    shown = [row.name for row in rows[:MOST_NAMED]]
    more = len(rows) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
