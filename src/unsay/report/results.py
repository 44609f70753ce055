"""One metric of two sides on the same items: levels, difference, error and test.

results_of(baseline, other, ["exact_match_strict"], common_items(baseline, other))[0].diff
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from unsay.report.names import CORPUS_BLEU, is_undo_measure, label
from unsay.report.numbers import ALPHA, is_percentage
from unsay.report.sides import Run, Side

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from unsay.stats import Equivalence, Resampled, Seeded, Statistic

RESAMPLES = 10_000
SEED = 0
MCNEMAR, BOOTSTRAP = "exact McNemar", "paired bootstrap"
OVER_SEEDS = "t test over seeds and questions"
SAME_TRAINING = f"{OVER_SEEDS}, paired by training"

FEW = 10
"""Answers that differ, from which on their spread is an estimate."""

Errors = tuple[tuple[float, float], ...]
"""Standard errors with their degrees of freedom (inf: normal); the one that leaves more to chance counts."""

_RIGHT = 100.0


@dataclass(frozen=True)
class Level:
    """One side's mean: over items with its standard error, or over `seeds` with their standard deviation `sd`."""

    value: float | None
    stderr: float | None = None
    low: float | None = None
    high: float | None = None
    sd: float | None = None
    seeds: int = 1


@dataclass(frozen=True)
class Result:
    """One metric of one comparison; `diff` is the other minus the baseline, in the unit of the metric.

    `only_other` (gained), `only_baseline` (lost) and `neither` list items, for 0/1 metrics of single runs. `smallest`
    is the true difference this pair would have found four times in five, at the level that Holm's first step asks for.
    """

    metric: str
    definition: str
    n: int
    baseline: Level
    other: Level
    diff: float | None
    stderr: float | None
    low: float | None
    high: float | None
    bootstrap_low: float | None
    bootstrap_high: float | None
    p: float | None
    test: str
    errors: Errors
    smallest: float | None
    equivalence: Equivalence | None = None
    only_baseline: tuple[str, ...] | None = None
    only_other: tuple[str, ...] | None = None
    neither: tuple[str, ...] | None = None
    remarks: tuple[str, ...] = ()
    p_holm: float | None = None
    family: int = 1

    @property
    def is_judged(self) -> bool:
        """Whether 100 means right: then items were gained and lost."""
        return self.only_other is not None and not is_undo_measure(self.definition)

    @property
    def beyond_chance(self) -> bool:
        return self.p_holm is not None and self.p_holm < ALPHA

    def to_json(self) -> dict[str, Any]:
        lists = {"only_baseline": self.only_baseline, "only_other": self.only_other, "neither": self.neither}
        shown = {key: value for key, value in vars(self).items() if key not in lists}
        return shown | {
            "label": label(self.metric),
            "baseline": vars(self.baseline),
            "other": vars(self.other),
            "equivalence": None if self.equivalence is None else vars(self.equivalence),
            "errors": errors_json(self.errors),
            "remarks": list(self.remarks),
            "beyond_chance": self.beyond_chance,
            **{name: None if items is None else len(items) for name, items in lists.items()},
            "items": None if self.only_other is None else {name: list(items or ()) for name, items in lists.items()},
        }


def results_of(
    a: Side,
    b: Side,
    metrics: Sequence[str],
    items: Sequence[str],
    *,
    resample: bool = True,
    margin: float | None = None,
) -> list[Result]:
    """Compare two sides on these items by every metric given.

    Single runs are compared by McNemar's test or the bootstrap, for which all metrics of the same items share their
    resamples; `resample` False spares it where McNemar's test is enough. With several seeds on a side trainings and
    items are both drawn by chance: `stats.seeded_difference`.
    """
    columns: dict[str, _Columns] = {metric: _columns(metric, a, b, items) for metric in metrics}
    spreads: dict[str, Resampled | Seeded]
    if a.is_group or b.is_group:
        spreads = {metric: _over_seeds(a, b, found) for metric, found in columns.items() if found.items}
    else:
        spreads = dict(_resampled([name for name in metrics if resample or not columns[name].is_binary], columns))
    return [_result(metric, a, b, columns[metric], spreads.get(metric), margin) for metric in metrics]


def errors_json(errors: Errors) -> list[dict[str, float | None]]:
    """Return standard errors with degrees of freedom as JSON has them: null stands for the normal distribution."""
    return [{"stderr": error, "df": None if math.isinf(df) else df} for error, df in errors]


def not_too_narrow(low: float, high: float, diff: float, *, differing: int, n: int) -> tuple[float, float]:
    """Return an interval of a difference of shares in %: where few answers differ, Wilson's for none of n at least."""
    from unsay import stats

    least = 100.0 * stats.wilson(0, n)[1] if differing < FEW else 0.0
    return min(low, diff - least), max(high, diff + least)


