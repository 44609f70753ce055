"""What was handed to a batch system: a file in the result folder says as which job it waits there, or runs.

    tickets.leave(folder, Ticket("slurm", "1234_5", now, output))
    tickets.of(folder)

It is written before the job is submitted (`job` is empty until then) and taken away by the job when it ends. Where it
is still there and the batch system knows no such job, the job is gone without a word. Nothing here asks one.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from unsay.records import SCHEMA
from unsay.store import layout, write


@dataclass(frozen=True)
class Ticket:
    """One experiment in a queue. `executor` is the name of the file in `executors/` that put it there."""

    executor: str
    job: str
    submitted: str
    output: str | None = None
    """What the job's shell printed: a file, relative to the result folder."""
    timeouts: int = 0
    """How often the job was stopped by its time limit and queued again."""

    def __str__(self) -> str:
        return f"{self.executor} job {self.job}" if self.job else f"{self.executor}, being submitted"


def leave(folder: Path, ticket: Ticket) -> None:
    """Write a folder's ticket over an earlier one; StoreError where that is not possible."""
    write.write_json(folder / layout.TICKET, {"schema": SCHEMA} | asdict(ticket))


def of(folder: Path) -> Ticket | None:
    """Return a folder's ticket; None without one that can be read."""
    try:
        value = json.loads((folder / layout.TICKET).read_bytes())
        output = value.get("output")
        return Ticket(
            str(value["executor"]),
            str(value["job"]),
            str(value["submitted"]),
            None if output is None else str(output),
            int(value.get("timeouts", 0)),
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def below(experiment: Path) -> dict[Path, Ticket]:
    """Return the tickets of an experiment's folder and of its `limit_<n>` folders, each with its folder."""
    places = [experiment, *sorted(experiment.glob(f"{layout.LIMIT_PREFIX}*"))]
    return {place: ticket for place in places if (ticket := of(place)) is not None}


def number(folder: Path, job: str, output: Path) -> None:
    """Write the job's number and where it prints into a ticket, unless the job took it away already."""
    ticket = of(folder)
    if ticket is not None:
        leave(folder, replace(ticket, job=job, output=os.path.relpath(output, folder)))


def drop(folder: Path, job: str | None = None) -> None:
    """Take a folder's ticket away; only one of this job, where one is named."""
    ticket = of(folder) if job is not None else None
    if ticket is not None and ticket.job != job:
        return
    with suppress(OSError):
        (folder / layout.TICKET).unlink(missing_ok=True)
