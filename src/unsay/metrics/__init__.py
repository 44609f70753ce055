"""The contract of a metric, and `score`, which runs every metric file found in this folder.

One file per idea, one frozen dataclass per file; its fields are its options. A metric turns samples (visible text, gold
answer, accounting) into a few numbers each, and sums up from those numbers alone: so samples may be measured in parts,
in any process, and their texts forgotten. Values are on the 0-100 scale of the page unless its range says otherwise.
Knows nothing about datasets, models, files or formatting, and never imports torch.

    values = score(samples).values
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from unsay import catalog, stats
from unsay.errors import ConfigError, UnsayError
from unsay.records import ItemScores, MetricValue, Sample, short_hash

Measured = dict[str, NDArray[np.float64]]
"""Per metric name, what each sample adds: one row per sample, in the samples' order.

- Shape (n,): its score. NaN: it has none.
- Shape (n, 2): what it adds above and below the line of a ratio of sums; its score is the quotient. NaN: unknown; 0
  below the line: it adds nothing.
- Wider: what it adds to the totals of a corpus statistic. It has no score of its own.
"""
Items = dict[str, list[float | None]]
"""Per metric name, one score per sample in the samples' order; None where there is none."""
Range = tuple[float, float | None]
"""Lowest and highest possible value; None: no upper end."""
Parts = Mapping[str, str | float]
"""What a score was made of: words to what they name."""
ItemColumn = Sequence[float | None] | NDArray[np.float64]
"""Scores of items, with None or NaN where there is none."""

PERCENT: Range = (0.0, 100.0)
NO_SAMPLES = "no samples"
LONGEST_EXPLAINED = 200_000
"""Characters of an answer and its reference: scores of longer ones are not taken apart again."""
ROUNDING = 1e-10
"""No score differs by as little: the standard error of 20 million items of which one is wrong is 5e-6."""


class Metric(Protocol):
    """What every metric file provides; inherit from it for `items`. The order of the samples never matters."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its values, as in metrics.json."""

    @property
    def higher_is_better(self) -> Mapping[str, bool | None]:
        """Direction per name; None where neither direction is better."""

    @property
    def range(self) -> Mapping[str, Range]:
        """Possible values per name."""

    @property
    def definition(self) -> Mapping[str, str]:
        """Name and version of what is computed, per name: values compare only where this is equal."""

    def measure(self, samples: Sequence[Sample]) -> Measured:
        """Turn each sample into numbers that depend on no other sample, per name."""

    def summarise(self, measured: Measured) -> dict[str, MetricValue]:
        """Sum up all samples from what `measure` gave, put together in the samples' order where it came in parts."""

    def items(self, samples: Sequence[Sample]) -> Items:
        """Score each sample."""
        return item_scores(self.measure(samples))

    def explain(self, sample: Sample) -> Mapping[str, Parts]:
        """Say what the scores of a sample were made of, per name. Optional: the values to look at, in few words."""
        return {}


@dataclass(frozen=True)
class Scores:
    """Every metric of one set of samples: per item, and summed up."""

    items: Items
    values: dict[str, MetricValue]


def score(samples: Sequence[Sample], metrics: Sequence[Metric] | None = None) -> Scores:
    """Run the metrics given, or one of every file found with its default options.

    Raises UnsayError where two metrics use one name.
    """
    measures = check_names(load_all() if metrics is None else metrics)
    items: Items = {}
    values: dict[str, MetricValue] = {}
    for metric in measures:
        measured = metric.measure(samples)
        items.update(item_scores(measured))
        values.update(metric.summarise(measured))
    return Scores(items, values)


def explain(
    sample: Sample, scores: Mapping[str, float], definitions: Mapping[str, str], metrics: Sequence[Metric]
) -> dict[str, Parts]:
    """Say what the recorded scores of a sample were made of, per name, as far as it is known.

    A metric is asked only about scores of its own definition that it gives again: what it says is true of them.
    """
    if len(sample.predict) + len(sample.label) > LONGEST_EXPLAINED:
        return {}
    found: dict[str, Parts] = {}
    for metric in metrics:
        if not any(name in scores for name in metric.names):
            continue
        parts = metric.explain(sample)
        again = metric.items([sample]) if parts else {}
        for name in parts.keys() & scores.keys():
            score, is_its = again[name][0], metric.definition[name] == definitions.get(name)
            if is_its and score is not None and math.isclose(score, scores[name], rel_tol=1e-6, abs_tol=1e-6):
                found[name] = parts[name]
    return found


def item_scores(measured: Measured) -> Items:
    """Give the scores of the samples from what was measured."""
    return {name: _scores(numbers) for name, numbers in measured.items()}


def check_names(metrics: Sequence[Metric]) -> Sequence[Metric]:
    """Return the metrics. Raises UnsayError where two of them use one name."""
    names = [name for metric in metrics for name in metric.names]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UnsayError(f"two metrics are called {', '.join(twice)}; rename one or leave one out")
    return metrics


