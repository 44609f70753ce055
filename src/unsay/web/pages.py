"""What each page of the viewer says, as the document that its `.json` gives and its template shows.

Text is as it is on disk; templates make it safe to show. What is about an experiment is without secrets, what is data
(questions, answers) unchanged.
"""

from __future__ import annotations

import json
import math
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from unsay.metrics import explain, load_all
from unsay.metrics.exact_match import ExactMatch
from unsay.records import Sample, Trace
from unsay.redaction import redact, redacted
from unsay.report import costs, matched, prompt, sheets, tables
from unsay.report.names import COLUMNS, in_order, is_undo_measure, label
from unsay.report.trace import ends, table_of, taken_at, tokens
from unsay.store import layout, read
from unsay.store.index import Filter, Summary
from unsay.store.read import Entry
from unsay.undo import written
from unsay.web.looking import Looking, NotThereError, Seen

ROWS = 100
"""Lines of a list on one page."""
PREVIEW = 240
"""Characters of an answer in a list."""
LOG_BYTES = 64_000
"""Of a log, its end."""
FACETS = ("model", "dataset", "method", "config", "status")
SORTABLE = ("id", *FACETS, "changed", *COLUMNS)
OUTCOMES = ("right", "wrong", "unscored")
_OVERWRITTEN = re.compile(r"[^\r\n]*\r+(?=[^\r\n])")
"""What a progress bar wrote over, as a terminal shows it."""
_SCORING = threading.Lock()
"""Metrics keep what they have cut before, and are made for one thread."""

Document = dict[str, Any]


# -- lab overview -----------------------------------------------------------------


@dataclass(frozen=True)
class OverviewQuery:
    """Which experiments, in which order, which page (from 1). `sort` is one of SORTABLE."""

    wanted: Filter = field(default_factory=Filter)
    sort: str = "id"
    descending: bool = False
    page: int = 1


def overview(looking: Looking, query: OverviewQuery) -> Document:
    """List the experiments of a lab that are wanted, one page of them read in full."""
    every = looking.every()
    found = [one for one in every if query.wanted(one)]
    ordered = _ordered(looking, found, query)
    shown, page, pages = _page(ordered, query.page)
    rows = [tables.row(read.entry(looking.lab, one.relative)) for one in shown]
    return {
        "schema": 1,
        "page": "overview",
        "lab": str(looking.lab),
        "experiments_in_lab": len(every),
        "archived": sum(one.archived for one in every),
        "matching": len(found),
        "statuses": dict(Counter(one.status for one in found)),
        "facets": {name: _facet(every, name) for name in FACETS},
        "alike": _alike(every),
        "filter": asdict(query.wanted),
        "sort": query.sort,
        "descending": query.descending,
        "page_number": page,
        "pages": pages,
        "experiments": redacted([row.to_json() | {"name": row.name, "changed": _changed(row)} for row in rows]),
    }


def _ordered(looking: Looking, found: Sequence[Summary], query: OverviewQuery) -> list[Summary]:
    """Sort summaries; those without the value stand last either way."""
    by_page = sorted(found, key=read.order)
    if query.sort == "id":
        return by_page[::-1] if query.descending else by_page
    get: Callable[[Summary], Any]
    if query.sort in COLUMNS:

        def get(one: Summary) -> Any:
            value = looking.metrics(one).get(query.sort)
            return None if value is None else value.value

    elif query.sort == "changed":

        def get(one: Summary) -> Any:
            return looking.changed(one)

    else:

        def get(one: Summary) -> Any:
            return read.natural(getattr(one, query.sort))

    values = [(get(one), one) for one in by_page]
    known = [each for each in values if each[0] is not None]
    known.sort(key=lambda each: each[0], reverse=query.descending)
    return [one for _, one in known] + [one for value, one in values if value is None]


def _changed(row: tables.Row) -> str | None:
    """Return when something was last heard of an experiment: of a running one its heartbeat."""
    record = row.entry.record
    if record is None:
        return None
    beat = read.last_sign(row.entry.folder) if row.status == "running" else None
    if beat is not None:
        return datetime.fromtimestamp(beat).astimezone().isoformat(timespec="seconds")
    return record.end or record.start


