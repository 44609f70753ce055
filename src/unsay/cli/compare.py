"""`unsay compare`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unsay.cli import _lab, _tables

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unsay.report.compare import Comparison
    from unsay.store.read import Entry


def command(
    experiments: Annotated[
        list[str],
        typer.Argument(metavar="BASELINE OTHER…", help="Ids or folders; each other is compared with the first."),
    ],
    all_pairs: Annotated[bool, typer.Option("--all-pairs", help="Compare every two of them.")] = False,
    metric: Annotated[
        list[str] | None, typer.Option("--metric", "-m", help="Compare by this metric only; may be given again.")
    ] = None,
    equivalence: Annotated[
        float | None,
        typer.Option("--equivalence", metavar="POINTS", help="Test too whether the difference is smaller than this."),
    ] = None,
    intersect: Annotated[
        bool, typer.Option("--intersect", help="Compare on the items that agree, where not all of them do.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse where prompts, shots, template, budget or decoding differ.")
    ] = False,
    each_seed: Annotated[
        bool, typer.Option("--each-seed", help="Compare the named seeds of an experiment apart, not all as one.")
    ] = False,
    items: Annotated[bool, typer.Option("--items", help="List every item that was gained or lost.")] = False,
    output_dir: _lab.OutputDir = _lab.DEFAULT,
    format: _tables.Format = None,
    output: _tables.Output = None,
    as_json: _lab.Json = False,
) -> None:
    """Compare experiments item by item: differences with errors and tests, what was gained and lost, what differs."""
    if equivalence is not None and not 0 < equivalence < float("inf"):
        raise typer.BadParameter("expected points above 0", param_hint="--equivalence")
    wanted = _tables.wanted(format, output, as_json)
    from unsay.report import compare
    from unsay.store import read

    entries = read.find(_lab.existing(output_dir))
    chosen = [entry for name in experiments for entry in _picked(entries, name)]
    options = compare.Options(tuple(metric or ()), all_pairs, intersect, strict, equivalence)
    seeds = [entry for entry in entries if not entry.archived or entry in chosen]
    found = compare.compare(compare.sides(chosen, seeds, each_seed=each_seed), options)
    if wanted is None:
        _print(found, items=items)
        return
    for one in found if wanted == "csv" else ():
        _warn(one)
    _tables.give(_document(found, wanted), output)


def _picked(entries: list[Entry], name: str) -> list[Entry]:
    """Return the experiment of this name, or all that lie in `seed_*` folders of the folder of this name."""
    from unsay.errors import StoreError
    from unsay.store import read

    try:
        return [read.pick(entries, name)]
    except StoreError:
        wanted, folder = name.rstrip("/"), Path(name).absolute()
        seeds = [
            entry
            for entry in entries
            if re.fullmatch(r"seed_\d+", entry.folder.name)
            and (entry.folder.parent.absolute() == folder or Path(entry.relative).parent.as_posix() == wanted)
        ]
        if not seeds:
            raise
        return seeds


def _document(found: Sequence[Comparison], wanted: str) -> str:
    from unsay.report import export, sheets

    if wanted == _tables.JSON:
        return _tables.json_text({"schema": 1, "comparisons": [one.to_json() for one in found]})
    if wanted == "csv":
        return export.csv(sheets.comparison_records(found))
    table = sheets.differences(found)
    said = [f"{sheets.title(one)}: {kind}: {text}" for one in found for kind, text in sheets.context(one)]
    items = [f"{sheets.title(one)}: {text}" for one in found for text in sheets.gained_and_lost(one)]
    notes = sheets.footnotes(found)
    if wanted == "latex":
        return export.latex_comments(said) + export.latex(table) + export.latex_comments([*notes, *items])
    parts = (export.markdown_lines(said), export.markdown(table), export.markdown_lines([*notes, *items]))
    return "\n".join(parts)


def _print(found: Sequence[Comparison], *, items: bool) -> None:
    from unsay.report import sheets, terminal
    from unsay.report.escape import line

    console = terminal.console()
    for one in found:
        for part in terminal.comparison(one, width=console.width, items=items):
            console.print(part, soft_wrap=not hasattr(part, "columns"))
        console.print()
    for note in sheets.footnotes(found):
        console.print(line(note), soft_wrap=True)


def _warn(one: Comparison) -> None:
    """Say on standard error what a table of numbers leaves out."""
    from unsay.report import sheets
    from unsay.report.escape import line

    for kind, text in sheets.context(one):
        if sheets.is_loud(kind) or kind == "not compared":
            print(line(f"{sheets.title(one)}: {kind}: {text}"), file=sys.stderr)