def smallest(errors: Errors, alpha: float) -> float | None:
    """Return the true difference that is found four times in five at this level; None where nothing varies."""
    from unsay import stats

    return max((stats.smallest_difference(error, alpha=alpha, df=df) for error, df in errors), default=None)


def seeds_of(values: Sequence[float]) -> tuple[float, float | None]:
    """Return mean and standard deviation over seeds."""
    average = math.fsum(values) / len(values)
    if len(values) < 2:
        return average, None
    return average, math.sqrt(math.fsum((value - average) ** 2 for value in values) / (len(values) - 1))


@dataclass(frozen=True)
class _Columns:
    """One metric of both sides: `rows` (items, k) as `stats.bootstrap` takes them, `width` columns per run.

    `statistic` turns the totals of one run's columns, and the number of items, into its value.
    """

    items: tuple[str, ...]
    rows: NDArray[np.float64]
    width: int
    corpus: bool
    percentage: bool

    @property
    def is_binary(self) -> bool:
        return self.percentage and not self.corpus and bool(((self.rows == 0) | (self.rows == _RIGHT)).all())

    def pair(self, start: int) -> tuple[Statistic, Statistic]:
        """Return the statistics of two single runs whose columns begin at `start`."""
        return self._statistic(start), self._statistic(start + self.width)

    def tables(self, of_a: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return what every item makes of the value of every run, (runs, items) for each side."""
        import numpy as np

        from unsay import stats

        runs = self.rows.shape[1] // self.width
        if not self.corpus:
            return self.rows.T[:of_a], self.rows.T[of_a:]
        each = np.array([stats.pseudo_values(self.rows, self._statistic(at * self.width)) for at in range(runs)])
        return each[:of_a], each[of_a:]

    def _statistic(self, start: int) -> Statistic:
        if self.corpus:
            from unsay.metrics.bleu import corpus_bleu

            return lambda totals: corpus_bleu(totals[:, start : start + self.width])
        n = len(self.items)
        return lambda totals: totals[:, start] / n

    def values(self) -> list[float]:
        """Return the value of every run."""
        totals = self.rows.sum(axis=0, keepdims=True)
        runs = self.rows.shape[1] // self.width
        return [float(self._statistic(at * self.width)(totals)[0]) for at in range(runs)]


def _columns(metric: str, a: Side, b: Side, items: Sequence[str]) -> _Columns:
    import numpy as np

    runs = (*a.runs, *b.runs)
    if metric == CORPUS_BLEU:
        counts = [run.bleu for run in runs if not isinstance(run.bleu, str)]
        table = np.array([np.concatenate([each[item] for each in counts]) for item in items], dtype=np.float64)
        return _Columns(tuple(items), table, table.shape[1] // len(runs), corpus=True, percentage=True)
    scores = [run.scores[metric] for run in runs]
    scored = tuple(item for item in items if all(item in each for each in scores))
    table = np.array([[each[item] for each in scores] for item in scored], dtype=np.float64)
    table = table.reshape(len(scored), len(runs))
    percentage = is_percentage(_definition(metric, runs)) and bool(((table >= 0) & (table <= _RIGHT)).all())
    return _Columns(scored, table, 1, corpus=False, percentage=percentage)


def _resampled(metrics: Sequence[str], columns: Mapping[str, _Columns]) -> Iterator[tuple[str, Resampled]]:
    import numpy as np

    from unsay import stats

    alike: dict[tuple[str, ...], list[str]] = {}
    for metric in metrics:
        alike.setdefault(columns[metric].items, []).append(metric)
    for same in alike.values():
        rows = np.concatenate([columns[metric].rows for metric in same], axis=1)
        starts = accumulate((columns[metric].rows.shape[1] for metric in same), initial=0)
        wanted = [columns[metric].pair(start) for metric, start in zip(same, starts, strict=False)]
        yield from zip(same, stats.differences(rows, wanted, resamples=RESAMPLES, seed=SEED), strict=True)


def _over_seeds(a: Side, b: Side, columns: _Columns) -> Seeded:
    from unsay import stats

    one, two = columns.tables(len(a.runs))
    trained = a.record.method != "vanilla", b.record.method != "vanilla"  # imported trainings have no hash
    return stats.seeded_difference(one, two, same_training=_same_training(a, b), trained=trained)


def _same_training(a: Side, b: Side) -> bool:
    """Whether the runs of both sides, seed by seed, are answers of the same trained weights."""
    return all(a.trainings) and a.trainings == b.trainings


def _result(
    metric: str, a: Side, b: Side, columns: _Columns, spread: Resampled | Seeded | None, margin: float | None
) -> Result:
    from unsay import stats

    over_seeds = spread if isinstance(spread, stats.Seeded) else None
    resampled = spread if isinstance(spread, stats.Resampled) else None
    binary = columns.is_binary and over_seeds is None
    values = columns.values()
    split = len(a.runs)
    one, two = columns.rows[:, 0].tolist(), columns.rows[:, -1].tolist()
    levels = [_level(each, columns, at) for each, at in ((values[:split], 0), (values[split:], split))]
    diff: float | None
    if over_seeds is not None:
        diff, stderr, low, high = over_seeds.value, over_seeds.stderr, over_seeds.low, over_seeds.high
        errors = over_seeds.errors
    else:
        shown = resampled if columns.corpus and resampled is not None else stats.paired_difference(two, one)
        diff, stderr, low, high = shown.diff, shown.stderr, shown.low, shown.high
        errors = ((stderr, math.inf),) if stderr else ()
    only_baseline = only_other = neither = None
    if binary:
        outcomes = list(zip(columns.items, one, two, strict=True))
        only_baseline = tuple(item for item, x, y in outcomes if x > y)
        only_other = tuple(item for item, x, y in outcomes if y > x)
        neither = tuple(item for item, x, y in outcomes if x == y == 0)
        p: float | None = stats.mcnemar(len(only_other), len(only_baseline)).p
        test = MCNEMAR
    elif over_seeds is not None:
        p, test = over_seeds.p, SAME_TRAINING if _same_training(a, b) else OVER_SEEDS
    else:
        p, test = resampled.p if resampled is not None else None, BOOTSTRAP
    pairwise = columns.is_binary and (binary or _same_training(a, b))
    if pairwise and diff is not None and low is not None and high is not None:
        differing = int((columns.rows[:, :split] != columns.rows[:, split:]).sum())
        low, high = not_too_narrow(low, high, diff, differing=differing, n=len(columns.items))
    equal = None
    if margin is not None and columns.percentage and diff is not None and stderr is not None:
        tests = [stats.equivalence(diff, error, margin, df=df) for error, df in errors or ((stderr, math.inf),)]
        equal = max(tests, key=lambda found: found.p)
    return Result(
        metric=metric,
        definition=_definition(metric, (*a.runs, *b.runs)),
        n=len(columns.items),
        baseline=levels[0],
        other=levels[1],
        diff=diff,
        stderr=stderr,
        low=low,
        high=high,
        bootstrap_low=resampled.low if resampled is not None else None,
        bootstrap_high=resampled.high if resampled is not None else None,
        p=p,
        test=test,
        errors=errors,
        smallest=smallest(errors, ALPHA),
        equivalence=equal,
        only_baseline=only_baseline,
        only_other=only_other,
        neither=neither,
        remarks=_remarks(metric, a, b, columns),
    )


def _definition(metric: str, runs: Sequence[Run]) -> str:
    return next((text for run in runs if (text := run.definition(metric)) is not None), metric)


def _level(values: Sequence[float], columns: _Columns, at: int) -> Level:
    from unsay import stats

    if len(values) > 1:
        average, sd = seeds_of(values)
        return Level(average, sd=sd, seeds=len(values))
    if columns.corpus:
        from unsay.metrics.bleu import corpus_bleu

        found: Any = stats.bootstrap(columns.rows[:, at * columns.width : (at + 1) * columns.width], corpus_bleu)
        return Level(found.value, found.stderr, found.low, found.high)
    scores = columns.rows[:, at].tolist()
    if columns.is_binary:
        found = stats.proportion(scores.count(_RIGHT), len(scores))
        scaled = [None if number is None else _RIGHT * number for number in (found.value, found.stderr)]
        low, high = (None if end is None else _RIGHT * end for end in (found.low, found.high))
        return Level(scaled[0], scaled[1], low, high)
    lowest = 0.0 if min(scores, default=0.0) >= 0 else -math.inf
    found = stats.mean(scores, bounds=(lowest, _RIGHT if columns.percentage else None))
    if found.stderr == 0 and columns.percentage and 0 < found.value < _RIGHT:
        return Level(found.value)
    return Level(found.value, found.stderr, found.low, found.high)


def _remarks(metric: str, a: Side, b: Side, columns: _Columns) -> tuple[str, ...]:
    runs = (*a.runs, *b.runs)
    words = []
    known = min(len(run.items) for run in runs)
    if not columns.corpus and len(columns.items) < min(known, *(len(run.scores[metric]) for run in runs)):
        words.append(f"only the {len(columns.items)} items that have it on both sides")
    for run in runs:
        value, scores = run.values.get(metric), run.scores.get(metric)
        if columns.corpus or value is None or value.value is None or not scores:
            continue
        average = math.fsum(scores.values()) / len(scores)
        if math.isclose(average, value.value, rel_tol=1e-6, abs_tol=1e-6):
            continue
        if is_undo_measure(value.definition):
            words.append("mean over answers; on the page it is a ratio of sums")
        else:
            words.append(f"the scores of {run.name} average {average:.4g}, its metrics.json says {value.value:.4g}")
    return tuple(dict.fromkeys(words))
