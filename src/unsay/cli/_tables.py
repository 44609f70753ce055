"""What the commands that give tables to other programs share: `--format` and `--output`."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer


class Kind(StrEnum):
    """What `--format` takes."""

    markdown = "markdown"
    csv = "csv"
    latex = "latex"


Format = Annotated[Kind | None, typer.Option("--format", help="Give a table for another program.")]
Output = Annotated[
    Path | None, typer.Option("--output", help="Write to this file; .md, .csv, .tex and .json say the format.")
]

JSON = "json"
_SUFFIXES = {".md": "markdown", ".csv": "csv", ".tex": "latex", ".json": JSON}


def wanted(format: Kind | None, output: Path | None, as_json: bool) -> str | None:
    """Return which document is asked for: markdown, csv, latex, json; None for the terminal. Refuses two of them."""
    if format is not None and as_json:
        raise typer.BadParameter("expected one of --format and --json, got both", param_hint="--format")
    if as_json:
        return JSON
    if format is not None:
        return format.value
    if output is None:
        return None
    if output.suffix not in _SUFFIXES:
        raise typer.BadParameter(
            f"{output.name} does not say the format; end it in {', '.join(_SUFFIXES)}, or add --format",
            param_hint="--output",
        )
    return _SUFFIXES[output.suffix]


def json_text(document: Any) -> str:
    return json.dumps(document, indent=2, ensure_ascii=True, allow_nan=False) + "\n"


def give(text: str, output: Path | None) -> None:
    """Write a document to a file, or to standard output as UTF-8 whatever the locale."""
    from unsay.store import write

    if output is not None:
        write.write_text(output, text)
        print(output, file=sys.stderr)
        return
    sys.stdout.flush()
    if hasattr(sys.stdout, "buffer"):
        sys.stdout.buffer.write(text.encode("utf-8"))
        sys.stdout.buffer.flush()
    else:
        sys.stdout.write(text)
