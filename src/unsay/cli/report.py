"""`unsay report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unsay.cli import _lab


def command(
    output_dir: _lab.OutputDir = _lab.DEFAULT,
    page: Annotated[Path | None, typer.Option(help="Write here instead of EXPERIMENTS.md beside the lab.")] = None,
    as_json: _lab.Json = False,
) -> None:
    """Write EXPERIMENTS.md; text between its keep markers stays."""
    from unsay.report import markdown, tables
    from unsay.store import read

    lab = _lab.existing(output_dir)
    written = markdown.write_page(lab, page)
    entries = read.find(lab)
    whole = [entry for entry in entries if entry.limit is None]
    found = tables.differences(whole)
    if as_json:
        _lab.print_json(
            {
                "schema": 1,
                "page": str(written),
                "experiments": [tables.row(entry).to_json() for entry in entries],
                "headline": tables.headline(found),
                "differences": [one.to_json() for one in found],
            }
        )
        return
    from unsay.report.escape import terminal

    print(terminal(f"{len(whole)} experiments in {written}"))
    if found:
        print(terminal(tables.headline(found)))
