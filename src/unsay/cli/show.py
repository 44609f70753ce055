"""`unsay show`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unsay.cli import _lab

if TYPE_CHECKING:
    from rich.console import Console

    from unsay.records import ExperimentRecord, ItemScores, Prompt, Trace
    from unsay.report.tables import Row
    from unsay.report.trace import Token
    from unsay.store.read import Entry


def command(
    experiment: Annotated[str, typer.Argument(metavar="ID", help="Experiment id, or its folder.")],
    item: Annotated[int | None, typer.Argument(metavar="[ITEM]", help="Number of one item, from 0.")] = None,
    output_dir: _lab.OutputDir = _lab.DEFAULT,
    as_json: _lab.Json = False,
) -> None:
    """Show one experiment, or one item of it with what was taken back struck through."""
    from unsay.errors import StoreError
    from unsay.store import layout

    entry = _lab.pick(output_dir, experiment)
    if entry.record is None:
        raise StoreError(entry.problem or f"{entry.folder / layout.EXPERIMENT} cannot be read")
    if item is None:
        _show_experiment(entry, entry.record, as_json)
    else:
        _show_item(entry, entry.record, item, as_json)


def _show_experiment(entry: Entry, record: ExperimentRecord, as_json: bool) -> None:
    from unsay.report import costs, prompt, tables

    row = tables.row(entry)
    first = prompt.first_prompt(entry)
    if as_json:
        metrics = {name: value.to_json() for name, value in row.metrics.items()}
        shown_first = None if first is None else asdict(first)
        more = {"folder": str(entry.folder), "metrics": metrics, "prompt_0": shown_first, "took": costs.of(entry)}
        _lab.print_json({**record.to_json(), **more})
        return
    from unsay.report import terminal

    console = terminal.console()
    console.print(f"{_plain(row.name)}  {_plain(record.model)} / {_plain(record.dataset)}", style="bold")
    for name, text in _facts(row, record):
        console.print(f"{name:<10} {_plain(text)}", soft_wrap=True)
    settings = record.spec.get("settings")
    if isinstance(settings, dict):
        for name, value in tables.flat(settings).items():
            if value is not None:
                console.print(f"  {_plain(name)}: {_plain(str(value))}", soft_wrap=True)
    hidden = {name for name, value in row.metrics.items() if value.definition.startswith("unsay undo")}
    shown = [name for name in row.metrics if name not in hidden or name in tables.undo_names(row)]
    if shown:
        console.print()
        console.print(terminal.metrics(row, shown))
    if first is not None:
        _part(console, f"prompt 0 ({first.size})", first.shown_text())
        _part(console, "prompt 0, ids", first.shown_ids())


def _facts(row: Row, record: ExperimentRecord) -> list[tuple[str, str]]:
    from unsay.report import costs, prompt, terminal

    found = [
        ("method", f"{record.method} {terminal.config_of(row)}, seed {record.seed}"),
        ("status", terminal.status_of(row)),
        ("started", record.start or "-"),
        ("ended", record.end or "-"),
        ("folder", str(row.entry.folder)),
        ("identity", record.identity),
        ("prompts", "; ".join(prompt.counts(record))),
        *(("took" if at == 0 else "", text) for at, text in enumerate(costs.lines(row.entry))),
        ("notes", record.notes),
    ]
    found += [("warning", warning) for warning in record.warnings]
    return [(name, text) for name, text in found if text]


def _show_item(entry: Entry, record: ExperimentRecord, item: int, as_json: bool) -> None:
    from unsay.errors import StoreError
    from unsay.report.trace import table_of, tokens
    from unsay.store import read

    samples = [line for line in read.samples(entry.folder, record) if line.get("doc_id") == item]
    trace = next((t for t in reversed(list(read.traces(entry.folder))) if t.key.doc_id == item), None)
    prompt = next((p for p in read.prompts(entry.folder) if p.key.doc_id == item), None)
    if trace is not None or samples:
        shown = tokens(trace, table_of(record.facts)) if trace else []
        found = _Item(
            prompt.text if prompt else _logged_prompt(samples),
            _gold(samples),
            _logged_answer(samples),
            _scores(samples),
        )
    else:
        shown, line = [], _imported(entry, item)
        if line is None:
            raise StoreError(f"{entry.name} has no answer to item {item}; {_there(entry, record)}.")
        found = line
    if as_json:
        _lab.print_json(_item_document(entry, item, prompt, trace, shown, found), data=True)
    else:
        _print_item(entry, item, trace, shown, found)


@dataclass(frozen=True)
class _Item:
    """What is known about an item beside its trace."""

    prompt: str | None
    gold: str | None
    answer: str | None
    scores: dict[str, float]


def _imported(entry: Entry, item: int) -> _Item | None:
    """Return an item without a samples file: its scores, and the line of its prompt and answer."""
    from unsay.store import read

    every: Iterator[ItemScores | None] = read.scores(entry.folder)
    for at, (line, scored) in enumerate(zip_longest(read.predictions(entry.folder), every)):
        if (scored.item if scored else str(at)) != str(item) or line is None:
            continue
        texts = {key: str(line[key]) for key in ("prompt", "label", "predict") if line.get(key) is not None}
        scores = scored.scores if scored else {}
        return _Item(texts.get("prompt") or None, texts.get("label"), texts.get("predict"), scores)
    return None


def _there(entry: Entry, record: ExperimentRecord) -> str:
    """Say which items there are."""
    from unsay.store import read

    known = {t.key.doc_id for t in read.traces(entry.folder)} or {
        int(line["doc_id"]) for line in read.samples(entry.folder, record) if "doc_id" in line
    }
    known = known or {int(line.item) for line in read.scores(entry.folder) if line.item.isdecimal()}
    if known:
        return f"it has items {min(known)} to {max(known)}"
    return "its files hold no answers" if record.imported else "nothing was generated yet"


def _item_document(
    entry: Entry, item: int, prompt: Prompt | None, trace: Trace | None, shown: list[Token], found: _Item
) -> dict[str, Any]:
    return {
        "schema": 1,
        "id": entry.record.id if entry.record else None,
        "folder": entry.relative,
        "item": item,
        "prompt": found.prompt,
        "prompt_ids": list(prompt.ids) if prompt else None,
        "prompt_cut": prompt.cut if prompt else None,
        "gold": found.gold,
        "tokens": [asdict(token) for token in shown],
        "visible": trace.visible if trace else found.answer,
        "finish_reason": trace.finish_reason if trace else None,
        "counts": trace.counts.to_json() if trace else None,
        "beginning": asdict(trace.beginning) if trace and trace.beginning else None,
        "scores": found.scores,
    }


def _print_item(entry: Entry, item: int, trace: Trace | None, shown: list[Token], found: _Item) -> None:
    from unsay.report import terminal

    console = terminal.console()
    console.print(f"{_plain(entry.name)}, item {item}", style="bold")
    _part(console, "prompt", found.prompt)
    _part(console, "gold answer", found.gold)
    if trace is None:
        _part(console, "answer (no trace was recorded)", found.answer)
    else:
        styled = console.is_terminal and not console.no_color
        console.print("\ntrace" + ("" if styled else "  ([-…-] was taken back)"), style="bold cyan")
        console.print(terminal.trace(shown, styled=styled), soft_wrap=True)
        _part(console, "visible", trace.visible)
        if trace.beginning is not None:
            given, what = trace.beginning, "the right ones" if trace.beginning.twin else "a planted mistake"
            console.print(
                f"\nbegins with {given.given} given tokens, {what} from token {given.place} on", soft_wrap=True
            )
        counts = trace.counts
        console.print(
            f"\ntokens: {counts.sampled} sampled, {counts.survivors} kept, {counts.popped} taken back; "
            f"undos: {counts.undos} in {counts.episodes} episode(s), {counts.underflows} with nothing to take back; "
            f"ended by {_plain(trace.finish_reason)}",
            soft_wrap=True,
        )
    if found.scores:
        console.print()
    for name, score in found.scores.items():
        console.print(f"{_plain(name)}: {score:g}")


def _part(console: Console, title: str, text: str | None) -> None:
    from unsay.report.escape import terminal

    if text is not None:
        console.print(f"\n{title}", style="bold cyan")
        console.print(terminal(text), soft_wrap=True)


def _gold(samples: list[dict[str, Any]]) -> str | None:
    for line in samples:
        doc = line.get("doc")
        answer = doc.get("answer") if isinstance(doc, dict) else None
        return str(answer if answer is not None else line.get("target", ""))
    return None


def _logged_prompt(samples: list[dict[str, Any]]) -> str | None:
    """Return the prompt lm-eval logged: the first argument of the first request."""
    value = samples[0].get("arguments") if samples else None
    while isinstance(value, dict | list) and value:
        value = next(iter(value.values())) if isinstance(value, dict) else value[0]
    return value if isinstance(value, str) else None


def _logged_answer(samples: list[dict[str, Any]]) -> str | None:
    value = samples[0].get("resps") if samples else None
    while isinstance(value, list) and value:
        value = value[0]
    return value if isinstance(value, str) else None


def _scores(samples: list[dict[str, Any]]) -> dict[str, float]:
    """Return every number that lm-eval gave the item, as lm-eval gave it."""
    names = {"exact_match": None}
    return {
        f"{name} ({line.get('filter', 'none')})": float(line[name])
        for line in samples
        for name in names | dict.fromkeys(str(metric) for metric in line.get("metrics") or ())
        if isinstance(line.get(name), int | float)
    }


def _plain(text: str) -> str:
    from unsay.report.escape import line

    return line(text)
