"""`unsay archive`."""

from __future__ import annotations

from typing import Annotated

import typer

from unsay.cli import _lab


def command(
    experiments: Annotated[list[str], typer.Argument(metavar="ID…", help="Experiment ids, or their folders.")],
    undo: Annotated[bool, typer.Option("--undo", help="Bring them back.")] = False,
    output_dir: _lab.OutputDir = _lab.DEFAULT,
    as_json: _lab.Json = False,
) -> None:
    """Hide experiments from lists and the page; nothing of them is deleted, and --undo brings them back."""
    from unsay.errors import StoreError
    from unsay.report import markdown
    from unsay.store import read
    from unsay.store.archive import archive, restore
    from unsay.store.index import Index

    lab = _lab.existing(output_dir)
    known = Index(lab).refresh()
    chosen = [read.pick(known, name) for name in experiments]
    limited = [one for one in chosen if one.limit is not None and read.limit_of(one.folder.name) is not None]
    if limited:
        raise StoreError(
            f"{', '.join(one.relative for one in limited)}: a limited run goes where its experiment goes; "
            "archive the experiment."
        )
    for one in chosen:
        (restore if undo else archive)(one.folder)
    page = markdown.write_page(lab)
    if as_json:
        done = [{"id": one.id or None, "folder": one.relative, "archived": not undo} for one in chosen]
        _lab.print_json({"schema": 1, "experiments": done, "page": str(page)})
        return
    names = ", ".join(one.name for one in chosen)
    back = "" if undo else " (`unsay status --archived` lists what is, `unsay archive --undo ID` brings it back)"
    _lab.say(f"{names} {'is back' if undo else 'is archived'}{back}; {page} is up to date")
