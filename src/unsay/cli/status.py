"""`unsay status`."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unsay.cli import _lab

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console, RenderableType

    from unsay.cli._queues import Standings
    from unsay.report.tables import Row
    from unsay.store.index import Filter, Index, Summary

FIRST = 50
"""Rows of the first screen, where a terminal has no room for more."""
_AROUND = 6
"""Lines of a terminal that are not rows of the table."""
_NOT_ALIVE = ("stale", "lost contact")
"""What is shown beside a status, and looked for like one."""


def command(
    output_dir: _lab.OutputDir = _lab.DEFAULT,
    every_one: Annotated[
        bool, typer.Option("--all", "-a", help="Every experiment, not only those that changed last.")
    ] = False,
    model: Annotated[list[str] | None, typer.Option(help="Only these models; * stands for anything.")] = None,
    dataset: Annotated[list[str] | None, typer.Option(help="Only these datasets.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="Only these methods.")] = None,
    config: Annotated[list[str] | None, typer.Option(help="Only these configs.")] = None,
    status: Annotated[
        list[str] | None,
        typer.Option(help="Only these: pending, running, completed, failed, cancelled, unreadable, stale."),
    ] = None,
    search: Annotated[str, typer.Option(metavar="TEXT", help="Only with this in the id, the folder or the note.")] = "",
    archived: Annotated[
        bool, typer.Option("--archived", help="The archived ones, which are hidden otherwise.")
    ] = False,
    why: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Explain one: would a run skip it, go on with it, or make a new result?"),
    ] = None,
    file: Annotated[Path | None, typer.Option(help="With --why: the experiment file of that run.")] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Stay and refresh until interrupted.")] = False,
    every: Annotated[float, typer.Option(min=0.2, help="Seconds between refreshes with --watch.")] = 2.0,
    as_json: _lab.Json = False,
) -> None:
    """Show the experiments, with partial results while they run; the latest ones where there are many."""
    from unsay.cli._queues import Standings
    from unsay.report import terminal
    from unsay.store.index import Filter, Index

    if why is not None:
        from unsay.cli._why import why as explain

        explain(output_dir, why, file, as_json=as_json)
        return
    if file is not None:
        raise typer.BadParameter("expected beside --why ID; the list is of all that is in the lab", param_hint="--file")
    wanted = Filter(
        tuple(model or ()),
        tuple(dataset or ()),
        tuple(method or ()),
        tuple(config or ()),
        _statuses(status or []),
        search,
        archived,
    )
    if as_json and not output_dir.is_dir():
        _lab.print_json(_document(output_dir, _Found((), 0, Counter())))
        return
    index = Index(_lab.existing(output_dir))
    alive = tuple(status or ())
    standings = Standings()
    if as_json:
        _lab.print_json(_document(output_dir, _find(index, wanted, alive, None, standings)))
        return
    console = terminal.console()
    room = None if every_one else _room(console, watch=watch)
    if not watch:
        _print(console, _find(index, wanted, alive, room, standings), index.lab, wanted)
        return
    from rich.console import Group
    from rich.live import Live

    with Live(console=console, auto_refresh=False, screen=False) as live:
        while True:
            found = _find(index, wanted, alive, room, standings)
            live.update(Group(*_shown(found, index.lab, wanted)), refresh=True)
            time.sleep(every)


@dataclass(frozen=True)
class _Found:
    """The rows to show, how many the filter leaves, by status, and how many others are archived."""

    rows: Sequence[Row]
    of: int
    statuses: Counter[str]
    archived: int = 0


def _find(index: Index, wanted: Filter, statuses: Sequence[str], room: int | None, standings: Standings) -> _Found:
    from unsay.report import tables
    from unsay.store import read

    with _lab.reading() as progress:
        every = index.refresh(progress)
    found = [one for one in every if wanted(one)]
    if any(each in _NOT_ALIVE for each in statuses):
        found = [one for one in found if one.status in statuses or _liveness(one) in statuses]
    chosen = found if room is None or len(found) <= room else sorted(found, key=_recent, reverse=True)[:room]
    entries = sorted((read.entry(index.lab, one.relative) for one in chosen), key=read.order)
    hidden = 0 if wanted.archived else sum(one.archived for one in every)
    rows = _with_standings([tables.row(each) for each in entries], standings)
    return _Found(rows, len(found), Counter(one.status for one in found), hidden)


def _with_standings(rows: list[Row], standings: Standings) -> list[Row]:
    """Say of experiments in a batch system's queue how they stand there."""
    waiting = [row.ticket for row in rows if row.ticket is not None]
    said = standings.of(waiting) if waiting else {}
    return [
        row if row.ticket is None else replace(row, standing=said.get((row.ticket.executor, row.ticket.job), ""))
        for row in rows
    ]


def _room(console: Console, *, watch: bool) -> int:
    """Return how many rows are shown at once: what stays on the screen has to fit on it, the rest may scroll."""
    fitting = max(1, console.height - _AROUND) if console.is_terminal else 0
    return fitting if watch and fitting else max(FIRST, fitting)


def _statuses(wanted: Sequence[str]) -> tuple[str, ...]:
    return (*wanted, *(("running",) if any(each in _NOT_ALIVE for each in wanted) else ()))


def _liveness(one: Summary) -> str | None:
    from unsay.store import read

    record = read.entry(one.lab, one.relative).record
    return read.liveness(record, one.folder) if record is not None else None


def _recent(one: Summary) -> tuple[bool, float]:
    return one.status == "running", one.changed or 0.0


def _print(console: Console, found: _Found, lab: Path, wanted: Filter) -> None:
    for part in _shown(found, lab, wanted):
        console.print(part, soft_wrap=isinstance(part, str))


def _shown(found: _Found, lab: Path, wanted: Filter) -> list[RenderableType]:
    """Return the table and what it leaves out."""
    from unsay.cli._queues import GONE
    from unsay.report import terminal
    from unsay.report.escape import line

    said = [
        line(
            f"{row.name}: {row.ticket} is gone without a word; what its shell printed: {row.output}. The same "
            "`unsay run` submits it again."
        )
        for row in found.rows
        if row.standing.startswith(GONE)
    ]
    if len(found.rows) < found.of:
        counts = ", ".join(f"{count:,} {name}" for name, count in found.statuses.most_common())
        said.append(
            f"These are the {len(found.rows)} that changed last, of {found.of:,} ({counts}). --all shows every one; "
            "--model, --dataset, --method, --config, --status and --search look for some."
        )
    if found.archived:
        said.append(f"{found.archived:,} archived; --archived shows them.")
    if not found.rows:
        return [_nothing(lab, wanted), *said]
    return [terminal.experiments(found.rows), *([""] if said else []), *said]


def _nothing(lab: Path, wanted: Filter) -> str:
    from unsay.store.index import Filter

    if wanted.archived:
        return f"No experiment in {lab} is archived. `unsay archive ID` hides one."
    if wanted != Filter():
        return f"No experiment in {lab} is like that; `unsay status` shows what there is."
    return f"No experiment in {lab} yet. `unsay run FILE` starts the experiments of a file."


def _document(output_dir: Path, found: _Found) -> dict[str, Any]:
    rows = [row.to_json() for row in found.rows]
    return {"schema": 1, "output_dir": str(output_dir), "archived": found.archived, "experiments": rows}
