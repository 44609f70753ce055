"""What lm-eval's own scores say, item by item and summed up, under lm-eval's own names; and which of ours equal them.

    reading = read_exact_match(config, own=False)                      # can our exact match be the task's?
    scores = score(lines, results, positions, …)                       # {"math_verify,none": …}

A task's metric is what lm-eval logged for each item. Where it is a mean, the mean is computed again and must be
lm-eval's; other ways of summing up are taken over as lm-eval gives them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any

from unsay import lm_eval_metrics, metrics
from unsay.errors import EvaluationError
from unsay.metrics.exact_match import FLEXIBLE, INVALID, STRICT
from unsay.records import MetricValue

FILTERS = {"strict-match": STRICT, "flexible-extract": FLEXIBLE}
"""The filters of lm-eval whose exact match has a name of its own here."""
BYPASS = "bypass"
"""A metric of lm-eval that stands for none."""
_SELECTED = {"strict-match": 0, "flexible-extract": -1}
_MIRRORED = {"metric", "aggregation", "higher_is_better", "ignore_case", "regexes_to_ignore"}


@dataclass(frozen=True)
class ExactMatchReading:
    """Options for our exact match to be the task's; `reasons` say why a name is not computed."""

    options: dict[str, Any]
    definitions: dict[str, str]
    reasons: dict[str, str] = field(default_factory=dict)
    of_target: bool = False
    """The gold answer is what the task compares with, not what the dataset calls the answer."""

    @property
    def keys(self) -> frozenset[str]:
        """lm-eval's names of the scores that ours stand for."""
        return frozenset(f"exact_match,{each}" for each, name in FILTERS.items() if name not in self.reasons)

    def without(self, reason: str) -> ExactMatchReading:
        """Compute neither, for a reason that only the answers show."""
        reasons = {name: self.reasons.get(name, reason) for name in FILTERS.values()}
        return replace(self, options=self.options | {"strict": None, "flexible": None}, reasons=reasons)


def read_exact_match(config: Mapping[str, Any], *, own: bool) -> ExactMatchReading:
    """Return how a task cuts out and compares final answers, so that our exact match is lm-eval's.

    The gold answers of a user's `own` data are cut as the model's are; those of a task are as lm-eval takes them.
    """
    task = str(config["task"])
    source = f"lm-eval {task} v{version(config)}"
    patterns: dict[str, str | None] = dict.fromkeys(FILTERS)
    reasons = {}
    exact, why = _exact_match(config)
    for each, name in FILTERS.items():
        steps = next((item["filter"] for item in config.get("filter_list") or [] if item["name"] == each), None)
        if why is not None:
            reasons[name] = f"{task} {why}"
        elif steps is None:
            if not own:
                reasons[name] = f"{task} has no filter {each}"
        elif (pattern := _pattern(steps, _SELECTED[each])) is None:
            reasons[name] = f"the filter {each} of {task} does more than cut out one match"
        else:
            patterns[each] = pattern
    options = {
        "strict": patterns["strict-match"],
        "flexible": patterns["flexible-extract"],
        "ignored": tuple(exact.get("regexes_to_ignore") or ()),
        "ignore_case": bool(exact.get("ignore_case", False)),
        "gold": patterns["strict-match"] if own else None,
        "source": source,
    }
    return ExactMatchReading(
        options, {name: f"{source} {each}" for each, name in FILTERS.items()}, reasons, of_target=not own
    )


def version(config: Mapping[str, Any]) -> str:
    found = (config.get("metadata") or {}).get("version", "?")
    return f"{found:g}" if isinstance(found, float) else str(found)


