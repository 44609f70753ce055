"""Answers written down token by token for the tests of measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from unsay.records import Beginning, Counts, Key, Sample, Trace
from unsay.undo import Action, UndoTable, written

UNDO, UNDO_LINE, BREAK = 900, 901, 902
TABLE = UndoTable(
    {UNDO: Action("pop"), UNDO_LINE: Action("pop_line")}, {UNDO: "<u>", UNDO_LINE: "<line>"}, frozenset({BREAK})
)
_NO_COUNTS = Counts(0, 0, 0, 0, 0, 0, (), (), None)


def sample(
    ids: Sequence[int],
    pieces: Mapping[int, str] | None = None,
    *,
    beginning: Beginning | None = None,
    undo_logprobs: Sequence[float] = (),
    finish_reason: str = "eos",
) -> Sample:
    """Return an answer of these ids as a measure sees it; `pieces` are texts of ids."""
    texts = {BREAK: "\n", UNDO: "<u>", UNDO_LINE: "<line>"} | dict(pieces or {})
    trace = Trace(
        Key("t", 0), "", "", 0, tuple(ids), tuple(texts.get(id, "") for id in ids), (), "", finish_reason, _NO_COUNTS,
        beginning=beginning, undo_logprobs=tuple(undo_logprobs),
    )  # fmt: skip
    return Sample("0", "", "", "", finish_reason, None, written(trace, TABLE))
