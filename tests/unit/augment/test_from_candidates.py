"""`splice` and `own_samples`: where another answer departs, and what of it is written and taken back."""

from __future__ import annotations

import dataclasses
import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.encodings import ANSWER, BYTES, END, LINE, POP
from unsay.augment import Candidate, NoMistakeError, Source, apply_strategy
from unsay.augment._candidates import departures, edits_of, line_departures
from unsay.augment.own_samples import OwnSamples
from unsay.augment.splice import Splice
from unsay.errors import ConfigError
from unsay.records import Row
from unsay.undo import resolve

NEWLINE = 0
ids = st.lists(st.integers(0, 4), max_size=30)
FILE = "given by the test"
OWN = OwnSamples(FILE, undo="token")  # type: ignore[arg-type]
SPLICE = Splice(FILE, undo="token")  # type: ignore[arg-type]


@given(ids, ids)
def test_departures_make_the_other_answer_of_the_right_one(right: list[int], other: list[int]) -> None:
    for found in (departures(right, other), line_departures(right, other, {NEWLINE})):
        assert all(one.end <= two.place for one, two in pairwise(found))
    # What the other answer leaves out is no departure; with it dropped, too, the rest is a common subsequence.
    kept = list(right)
    for each in reversed(departures(right, other)):
        kept[each.place : each.end] = each.errors
    rest = iter(kept)
    assert all(id in rest for id in other), "the other answer can be read off in order"


@given(ids, ids, st.booleans())
def test_edits_resolve_to_the_right_answer(right: list[int], other: list[int], by_line: bool) -> None:
    text = bytes(value + 97 if value else 10 for value in right).decode()
    answer = BYTES.answer(text)
    vocabulary = BYTES.vocabulary(POP, LINE)
    unit, control = ("line", LINE) if by_line else ("token", POP)
    wrong = tuple(value + 97 if value else 10 for value in other)
    for edit in edits_of(answer, wrong, unit, control, vocabulary, 64):  # type: ignore[arg-type]
        trace = (*answer.ids[: edit.place], *edit.written, *answer.ids[edit.place :])
        assert resolve(trace, vocabulary.table).visible_ids == answer.ids
        errors = edit.written[: edit.letters.count("e")]
        assert errors != answer.ids[edit.place : edit.place + len(errors)]


def made(strategy: Any, *others: tuple[str, bool | None], seed: int = 0, text: str = ANSWER) -> Row:
    candidates = tuple(Candidate(BYTES.encode(other), correct) for other, correct in others)
    answer = dataclasses.replace(BYTES.answer(text), candidates=candidates)
    source = Source("train-1", (), answer, END)
    return apply_strategy("x", strategy, source, BYTES.vocabulary(POP, LINE), seed=seed)


def shown(row: Row) -> str:
    """Return the trace as text, [mistakes] and ~ or ^ for undos."""
    out = "".join(
        {POP: "~", LINE: "^"}[id] if letter == "u" else f"[{chr(id)}]" if letter == "e" else chr(id)
        for id, letter in zip(row.ids[:-1], row.provenance, strict=False)
    )
    return out.replace("][", "")


def test_all_that_the_model_wrote_too_much_is_kept() -> None:
    row = made(OWN, ("a1b22c", False), text="abc")
    assert shown(row) == "a[1]~b[22]~~c"
    assert row.provenance == "ceukeeuukc"


def test_what_the_model_left_out_is_the_correction() -> None:
    row = made(OWN, ("abXf", False), text="abcdef")
    assert shown(row) == "ab[X]~cdef"
    assert row.provenance == "cceukkkcc"


def test_a_mistake_begins_with_the_first_wrong_token() -> None:
    assert shown(made(OWN, ("aab", False), text="ab")) == "a[a]~b"


