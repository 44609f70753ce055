"""`unsay cancel`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unsay.cli import _lab

if TYPE_CHECKING:
    from unsay.store.read import Entry
    from unsay.store.tickets import Ticket

_LOOK_EVERY = 0.2
_GOING_ON = ("pending", "running", "cancelled")
"""What a run may begin or go on with; a cancelled one where it was a run that was stopped."""


def command(
    experiments: Annotated[list[str], typer.Argument(metavar="ID…", help="Experiment ids, or their folders.")],
    wait: Annotated[float, typer.Option(min=0.0, help="Seconds to wait until what is running has stopped.")] = 30.0,
    output_dir: _lab.OutputDir = _lab.DEFAULT,
    as_json: _lab.Json = False,
) -> None:
    """Stop experiments that are running, here or on another machine, and call off those that wait.

    What they finished stays: `unsay run` goes on with them when it is asked to.
    """
    from unsay.report import markdown
    from unsay.store import read
    from unsay.store.index import Index

    lab = _lab.existing(output_dir)
    known = Index(lab).refresh()
    names = {read.pick(known, name).relative: None for name in experiments}
    places = [place for name in names for place in _places(lab, name)]
    asked = {place.folder: _cancel(place) for place in places}
    deadline = time.monotonic() + wait
    while time.monotonic() < deadline and any(_runs(place) for place in places if asked[place.folder] == "asked"):
        time.sleep(_LOOK_EVERY)
    done = []
    for place in places:
        now = read.entry(lab, place.relative)
        status = now.record.status if now.record is not None else None
        did = asked[place.folder]
        did = "cancelled" if did == "asked" and status == "cancelled" else did
        done.append({"id": now.name, "folder": place.relative, "status": status, "did": did})
    page = markdown.write_page(lab)
    if as_json:
        _lab.print_json({"schema": 1, "experiments": done, "page": str(page)})
        return
    words = {
        "cancelled": "is cancelled; `unsay run` goes on with it",
        "asked": "was asked to stop and has not yet; `unsay status` shows when it has",
        "nothing": "is {status}: there is nothing to stop",
    }
    for each in done:
        print(f"{each['id']}  {words[str(each['did'])].format(status=each['status'])}")


def _out_of_the_queue(place: Entry, folder: Path, ticket: Ticket, *, keep: bool) -> None:
    """End an experiment's job in a batch system; without its ticket it ends by itself when its turn comes."""
    from unsay.cli._queues import queue_of
    from unsay.errors import UnsayError
    from unsay.store import tickets

    if not keep:
        tickets.drop(folder)
    try:
        if ticket.job:
            queue_of(ticket).stop([ticket.job])
    except (UnsayError, ImportError) as error:
        left = "it was asked to stop" if keep else "it ends when its turn comes"
        _lab.say(f"{place.name}: {ticket} could not be ended from here ({error}); {left}")


def _places(lab: Path, relative: str) -> list[Entry]:
    """Return an experiment and those of its limited runs that say they run; only itself when it is a limited run."""
    from unsay.store import read

    whole = read.entry(lab, relative)
    if whole.limit is not None:
        return [whole]
    limited = [entry for entry in read.find(whole.folder) if entry.folder.parent == whole.folder]
    running = [read.entry(lab, entry.folder.relative_to(lab).as_posix()) for entry in limited if _runs(entry)]
    runs_itself = _runs(whole) or not running
    return [*([whole] if runs_itself else []), *running]


def _runs(place: Entry) -> bool:
    from unsay.store import read

    record = read.record(place.folder)
    return record is not None and record.status == "running"


def _cancel(place: Entry) -> str:
    """Cancel one result: return `cancelled`, `asked` where somebody is at work on it, or `nothing`."""
    from unsay.errors import LockedError, StoreError
    from unsay.store import read, stopping, tickets

    if place.problem is not None:
        raise StoreError(place.problem)
    experiment = place.folder.parent if read.limit_of(place.folder.name) is not None else place.folder
    queued = tickets.below(place.folder)
    for last in (False, True):
        record = read.record(place.folder)
        if record is None or record.status not in _GOING_ON or stopping.is_called_off(record):
            return "nothing"
        asked = record.status == "running" and bool(record.attempts)
        asked = asked and stopping.ask(experiment, place.folder, record)
        for folder, ticket in queued.items():  # after the request, which says to the job why it ends
            _out_of_the_queue(place, folder, ticket, keep=asked)
        if asked:
            return "asked"
        why = f"{stopping.CALLED_OFF}; its process was gone" if record.status == "running" else stopping.CALLED_OFF
        try:
            closed = stopping.close(experiment, place.folder, "cancelled", why, of=_GOING_ON, wait=1.0)
            return "cancelled" if closed else "nothing"
        except LockedError:  # it was begun just now
            if last:
                raise
    return "nothing"
