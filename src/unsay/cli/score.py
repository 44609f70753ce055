"""`unsay score`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unsay.cli import _lab
from unsay.cli.import_ import Label, Marker, Predict, Processes, UndoToken, progress

if TYPE_CHECKING:
    from unsay.foreign_scores import Scored


BESIDE = 2**24
"""Bytes up to which a file beside the one to score is looked at."""


def command(
    file: Annotated[Path, typer.Argument(help="Predictions, lm-eval samples, or any JSON Lines file.")],
    predict: Predict = "predict",
    label: Label = "label",
    marker: Marker = None,
    undo_token: UndoToken = None,
    items: Annotated[Path | None, typer.Option(help="Also write the scores of every item here, as JSON Lines.")] = None,
    processes: Processes = None,
    as_json: _lab.Json = False,
) -> None:
    """Give every metric of a file of answers, with error, interval and definition."""
    from unsay import foreign_scores, importing
    from unsay.errors import DataError
    from unsay.importers import Item, Options
    from unsay.records import ItemScores
    from unsay.store import write

    options = Options(marker=marker, undo_token=undo_token, predict=predict, label=label)
    # What lies beside a file says what it is: results, published scores, configuration.
    others = file.absolute().parent.glob("*.json") if file.is_file() else ()
    beside = [each for each in others if each.is_file() and each.stat().st_size < BESIDE]
    collected = importing.collect([file, *beside], options)
    mine = [each for each in collected.found if file.absolute() in each.files]
    not_mine = [each for each in collected.refused if each.path == file.absolute()]
    if not_mine or not mine:
        reasons = "; ".join(each.reason for each in not_mine) or "nothing in it can be scored"
        raise DataError(f"{file}: {reasons}")
    scored: list[Scored] = []
    with ExitStack() as stack:
        out = stack.enter_context(write.writing(items.absolute())) if items is not None else None

        def keep(item: Item, scores: ItemScores) -> None:
            if out is not None:
                out.write(write.json_line(scores.to_json()))

        tell = stack.enter_context(progress())
        for found in mine:
            scored.append(foreign_scores.score(found, options, keep=keep, processes=processes, progress=tell))
    if as_json:
        _lab.print_json({"schema": 1, "file": str(file), "results": [_document(one) for one in scored]})
        return
    for at, one in enumerate(scored):
        if at:
            print()
        _print(one, several=len(scored) > 1)


def _document(one: Scored) -> dict[str, Any]:
    return {
        "part": one.found.part,
        "n": one.n,
        "metrics": {name: value.to_json() for name, value in one.values.items()},
        "verified": list(one.verified),
        "warnings": list(one.warnings),
    }


def _print(one: Scored, *, several: bool) -> None:
    from unsay.report import terminal
    from unsay.report.escape import line
    from unsay.report.names import in_order, is_undo_measure

    console = terminal.console()
    if several:
        console.print(line(one.found.part), style="bold")
    shown = {
        name: value
        for name in in_order(one.values)
        if (value := one.values[name]).value is not None or not is_undo_measure(value.definition)
    }
    console.print(terminal.values(shown))
    if one.verified:
        print(line(f"as published: {', '.join(one.verified)}"))
    for text in one.warnings:
        print("! " + line(text))
