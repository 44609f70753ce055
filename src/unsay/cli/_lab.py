"""What the reading commands share: where the lab is, and how a document is printed."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unsay.errors import StoreError
from unsay.redaction import redact, redacted

if TYPE_CHECKING:
    from unsay.store.index import Progress
    from unsay.store.read import Entry

OutputDir = Annotated[
    Path, typer.Option("--output-dir", "-o", help="The lab folder: `output_dir` of the experiment file.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]

DEFAULT = Path("outputs")
_PATIENCE = 1.0
"""Seconds that reading a lab may take without a word."""


def existing(output_dir: Path) -> Path:
    """Return the lab folder; StoreError, saying what to type, when there is none."""
    if output_dir.is_dir():
        return output_dir.absolute()
    raise StoreError(
        f"there is no lab folder {output_dir} here. Go to where it is, or name it: --output-dir FOLDER. "
        "`unsay run FILE` makes one."
    )


def pick(output_dir: Path, name: str) -> Entry:
    """Return the experiment with this id or folder; StoreError, with the nearest, when there is none."""
    from unsay.store import read
    from unsay.store.index import Index

    lab = existing(output_dir)
    with reading() as progress:
        found = Index(lab).refresh(progress)
    return read.entry(lab, read.pick(found, name).relative)


@contextmanager
def reading() -> Iterator[Progress]:
    """Show on standard error how far a lab is read, where that takes more than a moment."""
    began, bars, bar = time.monotonic(), None, None

    def progress(done: int, total: int | None) -> None:
        nonlocal bars, bar
        if time.monotonic() - began < _PATIENCE:
            return
        if bars is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            bars = Progress(*columns, console=Console(stderr=True), transient=True)
            if bars.console.is_terminal:
                bars.start()
                bar = bars.add_task("reading experiments", total=total)
            else:
                print(f"reading {total or 'the'} experiments of the lab once, for its index", file=sys.stderr)
        if bar is not None:
            bars.update(bar, completed=done, total=total)

    try:
        yield progress
    finally:
        if bars is not None and bar is not None:
            bars.stop()


def print_json(document: Any, *, data: bool = False) -> None:
    """Print a document without secrets; one of `data` (questions, answers) as it is."""
    sys.stdout.write(json.dumps(document if data else redacted(document), indent=2, ensure_ascii=True) + "\n")


def say(text: str) -> None:
    """Write a message to standard error, where it does not mix with a document."""
    from unsay.report.escape import terminal

    print(terminal(redact(text)), file=sys.stderr)
