"""`unsay status`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unsay.cli import _lab

if TYPE_CHECKING:
    from unsay.report.tables import Row


def command(
    output_dir: _lab.OutputDir = _lab.DEFAULT,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Stay and refresh until interrupted.")] = False,
    every: Annotated[float, typer.Option(min=0.2, help="Seconds between refreshes with --watch.")] = 2.0,
    as_json: _lab.Json = False,
) -> None:
    """Show every experiment, with partial results while it runs."""
    if as_json:
        rows = _rows(output_dir) if output_dir.is_dir() else []
        _lab.print_json({"schema": 1, "output_dir": str(output_dir), "experiments": [row.to_json() for row in rows]})
        return
    from unsay.report import terminal

    lab = _lab.existing(output_dir)
    console = terminal.console()
    if not watch:
        rows = _rows(lab)
        console.print(terminal.experiments(rows) if rows else _nothing(lab))
        return
    from rich.live import Live

    with Live(console=console, auto_refresh=False, screen=False) as live:
        while True:
            rows = _rows(lab)
            live.update(terminal.experiments(rows) if rows else _nothing(lab), refresh=True)
            time.sleep(every)


def _rows(output_dir: Path) -> list[Row]:
    from unsay.report import tables
    from unsay.store import read

    return [tables.row(entry) for entry in read.find(output_dir.absolute())]


def _nothing(lab: Path) -> str:
    return f"No experiment in {lab} yet. `unsay run FILE` starts the experiments of a file."
