"""One trace as tokens that a reader can show: which survived, which were taken back, which are undos.

[token.piece for token in tokens(trace, table) if token.kind == "taken back"]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from unsay.errors import UndoError
from unsay.records import Trace
from unsay.undo import UndoTable, replay

TokenKind = Literal["kept", "taken back", "undo", "underflow", "end", "dropped"]


@dataclass(frozen=True)
class Token:
    """One sampled id. `underflow` is an undo with nothing to take back, `dropped` what follows the end token."""

    index: int
    id: int
    piece: str
    kind: TokenKind


def tokens(trace: Trace, table: UndoTable | None) -> list[Token]:
    """Say what became of every id of a trace; without its undo table the survivors are aligned from the end."""
    kinds = _replayed(trace, table) if table is not None else None
    kinds = kinds or _aligned(trace)
    pieces = [*trace.pieces, *[""] * (len(trace.ids) - len(trace.pieces))]
    return [Token(at, id, pieces[at], kinds[at]) for at, id in enumerate(trace.ids)]


def taken_at(trace: Trace, table: UndoTable | None) -> dict[int, int]:
    """Return the index of every token that was taken back with that of the undo that took it; {} without a table."""
    if table is None or any(table.is_control(id) for id in ends(trace)):
        return {}
    return {popped: step.index for step in replay(trace.ids, table, ends(trace)) for popped in step.popped}


def table_of(facts: Mapping[str, Any]) -> UndoTable | None:
    """Return the undo table an experiment recorded; None where there is none that can be read."""
    value = facts.get("undo_table")
    if not isinstance(value, dict):
        return None
    try:
        return UndoTable.from_json(value)
    except UndoError:
        return None


def ends(trace: Trace) -> frozenset[int]:
    """Return the end token of a trace, as far as it was written."""
    ended = trace.finish_reason == "eos" and bool(trace.ids)
    return frozenset(trace.ids[-1:]) if ended else frozenset()


def _replayed(trace: Trace, table: UndoTable) -> list[TokenKind] | None:
    last = ends(trace)
    if any(table.is_control(id) for id in last):
        return None
    kinds: list[TokenKind] = ["dropped"] * len(trace.ids)
    for step in replay(trace.ids, table, last):
        kinds[step.index] = "kept" if step.kind == "emit" else step.kind
        for popped in step.popped:
            kinds[popped] = "taken back"
    return kinds


def _aligned(trace: Trace) -> list[TokenKind]:
    kinds: list[TokenKind] = ["taken back"] * len(trace.ids)
    waiting = list(trace.visible_ids)
    last = len(trace.ids) - 1
    for at in range(last, -1, -1):
        if waiting and trace.ids[at] == waiting[-1]:
            waiting.pop()
            kinds[at] = "kept"
        elif at == last and trace.finish_reason == "eos":
            kinds[at] = "end"
    return kinds
