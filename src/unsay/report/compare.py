"""Paired comparisons of experiments on the same items: what `unsay compare` and the page say about a difference.

Every difference is the other minus the baseline, item by item. What makes a difference meaningless is refused (other
items, other references, a metric that was defined otherwise); what belongs to the experiment (prompts, shots, template,
budget, decoding) is compared and said. Several seeds of one experiment are one side. Knows nothing about terminals or
files of tables.

    compare(sides([a, b], entries), Options())[0].results[0].diff
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from unsay.errors import UnsayError
from unsay.report import differing
from unsay.report.names import ALWAYS_SHOWN, CORPUS_BLEU, in_order, is_undo_measure, label
from unsay.report.numbers import ALPHA
from unsay.report.results import Result, results_of, smallest
from unsay.report.sides import Run as Run
from unsay.report.sides import Side as Side
from unsay.report.sides import common_items as common_items
from unsay.report.sides import load as load
from unsay.report.sides import seed_key as seed_key
from unsay.report.sides import sides as sides
from unsay.report.sides import why_not as why_not
from unsay.store import read


@dataclass(frozen=True)
class Comparison:
    """Two sides on the same items, with everything a reader needs to doubt the difference."""

    baseline: Side
    other: Side
    items: tuple[str, ...]
    left_out_baseline: tuple[str, ...]
    left_out_other: tuple[str, ...]
    banner: tuple[str, ...]
    """What about asking and answering differs or is not known."""
    limited: tuple[str, ...]
    settings: tuple[str, ...]
    data: tuple[str, ...]
    versions: tuple[str, ...]
    warnings: tuple[tuple[str, str], ...]
    results: tuple[Result, ...]
    not_compared: tuple[tuple[str, str], ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "baseline": self.baseline.to_json(),
            "other": self.other.to_json(),
            "difference": f"{self.other.name} minus {self.baseline.name}",
            "n": len(self.items),
            "left_out": {"baseline": list(self.left_out_baseline), "other": list(self.left_out_other)},
            "protocol": list(self.banner),
            "limited": list(self.limited),
            "settings": list(self.settings),
            "data": list(self.data),
            "versions": list(self.versions),
            "warnings": [{"experiment": name, "warning": text} for name, text in self.warnings],
            "metrics": [result.to_json() for result in self.results],
            "not_compared": [{"metric": metric, "reason": reason} for metric, reason in self.not_compared],
        }


@dataclass(frozen=True)
class Options:
    """What to compare and how. `metrics`: empty for all in common. `margin`: of the equivalence test, in points."""

    metrics: tuple[str, ...] = ()
    all_pairs: bool = False
    intersect: bool = False
    strict: bool = False
    margin: float | None = None


# -- comparing --------------------------------------------------------------------


def compare(chosen: Sequence[Side], options: Options) -> list[Comparison]:
    """Compare every side with the first one, or all with each other.

    Raises UnsayError for what cannot be compared: fewer than two sides, other items or references, no metric that both
    have and define alike; with `strict` also for another protocol.
    """
    if len(chosen) < 2:
        raise UnsayError(_only_one(chosen))
    pairs = [(a, b) for at, a in enumerate(chosen) for b in chosen[at + 1 :] if options.all_pairs or at == 0]
    return adjusted([_compare(a, b, options) for a, b in pairs])


def adjusted(found: Sequence[Comparison]) -> list[Comparison]:
    """Adjust the p-values of every metric for the number of comparisons of that metric (Holm)."""
    from unsay import stats

    places: dict[str, list[tuple[int, int]]] = {}
    for at, one in enumerate(found):
        for where, result in enumerate(one.results):
            if result.p is not None:
                places.setdefault(result.metric, []).append((at, where))
    results = [list(one.results) for one in found]
    for family in places.values():
        holm = stats.holm([results[at][where].p or 0.0 for at, where in family])
        for (at, where), p in zip(family, holm, strict=True):
            result = results[at][where]
            seen = smallest(result.errors, ALPHA / len(family))
            results[at][where] = replace(result, p_holm=p, family=len(family), smallest=seen)
    return [replace(one, results=tuple(each)) for one, each in zip(found, results, strict=True)]


def _compare(a: Side, b: Side, options: Options) -> Comparison:
    items, left_a, left_b = _matched(a, b, options.intersect)
    metrics, not_compared = _metrics(a, b, items, options.metrics)
    if not metrics:
        reasons = "; ".join(f"{label(metric)}: {reason}" for metric, reason in not_compared)
        raise UnsayError(
            f"{a.name} and {b.name} have no metric that could be compared item by item"
            + (f" ({reasons})" if reasons else "")
            + ". Score both in the same way, with the same version, and compare again."
        )
    banner = _banner(a, b, items, metrics)
    if banner and options.strict:
        raise UnsayError(
            f"--strict: expected {a.name} and {b.name} to be asked and to answer in the same way, got: "
            f"{'; '.join(banner)}. Without --strict they are compared and this stands above the table."
        )
    runs = (*a.runs, *b.runs)
    return Comparison(
        baseline=a,
        other=b,
        items=items,
        left_out_baseline=left_a,
        left_out_other=left_b,
        banner=banner,
        limited=tuple(said for run in runs if (said := _limited(run)) is not None),
        settings=differing.arms(a.record, b.record, seeds=not (a.is_group or b.is_group)),
        data=differing.data(a.record, b.record) + _unknown_questions(a, b, items),
        versions=differing.versions(a.record, b.record) + _versions_of_seeds(a) + _versions_of_seeds(b),
        warnings=tuple(dict.fromkeys((run.name, text) for run in runs for text in run.record.warnings)),
        results=tuple(results_of(a, b, metrics, items, margin=options.margin)),
        not_compared=not_compared,
    )


def _only_one(chosen: Sequence[Side]) -> str:
    if chosen and chosen[0].is_group:
        seeds = ", ".join(map(str, chosen[0].seeds))
        return (
            f"expected at least two experiments, got seeds {seeds} of one ({chosen[0].runs[0].name}). Name another "
            "experiment, or compare the seeds with each other: --each-seed."
        )
    return "expected at least two different experiments to compare, got one; `unsay status` lists them."


def _matched(a: Side, b: Side, intersect: bool) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Return the items to compare on, and what each side has besides."""
    problem = why_not(a, b)
    items = common_items(a, b)
    if problem is not None and not intersect:
        more = f"Add --intersect to compare on the {len(items)} that agree." if items else "No item agrees in both."
        raise UnsayError(f"{a.name} and {b.name} cannot be compared: {problem}. {more}")
    if not items:
        raise UnsayError(
            f"{a.name} and {b.name} cannot be compared: {problem or 'there are no items'}. No item agrees in id, "
            "question and reference; compare experiments on the same data."
        )
    kept = set(items)
    left = (
        tuple(sorted({item for run in side.runs for item in run.items} - kept, key=read.natural)) for side in (a, b)
    )
    left_a, left_b = left
    return items, left_a, left_b