def _facet(every: Iterable[Summary], name: str) -> list[str]:
    return sorted({value for one in every if (value := getattr(one, name))}, key=read.natural)


def _alike(every: Sequence[Summary]) -> dict[str, str]:
    """Return what all experiments of a lab have in common: said once, it takes no column."""
    found = {name: {getattr(one, name) for one in every} for name in ("model", "dataset", "method")}
    return {name: values.pop() for name, values in found.items() if len(values) == 1 and all(values)}


# -- one experiment ---------------------------------------------------------------


def experiment(looking: Looking, entry: Entry, log: str | None = None) -> Document:
    """Say everything that is known about one experiment; `log` names one of its logs, else it is the last one."""
    row = tables.row(entry)
    document = row.to_json() | {"schema": 1, "page": "experiment", "lab": str(looking.lab), "name": row.name}
    record = entry.record
    if record is None:
        return dict(redacted(document))
    settings = record.spec.get("settings")
    first = prompt.first_prompt(entry)
    logs = _logs(entry)
    if log is not None and log not in logs:
        raise NotThereError(f"{row.name} has no log {log!r}; its logs are {', '.join(logs) or 'none'}")
    chosen = log or (logs[-1] if logs else None)
    document |= {
        "settings": tables.flat(settings) if isinstance(settings, dict) else {},
        "record": record.to_json(),
        "metric_order": _shown_metrics(row),
        "labels": {name: label(name) for name in row.metrics},
        "took_words": costs.lines(entry),
        "prompt_counts": prompt.counts(record),
        "curves": curves(entry.folder),
        "matched": matched_tokens(looking, [entry]),
        "files": {kind: path.name for kind, path in tables.result_files(entry).items()},
        "logs": logs,
        "log": None if chosen is None else {"name": chosen, **_tail(layout.logs(entry.folder) / chosen)},
    }
    # The prompt is data: a question may look like a secret.
    return dict(redacted(document)) | {"prompt_0": None if first is None else asdict(first)}


def _shown_metrics(row: tables.Row) -> list[str]:
    undo = tables.undo_names(row)
    return [name for name in in_order(row.metrics) if not is_undo_measure(row.metrics[name].definition) or name in undo]


def curves(folder: Path) -> dict[str, list[tuple[float, float]]]:
    """Return the losses of a training by step, `training` and `held out`; of a repeated step the last one counts."""
    found: dict[str, dict[float, float]] = {"training": {}, "held out": {}}
    try:
        lines = (layout.train(folder) / layout.TRAINER_LOG).read_bytes().splitlines()
    except OSError:
        lines = []
    for raw in lines:
        try:
            line = json.loads(raw)
            step = float(line["current_steps"])
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # a line that is being written, or another tool's
        for name, key in (("training", "loss"), ("held out", "eval_loss")):
            value = line.get(key)
            if isinstance(value, int | float) and math.isfinite(value) and math.isfinite(step):
                found[name][step] = float(value)
    return {name: sorted(points.items()) for name, points in found.items() if points}


def _logs(entry: Entry) -> list[str]:
    """Return the names of the logs in natural order, which is that of the attempts."""
    folder = layout.logs(entry.folder)
    try:
        names = [path.name for path in folder.glob("*.log") if path.is_file() and not path.is_symlink()]
    except OSError:
        return []
    return sorted(names, key=read.natural)


def _tail(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - LOG_BYTES))
            raw = file.read()
    except OSError as error:
        return {"text": f"cannot be read: {error.strerror or error}", "left_out_bytes": 0}
    text = _OVERWRITTEN.sub("", redact(raw.decode("utf-8", "replace")))
    return {"text": text, "left_out_bytes": max(0, size - LOG_BYTES)}


# -- samples ----------------------------------------------------------------------


