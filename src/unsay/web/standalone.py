"""A lab as one HTML file, from the viewer's templates: no request to anywhere, complete without scripts.

write_report(Path("outputs"), Path("report.html"))
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from unsay import stats
from unsay.errors import StoreError
from unsay.redaction import redacted
from unsay.report import best, compare, costs, matched, tables
from unsay.report.best import Standing
from unsay.report.compare import Side
from unsay.report.names import COLUMNS, STRICT, in_order, is_undo_measure, label
from unsay.report.numbers import ALPHA
from unsay.report.results import results_of
from unsay.report.tables import Row, SameItems
from unsay.store import read, write
from unsay.store.read import Entry
from unsay.web import pages, rendering

MARKER = '<meta name="generator" content="unsay report">'
_MARKED = 2_000
"""Bytes from the beginning in which the marker of a report stands."""
MOST_IN_MATRIX = 16
TOKENS = "sampled_tokens"

Document = dict[str, Any]


def write_report(output_dir: Path, file: Path) -> Path:
    """Write the report of a lab and return its path; StoreError where there is a file that unsay did not write."""
    target = file.absolute()
    try:
        with target.open("rb") as existing:
            if MARKER.encode() not in existing.read(_MARKED):
                raise StoreError(
                    f"{target} was not written by `unsay report --html`, so it was left as it is. Move it away, or "
                    "write elsewhere."
                )
    except FileNotFoundError:
        pass
    except OSError as error:
        raise StoreError(f"cannot read {target}: {error.strerror or error}; it was left as it is.") from error
    write.write_text(target, render(document(output_dir)))
    return target


def render(found: Document) -> str:
    """Return the report as HTML. Its own policy lets nothing be loaded, and only its own script and styles work."""
    static = rendering.static_files()
    style, script = static["view.css"], static["sort.js"]
    policy = f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'"
    own = {"style": Markup(style), "script": Markup(script), "policy": policy, "marker": Markup(MARKER)}
    return rendering.render("report.html", found, inline=True, **own)


def document(output_dir: Path) -> Document:
    """Return what the report says of a lab: archived experiments are left out, limited runs stand apart."""
    rows = [tables.row(entry) for entry in read.find(output_dir.absolute()) if not entry.archived]
    whole = [row for row in rows if row.entry.limit is None]
    entries = [row.entry for row in whole]
    same = tables.same_items(entries)
    differences, uncompared = tables.compared_in(same)
    standing = best.standing(whole, same)
    found = {
        "schema": 1,
        "page": "report",
        "lab": str(output_dir.absolute()),
        "results": [_result(row, standing) for row in whole],
        "short_legend": standing.short_legend,
        "legend": standing.legend,
        "notes": list(standing.notes),
        "limited": [_result(row) for row in rows if row.entry.limit is not None],
        "seeds": [one.to_json() | {"best": _best(standing, one.entries)} for one in tables.seed_rows(whole)],
        "headline": tables.headline(differences),
        "differences": [one.to_json() for one in differences],
        "uncompared": [{"name": entry.name, "reason": reason} for entry, reason in uncompared],
        "matrices": matrices(same),
        "undo": _undo(whole),
        "matched": _matched(entries),
        "tokens": _tokens(whole),
        "definitions": _definitions(rows),
    }
    return dict(redacted(found))


def _best(standing: Standing | None, entries: Entry | Sequence[Entry]) -> list[str]:
    """Return the columns in which an experiment (or all its seeds) is marked as the best."""
    return [] if standing is None else [name for name in COLUMNS if standing.is_best(entries, name)]


def _result(row: Row, standing: Standing | None = None) -> Document:
    record = row.entry.record
    settings = record.spec.get("settings") if record is not None else None
    return row.to_json() | {
        "name": row.name,
        "metric_order": in_order(row.metrics),
        "labels": {name: label(name) for name in row.metrics},
        "settings": tables.flat(settings) if isinstance(settings, dict) else {},
        "warnings": list(record.warnings) if record is not None else [],
        "identity": record.identity if record is not None else None,
        "versions": dict(record.attempts[-1].versions) if record is not None and record.attempts else {},
        "took_words": costs.lines(row.entry),
        "curves": pages.curves(row.entry.folder),
        "own": tables.own_metrics(row),
        "best": _best(standing, row.entry),
    }


def matrices(same: SameItems) -> list[Document]:
    """Compare every two experiments that were asked the same and scored alike, each seed by itself.

    One matrix per set of items; a cell is the experiment of its row minus that of its column, p adjusted (Holm) within
    the matrix. Of more than MOST_IN_MATRIX experiments the first ones are compared, and `left_out` counts the others.
    """
    return [_matrix([Side((run,)) for run in runs]) for runs in tables.alike(same) if len(runs) > 1]


def _matrix(group: Sequence[Side]) -> Document:
    sides = group[:MOST_IN_MATRIX]
    pairs = [(a, b) for a in range(len(sides)) for b in range(a)]
    results = []
    for a, b in pairs:
        items = compare.common_items(sides[b], sides[a])
        results += results_of(sides[b], sides[a], [STRICT], items, resample=False)
    adjusted = stats.holm([1.0 if result.p is None else result.p for result in results])
    cells: dict[tuple[int, int], Document] = {}
    for (a, b), result, p in zip(pairs, results, adjusted, strict=True):
        diff = result.diff or 0.0
        for place, sign in (((a, b), 1), ((b, a), -1)):
            cells[place] = {"diff": sign * diff + 0.0, "stderr": result.stderr, "p_holm": p, "beyond_chance": p < ALPHA}
    return {
        "dataset": sides[0].record.dataset,
        "items": len(sides[0].runs[0].items),
        "names": [side.name for side in sides],
        "configs": [f"{side.record.model} {side.record.config}" for side in sides],
        "cells": [[cells.get((a, b)) for b in range(len(sides))] for a in range(len(sides))],
        "left_out": len(group) - len(sides),
    }


def _undo(rows: Sequence[Row]) -> Document:
    """Return the undo measures of the experiments that could take something back."""
    found = {row.name: tables.undo_names(row) for row in rows if row.metrics}
    names = in_order({name for each in found.values() for name in each})
    return {
        "names": names,
        "labels": {name: label(name) for name in names},
        "rows": [
            {"name": row.name, "metrics": {name: row.metrics[name].to_json() for name in found[row.name]}}
            for row in rows
            if found.get(row.name)
        ],
    }


def _tokens(rows: Sequence[Row]) -> Document:
    """Return strict exact match and tokens sampled per answer of every experiment that has both, by dataset.

    Experiments whose answers were given their beginning are left out: they were asked something else.
    """
    found: Document = {}
    for row in rows:
        record = row.entry.record
        if record is not None and tables.beginning(record)[0] is not None:
            continue
        exact, spent = row.metric(STRICT), row.metric(TOKENS)
        if exact is None or spent is None or exact.value is None or spent.value is None:
            continue
        ends = None if exact.low is None or exact.high is None else (exact.low, exact.high)
        found.setdefault(row.dataset, []).append((row.name, (spent.value, exact.value), ends))
    return found


def _matched(entries: Iterable[Entry]) -> Document:
    """Return accuracy at matched sampled tokens by dataset."""
    found: dict[str, list[matched.Curve]] = {}
    for curve in matched.curves(entries):
        record = curve.entries[0].record
        found.setdefault(record.dataset if record is not None else "", []).append(curve)
    return {dataset: pages.curves_at_budgets(curves) for dataset, curves in found.items()}


def _definitions(rows: Sequence[Row]) -> list[Document]:
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        for name, value in row.metrics.items():
            if name in COLUMNS or not is_undo_measure(value.definition) or name in tables.undo_names(row):
                found.setdefault(name, {})[value.definition] = None
    return [{"label": label(name), "definitions": list(found[name])} for name in in_order(found)]


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
