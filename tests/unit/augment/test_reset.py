from __future__ import annotations

import random
from collections import Counter

import pytest

from tests.encodings import ANSWER, BYTES, END, POP, RESET
from unsay.augment import NoMistakeError, Source, Vocabulary, apply_strategy
from unsay.augment.reset import Reset
from unsay.errors import ConfigError
from unsay.records import Row

FIRST, SECOND, LAST = ANSWER.split("\n")


def reset(strategy: Reset, text: str = ANSWER, seed: int = 0) -> Row:
    source = Source("train-1", (), BYTES.answer(text), END)
    return apply_strategy("reset", strategy, source, BYTES.vocabulary(RESET), seed=seed)


def starts(row: Row) -> list[str]:
    """Return the wrong starts as text."""
    found, begin = [], 0
    for at, letter in enumerate(row.provenance):
        if letter == "u":
            found.append(BYTES.decode(row.ids[begin:at]))
            begin = at + 1
    return found


def test_a_later_line_comes_first_and_all_is_written_again() -> None:
    seen = Counter(tuple(starts(reset(Reset(), seed=seed))) for seed in range(120))
    assert set(seen) == {(SECOND,), (f"{SECOND}\n{LAST}",), (LAST,)}
    row = reset(Reset())
    begin = row.provenance.index("u") + 1
    assert row.provenance == "e" * (begin - 1) + "u" + "k" * len(ANSWER) + "c"
    assert BYTES.decode(row.ids[begin:-1]) == ANSWER
    assert {start for seed in range(60) for start in starts(reset(Reset(max_lines=1), seed=seed))} == {SECOND, LAST}


def test_the_answer_up_to_a_place_and_random_tokens() -> None:
    places = set()
    for seed in range(80):
        row = reset(Reset(start="token", max_right=4, max_errors=2), seed=seed)
        wrong = row.ids[: row.provenance.index("u")]
        common = next(
            at for at, (left, right) in enumerate(zip(wrong, BYTES.encode(ANSWER), strict=False)) if left != right
        )
        places.add(common)
        assert 1 <= len(wrong) - common <= 2
    assert places == {0, 1, 2, 3, 4}


def test_answers_of_one_line_get_random_tokens_unless_lines_are_asked_for() -> None:
    assert reset(Reset(), "one line").provenance.count("u") == 1
    with pytest.raises(NoMistakeError, match="train-1: expected an answer with a later line"):
        reset(Reset(start="line"), "one line")
    with pytest.raises(NoMistakeError):
        reset(Reset(start="line"), "twice\ntwice")


def test_more_wrong_starts() -> None:
    counts = Counter(reset(Reset(rate=0.5), seed=seed).provenance.count("u") for seed in range(400))
    assert sorted(counts) == [1, 2, 3]
    assert abs(counts[1] - 200) < 50
    assert reset(Reset(rate=1, max_resets=5)).provenance.count("u") == 5


def test_options_must_make_sense() -> None:
    with pytest.raises(ConfigError) as caught:
        Reset("word", 0, -1, 0, 2.0, 0)  # type: ignore[arg-type]
    assert len(caught.value.mistakes) == 6
    with pytest.raises(ConfigError, match="pops all"):
        Reset().apply(BYTES.answer(ANSWER), BYTES.vocabulary(POP), random.Random(0))
    one = Vocabulary(BYTES.table(RESET), [ord("a")], BYTES.encode)
    with pytest.raises(ConfigError, match="two ordinary ids"):
        Reset(max_right=0).apply(BYTES.answer("a"), one, random.Random(0))
