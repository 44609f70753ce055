"""What the reading commands share: where the lab is, and how a document is printed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from unsay.errors import StoreError
from unsay.redaction import redact, redacted

OutputDir = Annotated[
    Path, typer.Option("--output-dir", "-o", help="The lab folder: `output_dir` of the experiment file.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]

DEFAULT = Path("outputs")


def existing(output_dir: Path) -> Path:
    """Return the lab folder; StoreError, saying what to type, when there is none."""
    if output_dir.is_dir():
        return output_dir.absolute()
    raise StoreError(
        f"there is no lab folder {output_dir} here. Go to where it is, or name it: --output-dir FOLDER. "
        "`unsay run FILE` makes one."
    )


def print_json(document: Any, *, data: bool = False) -> None:
    """Print a document without secrets; one of `data` (questions, answers) as it is."""
    sys.stdout.write(json.dumps(document if data else redacted(document), indent=2, ensure_ascii=True) + "\n")


def say(text: str) -> None:
    """Write a message to standard error, where it does not mix with a document."""
    from unsay.report.escape import terminal

    print(terminal(redact(text)), file=sys.stderr)
