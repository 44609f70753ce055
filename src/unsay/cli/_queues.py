"""What batch systems say of the jobs that stand on experiments' tickets."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from unsay import catalog
from unsay.errors import UnsayError

if TYPE_CHECKING:
    from unsay.executors import Queue
    from unsay.store.tickets import Ticket

GONE = "gone from the queue"
_PATIENCE = 5.0
"""Seconds that a table waits for a queue."""
_EVERY = 10.0
"""Seconds for which an answer counts, where a table is drawn again and again."""


def queue_of(ticket: Ticket) -> Queue:
    """Return the queue that a ticket is of."""
    queue: Queue = catalog.plugin("executors", ticket.executor)()
    return queue


@dataclass
class Standings:
    """Asks each queue once for all its jobs, and again when that is some seconds ago."""

    _asked: float = float("-inf")
    _found: dict[tuple[str, str], str] = field(default_factory=dict)

    def of(self, tickets: Iterable[Ticket]) -> Mapping[tuple[str, str], str]:
        """Return how jobs stand, by executor and number; without those of a queue that gives no answer here."""
        groups: defaultdict[str, list[Ticket]] = defaultdict(list)
        for ticket in tickets:
            if ticket.job:
                groups[ticket.executor].append(ticket)
        wanted = {(ticket.executor, ticket.job) for group in groups.values() for ticket in group}
        if time.monotonic() - self._asked < _EVERY and wanted <= self._found.keys():
            return self._found
        for group in groups.values():
            try:
                found = queue_of(group[0]).look([ticket.job for ticket in group], patience=_PATIENCE)
            except (UnsayError, ImportError):  # on a machine that knows nothing of it
                continue
            for ticket in group:
                standing = found.get(ticket.job)
                text = GONE if standing is None else f"{GONE}: {standing.text}" if standing.over else standing.text
                self._found[ticket.executor, ticket.job] = text
        self._asked = time.monotonic()
        return self._found
