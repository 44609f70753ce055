"""`unsay note`."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from unsay.cli import _lab


def command(
    experiment: Annotated[str, typer.Argument(metavar="ID", help="Experiment id, or its folder.")],
    text: Annotated[str, typer.Argument(help="The note; an empty one removes it.")],
    output_dir: _lab.OutputDir = _lab.DEFAULT,
    as_json: _lab.Json = False,
) -> None:
    """Set the note of an experiment and refresh the page."""
    from unsay.errors import StoreError
    from unsay.report import markdown
    from unsay.store import layout, read, write

    lab = _lab.existing(output_dir)
    entry = _lab.pick(lab, experiment)
    # A limited run is written under its experiment's lock.
    limited = entry.folder.name.startswith(layout.LIMIT_PREFIX)
    with write.lock(entry.folder.parent if limited else entry.folder):
        record = read.record(entry.folder)
        if record is None:
            raise StoreError(f"{entry.folder} has no {layout.EXPERIMENT} to write a note into")
        write.write_json(entry.folder / layout.EXPERIMENT, replace(record, notes=text).to_json())
    page = markdown.write_page(lab)
    if as_json:
        _lab.print_json({"schema": 1, "id": record.id, "folder": entry.relative, "notes": text, "page": str(page)})
    else:
        _lab.say(f"noted on {entry.name}; {page} is up to date")