# -- which metrics ----------------------------------------------------------------


def _metrics(
    a: Side, b: Side, items: Sequence[str], wanted: Sequence[str]
) -> tuple[list[str], tuple[tuple[str, str], ...]]:
    """Return the metrics to compare, the primary one first, and those that cannot be, with the reason."""
    known = {metric for run in (*a.runs, *b.runs) for metric in (*run.scores, *run.values)}
    if unknown := [metric for metric in wanted if metric not in known]:
        import difflib

        near = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f" Did you mean {near[0]}?" if near else f" They have: {', '.join(in_order(known))}."
        raise UnsayError(f"neither {a.name} nor {b.name} has a metric {unknown[0]!r}.{hint}")
    found: list[str] = []
    refused: list[tuple[str, str]] = []
    for metric in in_order(dict.fromkeys(wanted) if wanted else known):
        reason = _why_not_metric(metric, a, b, items)
        if reason is None:
            if wanted or not _says_nothing(metric, a, b):
                found.append(metric)
        elif wanted or all(metric in run.values or metric in run.scores for run in (*a.runs, *b.runs)):
            refused.append((metric, reason))
    if not wanted:
        refused = [(metric, reason) for metric, reason in refused if not _has_no_value(metric, a, b)]
    return found, tuple(refused)


