"""Results and comparisons as tables of plain cells and sentences: what the terminal and every format show.

sheet = differences(found)          # header and rows of text, escaped by whoever writes them
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unsay.report import numbers, tables
from unsay.report.compare import Comparison, Side
from unsay.report.escape import line, shortened
from unsay.report.names import COLUMNS, SHORT, in_order, label
from unsay.report.numbers import ALPHA
from unsay.report.results import BOOTSTRAP, MCNEMAR, RESAMPLES, SEED, Level, Result
from unsay.report.tables import Row
from unsay.store import read

FIRST = 8
"""Items named where all would be too many."""
QUESTION = 100
"""Characters of a question in a list of items."""


@dataclass(frozen=True)
class Sheet:
    """A table: the first `words` columns hold text, the others numbers."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int


# -- results ----------------------------------------------------------------------


def results(rows: Sequence[Row]) -> Sheet:
    """Return the results table of the page, for whole runs."""
    names = [SHORT.get(name, label(name)) for name in COLUMNS]
    header = ("Experiment ID", "Model", "Dataset", "Method", "Config", "Seed", *names)
    found = [
        (
            *(row.name, row.model, row.dataset, row.method, row.config, str(row.seed)),
            *(numbers.of(row.metric(name)) for name in COLUMNS),
        )
        for row in rows
        if row.entry.limit is None
    ]
    return Sheet(header, tuple(found), 5)


