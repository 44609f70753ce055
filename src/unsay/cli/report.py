"""`unsay report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unsay.cli import _lab, _tables

if TYPE_CHECKING:
    from unsay.report import tables


def command(
    output_dir: _lab.OutputDir = _lab.DEFAULT,
    page: Annotated[Path | None, typer.Option(help="Write here instead of EXPERIMENTS.md beside the lab.")] = None,
    format: _tables.Format = None,
    output: _tables.Output = None,
    as_json: _lab.Json = False,
) -> None:
    """Write EXPERIMENTS.md; text between its keep markers stays. Or give its results as a table with --format."""
    from unsay.report import markdown, tables
    from unsay.store import read

    wanted = _tables.wanted(format, output, as_json)
    if wanted not in (None, _tables.JSON) and page is not None:
        raise typer.BadParameter("expected --page for the page or --output for a table, got both", param_hint="--page")
    lab = _lab.existing(output_dir)
    if wanted not in (None, _tables.JSON):
        shown = [tables.row(entry) for entry in read.find(lab) if not entry.archived]
        _tables.give(_table(shown, str(wanted)), output)
        return
    written = markdown.write_page(lab, page)
    entries = [entry for entry in read.find(lab) if not entry.archived]
    whole = [entry for entry in entries if entry.limit is None]
    found = tables.differences(whole)
    if wanted == _tables.JSON:
        rows = [tables.row(entry) for entry in entries]
        document = {
            "schema": 1,
            "page": str(written),
            "experiments": [row.to_json() for row in rows],
            "seeds": [row.to_json() for row in tables.seed_rows([row for row in rows if row.entry.limit is None])],
            "headline": tables.headline(found),
            "differences": [one.to_json() for one in found],
        }
        _tables.give(_tables.json_text(document), output)
        return
    from unsay.report.escape import terminal

    limited = len(entries) - len(whole)
    also = f" and {limited} limited runs" if limited else ""
    print(terminal(f"{len(whole)} experiments{also} in {written}"))
    if found:
        print(terminal(tables.headline(found)))


def _table(rows: list[tables.Row], wanted: str) -> str:
    from unsay.report import export, sheets

    if wanted == "csv":
        return export.csv(sheets.result_records(rows), header=("id",))
    table = sheets.results(rows)
    return export.latex(table) if wanted == "latex" else export.markdown(table)
