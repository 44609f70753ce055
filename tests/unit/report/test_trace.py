"""What became of each token of a trace, with its undo table and without."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.lab import END, TABLE, UNDO
from unsay.records import Key, Trace
from unsay.report import terminal
from unsay.report.trace import table_of, tokens
from unsay.undo import resolve


def trace_of(ids: tuple[int, ...]) -> Trace:
    resolution = resolve(ids, TABLE, {END})
    ended = "eos" if resolution.ended else "max_steps"
    pieces = tuple({UNDO: "<U>", END: "<E>"}.get(id, f"{id} ") for id in ids)
    return Trace(Key("t", 0), "", "", 0, ids, pieces, resolution.visible_ids, "", ended, resolution.counts)


def test_every_kind_of_token() -> None:
    trace = trace_of((UNDO, 5, 6, UNDO, 7, END))
    assert [token.kind for token in tokens(trace, TABLE)] == [
        "underflow", "kept", "taken back", "undo", "kept", "end",
    ]  # fmt: skip


def test_without_styles_what_was_taken_back_is_bracketed() -> None:
    shown = tokens(trace_of((5, 6, 7, UNDO, UNDO, 8, END)), TABLE)
    assert terminal.trace(shown, styled=False).plain == "5 [-6 7 -]<U><U>8 <E>"
    styled = terminal.trace(shown, styled=True)
    assert styled.plain == "5 6 7 <U><U>8 <E>"
    assert [styled.plain[span.start : span.end] for span in styled.spans if "strike" in str(span.style)] == ["6 ", "7 "]


@given(st.lists(st.sampled_from([5, 6, 7, UNDO]), max_size=12), st.booleans())
def test_kept_tokens_are_the_visible_ones_with_and_without_the_table(ids: list[int], ended: bool) -> None:
    trace = trace_of((*ids, END) if ended else tuple(ids))
    for table in (TABLE, None):
        found = tokens(trace, table)
        assert tuple(token.id for token in found if token.kind == "kept") == trace.visible_ids
        assert len(found) == len(trace.ids)
        assert "".join(token.piece for token in found) == "".join(trace.pieces)


def test_a_table_that_cannot_be_read_is_no_table() -> None:
    assert table_of({"undo_table": TABLE.to_json()}) == TABLE
    assert table_of({}) is None
    assert table_of({"undo_table": {"schema": 99}}) is None