@dataclass(frozen=True)
class SamplesQuery:
    """Which items of an experiment: a text in question, answer or reference; an outcome; only undone, only cut."""

    search: str = ""
    outcome: str = ""
    undone: bool = False
    cut: bool = False
    page: int = 1

    def __call__(self, one: Seen) -> bool:
        if self.outcome and one.right is not {"right": True, "wrong": False, "unscored": None}[self.outcome]:
            return False
        if (self.undone and not one.undos) or (self.cut and not one.cut):
            return False
        return not self.search or self.search.casefold() in one.haystack


def samples(looking: Looking, entry: Entry, query: SamplesQuery) -> Document:
    """List the items of an experiment that are wanted, one page of them."""
    every = looking.samples(entry)
    found = [one for one in every if query(one)]
    shown, page, pages = _page(found, query.page)
    return {
        "schema": 1,
        "page": "samples",
        "lab": str(looking.lab),
        **_named(entry),
        "items": len(every),
        "matching": len(found),
        "judged_by": next((one.judge for one in every), None),
        "counts": {
            "right": sum(one.right is True for one in every),
            "wrong": sum(one.right is False for one in every),
            "unscored": sum(one.right is None for one in every),
            "undone": sum(one.undos > 0 for one in every),
            "cut": sum(one.cut for one in every),
        },
        "filter": {"search": query.search, "outcome": query.outcome, "undone": query.undone, "cut": query.cut},
        "page_number": page,
        "pages": pages,
        "samples": [_line(one) for one in shown],
    }


def _named(entry: Entry) -> Document:
    record = entry.record
    names = ("model", "dataset", "method", "config", "seed", "status")
    facts = {name: getattr(record, name) for name in names} if record is not None else {}
    return {"id": record.id if record else None, "folder": entry.relative, "name": entry.name, **facts}


def _line(one: Seen) -> Document:
    sample = one.sample
    return {
        "item": sample.item,
        "repeat": one.repeat,
        "question": one.question[:PREVIEW],
        "answer": sample.predict[:PREVIEW],
        "answer_characters": len(sample.predict),
        "right": one.right,
        "undos": one.undos,
        "cut": one.cut,
        "finish_reason": sample.finish_reason,
        "scores": dict(sample.scores),
    }


def sample(looking: Looking, entry: Entry, item: str, repeat: int, query: SamplesQuery) -> Document:
    """Show one item; `query` says which items stand before and after it."""
    every = looking.samples(entry)
    seen = next((one for one in every if one.sample.item == item and one.repeat == repeat), None)
    if seen is None:
        raise NotThereError(f"{entry.name} has no answer to item {item!r}; `unsay show` says which there are")
    before = next((one for one in reversed(every[: seen.at]) if query(one)), None)
    after = next((one for one in every[seen.at + 1 :] if query(one)), None)
    trace = _trace(entry, seen)
    asked = next((one for one in read.prompts(entry.folder) if str(one.key.doc_id) == item), None)
    return {
        "schema": 1,
        "page": "sample",
        "lab": str(looking.lab),
        **_named(entry),
        **_line(seen),
        "question": seen.question,
        "answer": seen.sample.predict,
        "reference": seen.sample.label,
        "prompt": asked.text if asked is not None else seen.sample.prompt,
        "prompt_ids": list(asked.ids) if asked is not None else None,
        "prompt_pieces": list(asked.pieces) if asked is not None else None,
        "prompt_cut": asked.cut if asked is not None else None,
        "tokens": _tokens(entry, trace) if trace is not None else None,
        "counts": trace.counts.to_json() if trace is not None else None,
        "given": trace.beginning.given if trace is not None and trace.beginning is not None else 0,
        "metrics": _why(entry, seen, trace),
        "filter": {"search": query.search, "outcome": query.outcome, "undone": query.undone, "cut": query.cut},
        "before": None if before is None else {"item": before.sample.item, "repeat": before.repeat},
        "after": None if after is None else {"item": after.sample.item, "repeat": after.repeat},
    }


def _trace(entry: Entry, seen: Seen) -> Trace | None:
    """Return the trace that counts: the last one written of this item and repeat, or of the item where repeats vary."""
    found = [one for one in read.traces(entry.folder) if str(one.key.doc_id) == seen.sample.item]
    same = [one for one in found if one.key.repeat == seen.repeat]
    return (same or found)[-1] if found else None