def _why_not_metric(metric: str, a: Side, b: Side, items: Sequence[str]) -> str | None:
    runs = (*a.runs, *b.runs)
    definitions = {run.definition(metric): run.name for run in runs if run.definition(metric) is not None}
    if len(definitions) > 1:
        texts = [f"{text!r} in {name}" for text, name in definitions.items()]
        return f"expected one definition, got {' and '.join(texts)}; score both with the same version"
    if metric == CORPUS_BLEU:
        return next((f"{run.name}: {run.bleu}" for run in runs if isinstance(run.bleu, str)), None)
    without = next((run for run in runs if metric not in run.scores), None)
    if without is not None:
        return f"{without.name} has no scores per item of it"
    if not any(all(item in run.scores[metric] for run in runs) for item in items):
        return "no item has a score on both sides"
    return None


def _has_no_value(metric: str, a: Side, b: Side) -> bool:
    """Whether one side could not compute the metric at all, so that nobody expects a comparison."""
    values = [run.values.get(metric) for run in (*a.runs, *b.runs)]
    return any(value is not None and value.value is None for value in values)


def _says_nothing(metric: str, a: Side, b: Side) -> bool:
    """Whether a measure of undo is 0 everywhere, as between models without undo."""
    runs = (*a.runs, *b.runs)
    definition = next((text for run in runs if (text := run.definition(metric)) is not None), "")
    if not is_undo_measure(definition) or metric in ALWAYS_SHOWN:
        return False
    return not any(any(run.scores.get(metric, {}).values()) for run in runs)


# -- what differs -----------------------------------------------------------------


def _banner(a: Side, b: Side, items: Sequence[str], metrics: Sequence[str]) -> tuple[str, ...]:
    found = differing.protocol(a.record, b.record)
    words = [f"differs: {text}" for text in found.differing]
    words += [f"unknown: {text}" for text in found.unknown]
    if not found.other_prompts:
        words += _other_prompts(a, b, items)
    for side in (a, b):
        for run in side.runs[1:]:
            if others := differing.arms(side.record, run.record, seeds=False):
                words.append(f"the seeds of {side.name} are not set up alike: {', '.join(others)} in {run.name}")
    for metric in metrics:
        without = [run.name for run in (*a.runs, *b.runs) if run.definition(metric) is None]
        if without:
            words.append(f"unknown: definition of {label(metric)} in {', '.join(without)}")
    return tuple(words)


def _other_prompts(a: Side, b: Side, items: Sequence[str]) -> list[str]:
    """Say whether the rendered prompts differ although the settings agree (another template, another task file)."""
    one, two = ({item: line.get("prompt") for item, line in side.runs[0].lines()} for side in (a, b))
    both = [item for item in items if one.get(item) is not None and two.get(item) is not None]
    other = sum(one[item] != two[item] for item in both)
    return [f"differs: the prompt of {other} of {len(both)} items"] if other else []


def _unknown_questions(a: Side, b: Side, items: Sequence[str]) -> tuple[str, ...]:
    for run in (*a.runs, *b.runs):
        unknown = sum(run.items[item][0] is None for item in items)
        if unknown:
            return (f"the questions of {run.name} are not known ({unknown} items): matched by id and reference",)
    return ()


def _versions_of_seeds(side: Side) -> tuple[str, ...]:
    return tuple(
        f"{text} among the seeds of {side.name}, in {run.name}"
        for run in side.runs[1:]
        for text in differing.versions(side.record, run.record)
    )


def _limited(run: Run) -> str | None:
    total, n = differing.total_items(run.record), len(run.items)
    counted = f"{n} of {'?' if total is None else total} items"
    if run.entry.limit is not None:
        return f"{run.name} is a limited run: {counted}, not a result of the whole set"
    return f"{run.name} has the scores of {counted} only" if total is not None and n < total else None
