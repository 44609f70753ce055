from __future__ import annotations

import dataclasses
import random

import pytest

from tests.encodings import ANSWER, BYTES, CROSSING, END, LINE, MERGED, POP, Encoding
from unsay.augment import NoMistakeError, Source, apply_strategy
from unsay.augment.future_step import FutureStep
from unsay.errors import ConfigError
from unsay.records import Row

FIRST, SECOND, LAST = ANSWER.split("\n")


def early(strategy: FutureStep, text: str = ANSWER, seed: int = 0, encoding: Encoding = BYTES) -> Row:
    source = Source("train-1", (), encoding.answer(text), END)
    return apply_strategy("future_step", strategy, source, encoding.vocabulary(POP, LINE), seed=seed)


def part(row: Row, letters: str, encoding: Encoding = BYTES) -> str:
    return encoding.decode(id for id, letter in zip(row.ids, row.provenance, strict=True) if letter in letters)


def test_a_later_line_is_written_whole_and_taken_back() -> None:
    seen = set()
    for seed in range(60):
        row = early(FutureStep(rate=0, undo="line"), seed=seed)
        assert row.provenance.count("u") == 1
        seen.add((part(row, "e"), part(row, "k").rstrip("\n")))
    assert seen == {(SECOND, FIRST), (LAST, FIRST), (LAST, SECOND)}


def test_a_line_break_that_shares_its_token_with_text_is_written_too() -> None:
    wrong = {
        part(early(FutureStep(rate=0, undo="line"), seed=seed, encoding=MERGED), "e", MERGED) for seed in range(40)
    }
    assert wrong == {SECOND + "\n", LAST}


def test_token_by_token_it_begins_where_the_lines_differ() -> None:
    for seed in range(30):
        row = early(FutureStep(rate=0, undo="token", max_ahead=1), seed=seed)
        wrong = part(row, "e")
        assert row.provenance.count("u") == len(wrong.encode())
        # "Natalia sold 48" stands at the start of both lines.
        assert wrong in (SECOND.removeprefix("Natalia sold 48"), LAST)


def test_only_so_far_ahead() -> None:
    pairs = {(part(row, "e"), part(row, "k")) for row in (early(FutureStep(0, "line", 1), seed=s) for s in range(40))}
    assert {wrong for wrong, _ in pairs} == {SECOND, LAST}
    assert all(not right.startswith(FIRST) for wrong, right in pairs if wrong == LAST)


def test_every_line_but_the_last() -> None:
    row = early(FutureStep(rate=1, undo="line"))
    assert row.provenance.count("u") == 2


def test_equal_lines_are_no_mistake() -> None:
    with pytest.raises(
        NoMistakeError, match="train-1: expected at least 1 place for a mistake, got an answer without two"
    ):
        early(FutureStep(), "the same\nthe same")
    assert "u" not in early(FutureStep(min_errors_per_answer=0), "the same\nthe same").provenance
    with pytest.raises(NoMistakeError):
        early(FutureStep(), "one line")


def test_a_line_that_begins_like_the_right_one_and_stops_is_no_mistake() -> None:
    for seed in range(20):
        row = early(FutureStep(rate=1, undo="line"), "abc\nab\nx", seed)
        assert part(row, "e") in ("x", "xx")


def test_lines_that_begin_inside_a_token_are_left_alone() -> None:
    with pytest.raises(NoMistakeError):
        early(FutureStep(undo="line"), "So\nNo\nSo", encoding=CROSSING)


def test_options_must_make_sense() -> None:
    with pytest.raises(ConfigError) as caught:
        FutureStep(rate=-1, undo="word", max_ahead=0, min_errors_per_answer=-1)  # type: ignore[arg-type]
    assert len(caught.value.mistakes) == 4
    bare = dataclasses.replace(BYTES.vocabulary(POP), table=BYTES.table(POP))
    with pytest.raises(ConfigError, match="future_step with undo: line needs a control token that pops a line"):
        FutureStep(undo="line").apply(BYTES.answer(ANSWER), bare, random.Random(0))