def _tokens(entry: Entry, trace: Trace) -> list[Document]:
    """Return every sampled token; `taken_at` is the index of the undo that took it back."""
    table = table_of(entry.record.facts) if entry.record is not None else None
    taken = taken_at(trace, table)
    return [asdict(token) | {"taken_at": taken.get(token.index)} for token in tokens(trace, table)]


def _why(entry: Entry, seen: Seen, trace: Trace | None) -> list[Document]:
    """Return each score with its definition and, as far as its metric can say it, what it was made of."""
    scores = dict(seen.sample.scores)
    definitions = {name: value.definition for name, value in read.metrics(entry.folder).items()}
    facts = entry.record.facts if entry.record is not None else {}
    table = table_of(facts)
    asked = Sample(
        seen.sample.item,
        seen.question,
        seen.sample.label or "",
        seen.sample.predict,
        seen.sample.finish_reason,
        seen.sample.counts,
        None if trace is None or table is None else written(trace, table, ends(trace)),
    )
    own = matched.recorded(facts.get(matched.FACT)) or ExactMatch()
    with _SCORING:
        made_of = explain(asked, scores, definitions, load_all({"exact_match": asdict(own)}))
    return [
        {
            "name": name,
            "label": label(name),
            "score": scores[name],
            "definition": definitions.get(name),
            "is_undo": is_undo_measure(definitions.get(name, "")),
            "made_of": dict(made_of.get(name, {})),
        }
        for name in in_order(scores)
    ]


# -- comparison -------------------------------------------------------------------


def comparison(looking: Looking, entries: Sequence[Entry], item: str | None = None) -> Document:
    """Compare every experiment with the first, item by item; `item` is shown side by side."""
    found = looking.comparisons(entries)
    document = {
        "schema": 1,
        "page": "comparison",
        "lab": str(looking.lab),
        "of": [_named(entry) for entry in entries],
        "comparisons": [
            one.to_json()
            | {
                "title": sheets.title(one),
                "context": [
                    {"kind": kind, "text": text, "loud": sheets.is_loud(kind)} for kind, text in sheets.context(one)
                ],
            }
            for one in found
        ],
        "matched": matched_tokens(looking, entries),
        "footnotes": sheets.footnotes(found),
    }
    shown = None if item is None else {"item": item, "sides": [_side(looking, entry, item) for entry in entries]}
    return dict(redacted(document)) | {"item": shown}


def matched_tokens(looking: Looking, entries: Sequence[Entry]) -> Document:
    """Return accuracy at matched sampled tokens of experiments, each by itself."""
    return curves_at_budgets(curve for entry in entries for curve in looking.at_budgets(entry))


def curves_at_budgets(found: Iterable[matched.Curve]) -> Document:
    """Return curves over budgets with short names, and the experiments without one, each with why."""
    document: Document = {"curves": [], "without": []}
    for curve in found:
        names = [entry.name for entry in curve.entries]
        name = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
        said = f"{name}, vote" if curve.kind == "majority" else name
        if curve.points:
            document["curves"].append(curve.to_json() | {"label": said})
        else:
            document["without"].append({"name": said, "reason": curve.reason})
    return document


def _side(looking: Looking, entry: Entry, item: str) -> Document:
    seen = next((one for one in looking.samples(entry) if one.sample.item == item), None)
    if seen is None:
        raise NotThereError(f"{entry.name} has no answer to item {item!r}")
    full = {"question": seen.question, "answer": seen.sample.predict, "reference": seen.sample.label}
    return _named(entry) | _line(seen) | full


# -- pages of lists ---------------------------------------------------------------


def _page(found: Sequence[Any], wanted: int) -> tuple[Sequence[Any], int, int]:
    """Return the lines of a page, its number and how many there are; a number outside is the nearest page."""
    pages = max(1, math.ceil(len(found) / ROWS))
    page = min(max(1, wanted), pages)
    return found[(page - 1) * ROWS : page * ROWS], page, pages