def test_correct_answers_are_passed_over() -> None:
    for seed in range(10):
        assert shown(made(OWN, ("abX", True), ("abY", False), ("abZ", True), text="ab", seed=seed)) == "ab[Y]~"
    with pytest.raises(
        NoMistakeError, match="expected a wrong answer of the model to this question, got 2, all of them"
    ):
        made(OWN, ("abX", True), ("ab", None), text="ab")
    with pytest.raises(NoMistakeError, match="got none"):
        made(OWN, text="ab")
    assert "u" not in made(dataclasses.replace(OWN, min_errors_per_answer=0), ("abX", True), text="ab").provenance


def test_an_answer_that_nobody_judged_is_not_taken_for_wrong() -> None:
    with pytest.raises(NoMistakeError, match=r"got 2, all of them correct or judged by nobody \(1 by nobody\)"):
        made(OWN, ("abX", None), ("abY", True), text="ab")
    for seed in range(5):
        assert shown(made(OWN, ("abX", None), ("abY", False), text="ab", seed=seed)) == "ab[Y]~"


def test_an_answer_that_only_leaves_something_out_gives_way_to_another() -> None:
    for seed in range(10):
        assert shown(made(OWN, ("a", False), ("abX", False), text="abc", seed=seed)) == "ab[X]~c"
    with pytest.raises(NoMistakeError, match=r"none in 1 wrong answer\(s\)"):
        made(OWN, ("a", False), text="abc")


def test_long_mistakes_are_cut() -> None:
    assert shown(made(dataclasses.replace(OWN, max_span=3), ("aXXXXXXb", False), text="ab")) == "a[XXX]~~~b"
    by_line = dataclasses.replace(OWN, undo="line", max_span=6)
    assert shown(made(by_line, ("one\ntwo\nthree", False), text="four")) == "[one]^four"
    with pytest.raises(NoMistakeError):
        made(by_line, ("a long line\ntwo", False), text="four")


def test_only_so_many_mistakes() -> None:
    row = made(dataclasses.replace(OWN, max_errors_per_answer=2), ("1a2b3c4d", False), text="abcd")
    assert shown(row) == "[1]~a[2]~bcd"


def test_whole_lines() -> None:
    by_line = dataclasses.replace(OWN, undo="line")
    row = made(by_line, ("one\nTWO\nand\nthree", False), text="one\ntwo\nthree")
    assert shown(row) == "one\n[TWO\nand]^^two\nthree"
    # Between two right lines: the line after it is the correction.
    assert shown(made(by_line, ("one\nX\nthree", False), text="one\nthree")) == "one\n[X]^three"
    # A line of its own at the end.
    assert shown(made(by_line, ("one\nX\n", False), text="one\n")) == "one\n[X]^"


def test_splice_takes_some_spans() -> None:
    seen = {shown(made(SPLICE, ("1a2b3c", False), text="abc", seed=seed)) for seed in range(60)}
    assert {"[1]~abc", "a[2]~bc", "ab[3]~c", "[1]~a[2]~bc"} <= seen
    assert "abc" not in seen
    assert shown(made(dataclasses.replace(SPLICE, rate=1), ("1a2b3c4", True), text="abc")) == "[1]~a[2]~b[3]~c"


def test_splice_needs_another_answer() -> None:
    with pytest.raises(NoMistakeError, match="got 1, all the same as the right one"):
        made(SPLICE, (ANSWER, True))
    with pytest.raises(NoMistakeError, match="got none"):
        made(SPLICE)


def test_control_tokens_of_a_candidate_are_never_written() -> None:
    answer = dataclasses.replace(BYTES.answer("ab"), candidates=(Candidate((97, POP, 98), False),))
    with pytest.raises(NoMistakeError):
        OWN.apply(answer, BYTES.vocabulary(POP, LINE), random.Random(0))


def test_options_must_make_sense() -> None:
    with pytest.raises(ConfigError) as caught:
        Splice(rate=2, max_span=0, undo="word")  # type: ignore[arg-type]
    assert len(caught.value.mistakes) == 4
    with pytest.raises(ConfigError) as caught:
        OwnSamples(max_span=0, min_errors_per_answer=20)
    assert len(caught.value.mistakes) == 3