def found() -> tuple[str, ...]:
    """List the metric files by name, without importing them."""
    return catalog.names("metrics")


def load(name: str, **options: Any) -> Metric:
    """Make the metric of one file. Raises ConfigError for an unknown file or option."""
    made: Any = catalog.plugin("metrics", name)
    known = [field.name for field in dataclasses.fields(made)]
    if unknown := sorted(set(options) - set(known)):
        raise ConfigError([catalog.unknown(f"option of metric {name}", option, known) for option in unknown])
    metric: Metric = made(**options)
    return metric


def load_all(options: Mapping[str, Mapping[str, Any]] | None = None) -> tuple[Metric, ...]:
    """Make the metric of every file; `options` by file name, for instance a dataset's own answer patterns.

    Raises ConfigError for an unknown file or option.
    """
    given = options or {}
    for name in given:
        if name not in found():
            load(name)  # raises, with the nearest name
    return tuple(load(name, **given.get(name, {})) for name in found())


def by_item(samples: Sequence[Sample], items: Items) -> Iterator[ItemScores]:
    """Give the scores of each sample as a line of `scores.jsonl`, in the order of the samples."""
    for at, sample in enumerate(samples):
        scores = {name: score for name, column in items.items() if (score := column[at]) is not None}
        question = short_hash(sample.question) if sample.question else None
        yield ItemScores(sample.key, question, short_hash(sample.label), scores)


def _scores(numbers: NDArray[np.float64]) -> list[float | None]:
    if numbers.ndim == 2:
        if numbers.shape[1] != 2:
            return [None] * len(numbers)
        above, below = numbers.T
        numbers = np.divide(above, below, out=np.full(len(numbers), np.nan), where=below > 0)
    scores: list[float | None] = numbers.tolist()
    for at in np.flatnonzero(np.isnan(numbers)).tolist():
        scores[at] = None
    return scores


# -- summing up, shared by the metric files ---------------------------------------------------------------------------


def missing(definition: str, reason: str) -> MetricValue:
    """Say that a metric could not be computed, and why."""
    return MetricValue(None, None, None, None, 0, definition, reason)


def from_estimate(
    found: stats.Estimate | stats.Bootstrap, definition: str, limits: Range, *, scale: float = 1.0
) -> MetricValue:
    """Turn an estimate into a metric value, times `scale`.

    A standard error of 0 strictly inside a bounded range (all items scored the same), or of what rounding leaves of 0,
    says nothing about the spread: it becomes None with a reason, and so does its interval.
    """
    if found.value is None:
        return missing(definition, NO_SAMPLES if found.n == 0 else str(found.reason))
    value, (lowest, highest) = found.value * scale, limits
    none = found.stderr is not None and found.stderr * scale <= ROUNDING
    if none and highest is not None and lowest + ROUNDING < value < highest - ROUNDING:
        reason = f"all {found.n} items score the same: no standard error"
        return MetricValue(value, None, None, None, found.n, definition, reason)

    def scaled(number: float | None) -> float | None:
        return None if number is None else number * scale

    return MetricValue(
        value, scaled(found.stderr), scaled(found.low), scaled(found.high), found.n, definition, found.reason
    )


def averaged(scores: ItemColumn, definition: str, limits: Range = PERCENT) -> MetricValue:
    """Average item scores, leaving out those that are none; the interval is the normal one, cut to the range."""
    return from_estimate(stats.mean(_there(scores), bounds=limits), definition, limits)


def share(scores: ItemColumn, definition: str) -> MetricValue:
    """Average item scores that are 0 or 100, leaving out those that are none; the interval is Wilson's."""
    counted = _there(scores)
    return share_of(counted.count(100.0), len(counted), definition)


def share_of(count: int, n: int, definition: str) -> MetricValue:
    """Return the share of `count` items in `n`; the interval is Wilson's."""
    return from_estimate(stats.proportion(count, n), definition, PERCENT, scale=100.0)


def numpy_mean(scores: NDArray[np.float64], value: MetricValue) -> MetricValue:
    """Replace the value by the mean that `np.mean` finds, as a peer that uses it: the last digit may be another.

    Raises UnsayError where it is another number.
    """
    if value.value is None:
        return value
    mean = float(np.mean(np.ascontiguousarray(scores)))
    if not math.isclose(value.value, mean, rel_tol=1e-9, abs_tol=1e-9):
        raise UnsayError(f"expected two orders of summing to agree, got {value.value} and {mean}")
    return dataclasses.replace(value, value=mean)


def _there(scores: ItemColumn) -> list[float]:
    if isinstance(scores, np.ndarray):
        there: list[float] = scores[~np.isnan(scores)].tolist()
        return there
    return [score for score in scores if score is not None]