def score(
    lines: Sequence[Mapping[str, Any]],
    aggregated: Mapping[str, Any],
    positions: Mapping[int, int],
    config: Mapping[str, Any],
    aggregations: Mapping[str, str],
    skip: Collection[str] = (),
) -> metrics.Scores:
    """Collect every metric of the task but those in `skip`: the items' scores by position, and the values.

    `aggregated` is lm-eval's results of the task, `aggregations` says how it sums up each metric. Raises
    EvaluationError where a mean over the items is not lm-eval's.
    """
    task = str(config["task"])
    source = f"lm-eval {task} v{version(config)}"
    logged: dict[str, dict[int, Any]] = {}
    for line in lines:
        for metric in line["metrics"]:
            key = f"{metric},{line['filter']}"
            if metric != BYPASS and key not in skip:
                logged.setdefault(key, {})[positions[int(line["doc_id"])]] = line[metric]
    items: metrics.Items = {}
    values: dict[str, MetricValue] = {}
    for key, found in logged.items():
        metric, _, filter = key.rpartition(",")
        numbers = {at: _number(value) for at, value in found.items()}
        known = [number for number in numbers.values() if number is not None]
        theirs, stderr = aggregated.get(key), aggregated.get(f"{metric}_stderr,{filter}")
        summed = _number(theirs)
        scale = lm_eval_metrics.scale(metric, task, (*known, *(() if summed is None else (summed,))))
        definition = lm_eval_metrics.definition(source, metric, filter, config, scale)
        column = [None if (number := numbers.get(at)) is None else scale * number for at in range(len(positions))]
        how = aggregations.get(metric)
        if len(known) == len(found) and (how in (None, "mean")) and _is_mean(key, known, theirs, sure=how == "mean"):
            values[key] = _averaged(column, definition, scale)
        elif summed is None:
            values[key] = metrics.missing(definition, f"lm-eval's value is {theirs!r}"[:200])
        else:
            error = None if (number := _number(stderr)) is None else scale * number
            reason = f"lm-eval sums it up by {how or 'a way of its own'}: no interval"
            reason += "" if error is not None else ", no standard error"
            values[key] = MetricValue(scale * summed, error, None, None, len(found), definition, reason)
        items[key] = column
    return metrics.Scores(items, values)


# -- our exact match ----------------------------------------------------------------


def _exact_match(config: Mapping[str, Any]) -> tuple[Mapping[str, Any], str | None]:
    """Return a task's settings of exact match, and why ours cannot follow them."""
    if config.get("process_results") is not None:
        return {}, "scores answers with code of its own"
    if config.get("doc_to_choice") is not None:
        return {}, "takes the gold answer from a list of choices"
    if config.get("metric_list") is None:
        return {}, None  # lm-eval's default is a plain exact match
    found: Mapping[str, Any] | None = next((m for m in config["metric_list"] if m["metric"] == "exact_match"), None)
    if found is None:
        return {}, "does not score exact match"
    for key, value in found.items():
        if key not in _MIRRORED and value:
            return {}, f"sets {key} for exact match, which unsay does not compute"
    if not isinstance(found.get("regexes_to_ignore") or [], list):
        return {}, "ignores something other than a list of patterns"
    return found, None


def _pattern(steps: Sequence[Mapping[str, Any]], selected: int) -> str | None:
    """Return the pattern of a filter that cuts out the match `selected` and does nothing else."""
    if [step.get("function") for step in steps] != ["regex", "take_first"]:
        return None
    cut = {"group_select": 0, "fallback": INVALID} | dict(steps[0])
    plain = set(cut) == {"function", "regex_pattern", "group_select", "fallback"}
    return (
        str(cut["regex_pattern"]) if plain and (cut["group_select"], cut["fallback"]) == (selected, INVALID) else None
    )


# -- the task's own metrics ------------------------------------------------------------


def _number(value: Any) -> float | None:
    """Return an item's score as a finite number; None for pairs, texts and nan."""
    if not isinstance(value, Real | bool) and not hasattr(value, "item"):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _is_mean(key: str, known: Sequence[float], theirs: Any, *, sure: bool) -> bool:
    mean, number = sum(known) / len(known), _number(theirs)
    if number is not None and math.isclose(mean, number, rel_tol=1e-9, abs_tol=1e-12):
        return True
    if sure:
        raise EvaluationError(
            f"{key}: expected lm-eval's value to be the mean of what it logged for {len(known)} items, got {theirs} "
            f"and {mean}. No number was written; please report the task."
        )
    return False


def _averaged(column: Sequence[float | None], definition: str, scale: float) -> MetricValue:
    if scale == 100.0 and all(score in (None, 0.0, 100.0) for score in column):
        return metrics.share(column, definition)
    return metrics.averaged(column, definition, metrics.PERCENT if scale == 100.0 else (-math.inf, None))
