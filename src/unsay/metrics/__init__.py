"""The contract of a metric, and `score`, which runs every metric file found in this folder.

One file per idea, one frozen dataclass per file; its fields are its options. A metric reads samples (visible text,
gold answer, accounting) and gives numbers: per item and summed up, on the 0-100 scale of the page unless its range says
otherwise. Knows nothing about datasets, models, files or formatting, and never imports torch.

    values = score(samples).values
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from unsay import catalog, stats
from unsay.errors import ConfigError, UnsayError
from unsay.records import ItemScores, MetricValue, Sample, short_hash

Items = dict[str, list[float | None]]
"""Per metric name, one score per sample in the samples' order; None where there is none."""
Range = tuple[float, float | None]
"""Lowest and highest possible value; None: no upper end."""

PERCENT: Range = (0.0, 100.0)
NO_SAMPLES = "no samples"


class Metric(Protocol):
    """What every metric file provides. The order of the samples never matters."""

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

    def items(self, samples: Sequence[Sample]) -> Items:
        """Score each sample. A corpus statistic, which no item has, gives None for each."""

    def summarise(self, samples: Sequence[Sample], items: Items | None = None) -> dict[str, MetricValue]:
        """Sum up all samples. `items` are the scores of these samples, where they are at hand already."""


@dataclass(frozen=True)
class Scores:
    """Every metric of one set of samples: per item, and summed up."""

    items: Items
    values: dict[str, MetricValue]


def score(samples: Sequence[Sample], metrics: Sequence[Metric] | None = None) -> Scores:
    """Run the metrics given, or one of every file found with its default options.

    Raises UnsayError where two metrics use one name.
    """
    items: Items = {}
    values: dict[str, MetricValue] = {}
    for metric in load_all() if metrics is None else metrics:
        if twice := sorted(set(metric.names) & set(values)):
            raise UnsayError(f"two metrics are called {', '.join(twice)}; rename one or leave one out")
        scored = metric.items(samples)
        items.update(scored)
        values.update(metric.summarise(samples, scored))
    return Scores(items, values)


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


# -- summing up, shared by the metric files ---------------------------------------------------------------------------


def missing(definition: str, reason: str) -> MetricValue:
    """Say that a metric could not be computed, and why."""
    return MetricValue(None, None, None, None, 0, definition, reason)


def from_estimate(
    found: stats.Estimate | stats.Bootstrap, definition: str, limits: Range, *, scale: float = 1.0
) -> MetricValue:
    """Turn an estimate into a metric value, times `scale`.

    A standard error of exactly 0 strictly inside a bounded range (all items scored the same) says nothing about the
    spread: it becomes None with a reason, and so does its interval.
    """
    if found.value is None:
        return missing(definition, NO_SAMPLES if found.n == 0 else str(found.reason))
    value, highest = found.value * scale, limits[1]
    if found.stderr == 0 and highest is not None and limits[0] < value < highest:
        reason = f"all {found.n} items score the same: no standard error"
        return MetricValue(value, None, None, None, found.n, definition, reason)

    def scaled(number: float | None) -> float | None:
        return None if number is None else number * scale

    return MetricValue(
        value, scaled(found.stderr), scaled(found.low), scaled(found.high), found.n, definition, found.reason
    )


def averaged(scores: Sequence[float | None], definition: str, limits: Range = PERCENT) -> MetricValue:
    """Average item scores, leaving out None; the interval is the normal one, cut to the range."""
    return from_estimate(stats.mean((s for s in scores if s is not None), bounds=limits), definition, limits)


def share(scores: Sequence[float | None], definition: str) -> MetricValue:
    """Average item scores that are 0 or 100, leaving out None; the interval is Wilson's."""
    counted = [s for s in scores if s is not None]
    right = sum(s == 100.0 for s in counted)
    return from_estimate(stats.proportion(right, len(counted)), definition, PERCENT, scale=100.0)


def same_mean(value: MetricValue, mean: float) -> MetricValue:
    """Replace the value by the same mean summed in another order, as a peer sums it; check that it is the same.

    Raises UnsayError where it is another number.
    """
    if value.value is None or not math.isclose(value.value, mean, rel_tol=1e-9, abs_tol=1e-9):
        raise UnsayError(f"expected two orders of summing to agree, got {value.value} and {mean}")
    return dataclasses.replace(value, value=mean)
