"""`unsay import`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unsay.cli import _lab

if TYPE_CHECKING:
    from unsay.foreign_scores import Progress
    from unsay.importers import Refused
    from unsay.importing import Outcome

Marker = Annotated[
    str | None, typer.Option(help="What stands before the final answer, at the start of a line, instead of ####.")
]
Predict = Annotated[str, typer.Option(metavar="KEY", help="Key of the answer in a JSON Lines file.")]
Label = Annotated[str, typer.Option(metavar="KEY", help="Key of the reference in a JSON Lines file.")]
UndoToken = Annotated[str | None, typer.Option(help="A spelling of the token that takes text back, to look for.")]
Processes = Annotated[int | None, typer.Option(min=1, help="Processes to score with; all cores unless given.")]


def command(
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="PATH…", help="Files, or folders that are walked whole.")
    ] = None,
    page: Annotated[
        Path | None, typer.Option(help="A hand-kept experiment page: its ids, notes, dates and numbers.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Name of the model, instead of what the files say.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Name of the dataset, instead of what the files say.")] = None,
    marker: Marker = None,
    predict: Predict = "predict",
    label: Label = "label",
    undo_token: UndoToken = None,
    trained_on: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Training data: say where its rows are evaluated on."),
    ] = None,
    processes: Processes = None,
    output_dir: _lab.OutputDir = _lab.DEFAULT,
    as_json: _lab.Json = False,
) -> None:
    """Make experiments of results of lm-eval, LLaMA-Factory or a hand-kept page; the originals are not touched."""
    from unsay import handkept_page, importing
    from unsay.errors import ConfigError, StoreError
    from unsay.importers import Options, texts_of
    from unsay.report import markdown

    if not paths and page is None:
        raise ConfigError("expected files or folders to import, got none. Name some, or a page: --page EXPERIMENTS.md")
    rows_trained_on = frozenset[str]().union(*(texts_of(path) for path in trained_on or ()))
    options = Options(marker, model, dataset, undo_token, predict, label, rows_trained_on)
    collected = importing.collect(paths or [], options)
    rows = handkept_page.read_page(page.absolute()) if page is not None else []
    more = handkept_page.experiments(page.absolute(), rows, collected.found) if page is not None else []
    outcomes: list[Outcome] = []
    if collected.found or more:
        with progress() as tell:
            found = [*collected.found, *more]
            made = importing.put(output_dir, found, options, page=rows, processes=processes, progress=tell)
            outcomes = list(made)
    written, refusal = None, None
    try:
        written = markdown.write_page(output_dir) if output_dir.is_dir() else None
    except StoreError as error:  # the page that was kept by hand so far, for instance
        refusal = str(error)
    if as_json:
        _lab.print_json(_document(outcomes, collected.refused, written))
    else:
        _print(outcomes, collected.refused, written)
    if refusal is not None:
        _lab.say(f"the experiments are in {output_dir}, but the page was not written: {refusal}")
    if collected.refused or any(one.did == "refused" for one in outcomes) or not (outcomes or rows):
        raise typer.Exit(1)


@contextmanager
def progress() -> Iterator[Progress]:
    """Show on standard error how many answers were scored, with an estimate of the rest."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from unsay.report import terminal
    from unsay.report.escape import line, shortened

    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TextColumn("answers"),
        TimeRemainingColumn(),
    )  # fmt: skip
    console = terminal.console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None, visible=False)

        def tell(name: str, done: int, total: int | None) -> None:
            bar.update(task, description=shortened(line(name), 40), completed=done, total=total, visible=True)

        yield tell


def _document(outcomes: list[Outcome], refused: tuple[Refused, ...], page: Path | None) -> dict[str, Any]:
    return {
        "schema": 1,
        "experiments": [
            {
                "id": one.id,
                "did": one.did,
                "folder": one.folder,
                "tool": one.found.tool,
                "files": [str(path) for path in one.found.files],
                "part": one.found.part,
                "model": (one.record or one.found).model,
                "dataset": (one.record or one.found).dataset,
                "verified": list(one.verified),
                "warnings": list(one.warnings),
                "error": one.error,
            }
            for one in outcomes
        ],
        "refused": [{"file": str(each.path), "reason": each.reason} for each in refused],
        "page": None if page is None else str(page),
    }


def _print(outcomes: list[Outcome], refused: tuple[Refused, ...], page: Path | None) -> None:
    from unsay.report.escape import line, shortened

    for one in outcomes:
        made = one.record or one.found
        named = f"{made.model} on {made.dataset}, {made.method} {made.config}"
        checked = f"; as published: {', '.join(one.verified)}" if one.verified else ""
        print(line(f"{one.id or '-'}  {one.did:<9}  {shortened(named, 100)}  ({one.found.tool}{checked})"))
        if one.error:
            print("    " + line(one.error))
    said: dict[str, list[str]] = {}
    for one in outcomes:
        for text in one.warnings:
            said.setdefault(text, []).append(one.id)
    if said:
        print("\nWhat a reader should know:")
    for text, ids in said.items():
        named = ", ".join(ids[:4]) + (f" and {len(ids) - 4} more" if len(ids) > 4 else "")
        print("  " + line(f"{named}: {text}"))
    for each in refused:
        _lab.say(f"refused: {each.path}: {each.reason}")
    counts = {did: sum(one.did == did for one in outcomes) for did in ("added", "updated", "unchanged", "refused")}
    counts["refused"] += len(refused)
    told = ", ".join(f"{count} {did}" for did, count in counts.items() if count) or "nothing to import"
    _lab.say(told + (f"; {page} is up to date" if page is not None else ""))