def result_records(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return one record per experiment, limited runs too, with every metric that any of them has, unrounded."""
    metrics = in_order({name for row in rows for name in row.metrics})
    records = []
    for row in rows:
        record = row.entry.record
        found: dict[str, Any] = {
            "id": record.id if record else None,
            "folder": row.entry.relative,
            "model": row.model,
            "dataset": row.dataset,
            "method": row.method,
            "config": row.config,
            "seed": row.seed,
            "limit": row.entry.limit,
            "items": tables.items_of(row)[0],
            "status": row.status,
            "start": record.start if record else None,
            "end": record.end if record else None,
            "notes": row.notes,
        }
        for name in metrics:
            value = row.metric(name)
            for key in ("value", "stderr", "low", "high", "n"):
                column = name if key == "value" else f"{name}_{key}"
                found[column] = None if value is None else getattr(value, key)
        records.append(found)
    return records


# -- comparisons ------------------------------------------------------------------


def title(one: Comparison) -> str:
    return f"{one.other.name} minus {one.baseline.name}"


def described(side: Side) -> str:
    """Say what a side is, in one line."""
    record = side.record
    seeds = ("seeds " if side.is_group else "seed ") + ", ".join(map(str, side.seeds))
    more = f" ({', '.join(run.name for run in side.runs)})" if side.is_group else ""
    return f"{record.model} on {record.dataset}, {record.method} {record.config}, {seeds}{more}"


def context(one: Comparison) -> list[tuple[str, str]]:
    """Return what must be said above a table of numbers: kind and text."""
    found = [("LIMITED", text) for text in one.limited]
    found += [("PROTOCOL", text) for text in one.banner]
    left = [(one.baseline, one.left_out_baseline), (one.other, one.left_out_other)]
    if any(items for _, items in left):
        found.append(
            (
                "LEFT OUT",
                f"compared on {len(one.items)} items that agree in both; left out: "
                + ", ".join(f"{len(items)} of {side.name}" for side, items in left),
            )
        )
    found += [("baseline", f"{one.baseline.name}: {described(one.baseline)}")]
    found += [("other", f"{one.other.name}: {described(one.other)}")]
    found.append(("settings", ", ".join(one.settings) or "no difference"))
    found.append(("data", ", ".join(one.data) or "no difference"))
    found.append(("versions", ", ".join(one.versions) or "no difference"))
    found += [("warning", f"{name}: {text}") for name, text in one.warnings]
    found += [("not compared", f"{label(metric)}: {reason}") for metric, reason in one.not_compared]
    return found


def is_loud(kind: str) -> bool:
    return kind.isupper()


def levels(one: Comparison) -> Sheet:
    """Return both sides of a comparison, metric by metric."""
    a, b = one.baseline.name, one.other.name
    rows = [
        (
            label(result.metric),
            str(result.n),
            *(_level(result.baseline), numbers.interval(result.baseline.low, result.baseline.high)),
            *(_level(result.other), numbers.interval(result.other.low, result.other.high)),
        )
        for result in one.results
    ]
    return Sheet(("Metric", "Items", a, "95 % interval", b, "95 % interval"), tuple(rows), 1)


def changes(one: Comparison) -> Sheet:
    """Return the differences of a comparison, metric by metric."""
    margin = next((result.equivalence.margin for result in one.results if result.equivalence is not None), None)
    header = ["Metric", title(one), "95 % interval", "Bootstrap 95 %"]
    header += [f"Only {one.other.name}", f"Only {one.baseline.name}", "p", "p (Holm)", "Finds"]
    rows = [(label(result.metric), *_change(result, margin)) for result in one.results]
    return Sheet((*header, *_within(margin)), tuple(rows), 1)


def differences(found: Sequence[Comparison]) -> Sheet:
    """Return all comparisons in one table, a line per pair and metric."""
    results = [result for one in found for result in one.results]
    margin = next((result.equivalence.margin for result in results if result.equivalence is not None), None)
    header = ["Experiment", "Against", "Metric", "Items", "Experiment's", "Against's", "Difference", "95 % interval"]
    header += ["Bootstrap 95 %", "Only experiment", "Only against", "p", "p (Holm)", "Finds"]
    rows = [
        (
            *(one.other.name, one.baseline.name, label(result.metric), str(result.n)),
            *(_level(result.other), _level(result.baseline)),
            *_change(result, margin),
        )
        for one in found
        for result in one.results
    ]
    return Sheet((*header, *_within(margin)), tuple(rows), 3)


def comparison_records(found: Sequence[Comparison]) -> list[dict[str, Any]]:
    """Return one record per pair and metric, unrounded."""
    records = []
    for one in found:
        for result in one.results:
            record: dict[str, Any] = {
                "other": one.other.name,
                "baseline": one.baseline.name,
                "metric": result.metric,
                "definition": result.definition,
                "n": result.n,
                "left_out_baseline": len(one.left_out_baseline),
                "left_out_other": len(one.left_out_other),
            }
            for name, level in (("other", result.other), ("baseline", result.baseline)):
                record |= {f"{name}_{key}": value for key, value in vars(level).items()}
            for key in ("diff", "stderr", "low", "high", "bootstrap_low", "bootstrap_high"):
                record[key] = getattr(result, key)
            for key in ("only_other", "only_baseline", "neither"):
                items = getattr(result, key)
                record[key] = None if items is None else len(items)
            record |= {"p": result.p, "test": result.test, "p_holm": result.p_holm, "family": result.family}
            equal = result.equivalence
            record |= {
                "smallest": result.smallest,
                "equivalence_margin": None if equal is None else equal.margin,
                "equivalence_p": None if equal is None else equal.p,
                "protocol": "; ".join(one.banner),
                "limited": "; ".join(one.limited),
            }
            records.append(record)
    return records


def footnotes(found: Sequence[Comparison]) -> list[str]:
    """Say how the numbers of comparisons came about, and what to keep in mind of single ones."""
    results = [result for one in found for result in one.results]
    family = max((result.family for result in results), default=1)
    used = {result.test for result in results}
    tests = []
    if used & {MCNEMAR, BOOTSTRAP}:
        tests.append(f"exact McNemar for 0/1 metrics, else from {RESAMPLES:,} resamples (seed {SEED}, at least 0.0002)")
    if used - {MCNEMAR, BOOTSTRAP}:
        tests.append(
            "with several seeds, t tests that count the chance of trainings and of questions, and the ± of a side is "
            "the sd over seeds"
        )
    adjusted = f"adjusted for {family} comparisons of a metric (Holm)" if family > 1 else "one comparison, as it is"
    notes = [
        f"p: {'; '.join(tests)}; p (Holm): {adjusted}. Below {ALPHA} counts as beyond chance.",
        "Finds: the true difference this pair would have found four times in five.",
    ]
    if any(result.equivalence is not None for result in results):
        notes.append(
            f"Within: two one-sided tests; yes where the difference is shown to be smaller (p < {ALPHA}), a percentage "
            "only. No is not evidence of a difference."
        )
    for one in found:
        notes += [f"{title(one)}, {label(r.metric)}: {text}." for r in one.results for text in r.remarks]
    return notes


def gained_and_lost(one: Comparison) -> list[str]:
    """Count the items that only one side has right, and name the first of them."""
    lines = []
    for result in one.results:
        if result.is_judged:
            for word, _, items in _lists(one, result):
                lines.append(f"{label(result.metric)}, {word} {_first(items)}")
    return lines


def all_items(one: Comparison) -> list[tuple[str, list[str]]]:
    """List every gained, lost and missed item, with the last line of its question."""
    questions = _questions(one)
    found = []
    for result in one.results:
        if result.is_judged:
            for word, explained, items in _lists(one, result):
                lines = [
                    ": ".join(filter(None, (item, shortened(questions.get(item, ""), QUESTION)))) for item in items
                ]
                found.append((f"{label(result.metric)}, {word} {len(items)} ({explained})", lines))
    return found


def _lists(one: Comparison, result: Result) -> list[tuple[str, str, Sequence[str]]]:
    return [
        ("gained", f"only {one.other.name} right", result.only_other or ()),
        ("lost", f"only {one.baseline.name} right", result.only_baseline or ()),
        ("both wrong", "neither right", result.neither or ()),
    ]


def _first(items: Sequence[str]) -> str:
    if not items:
        return "0"
    more = f", … (--items lists all {len(items)})" if len(items) > FIRST else ""
    return f"{len(items)}: {', '.join(items[:FIRST])}{more}"


def _questions(one: Comparison) -> dict[str, str]:
    """Return the last line of every question, from the samples or, without a question there, from the prompt."""
    found: dict[str, str] = {}
    for run in (*one.other.runs[:1], *one.baseline.runs[:1]):
        texts = asked(read.samples(run.entry.folder, run.record)) | {
            item: str(content.get("prompt") or "") for item, content in run.lines() if item not in found
        }
        for item, text in texts.items():
            last = [each for each in text.splitlines() if each.strip()][-1:]
            if last:
                found.setdefault(item, line(last[0]))
    return found


def asked(lines: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the question of every item that lm-eval's samples name one of."""
    found: dict[str, str] = {}
    for each in lines:
        doc = each.get("doc")
        if isinstance(doc, dict) and isinstance(doc.get("question"), str):
            found[str(each.get("doc_id"))] = doc["question"]
    return found


def _level(level: Level) -> str:
    if level.seeds > 1:
        return f"{numbers.shown(level.value, level.sd)} ({level.seeds} seeds)"
    return numbers.shown(level.value, level.stderr)


def _change(result: Result, margin: float | None) -> list[str]:
    counts = [
        numbers.NOTHING if items is None else str(len(items)) for items in (result.only_other, result.only_baseline)
    ]
    cells = [
        numbers.shown(result.diff, result.stderr, signed=True),
        numbers.interval(result.low, result.high, signed=True),
        numbers.interval(result.bootstrap_low, result.bootstrap_high, signed=True),
        *counts,
        numbers.p_value(result.p),
        numbers.p_value(result.p_holm),
        numbers.shown(result.smallest),
    ]
    if margin is not None:
        equal = result.equivalence
        said = "yes" if equal is not None and equal.equivalent else "no"
        cells.append(numbers.NOTHING if equal is None else f"{said}, p = {numbers.p_value(equal.p)}")
    return cells


def _within(margin: float | None) -> list[str]:
    return [] if margin is None else [f"Within ±{margin:g}"]
