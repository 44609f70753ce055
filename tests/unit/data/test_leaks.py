"""What counts as evaluated on: whole texts, and 13 words in a row."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.encodings import gsm8k
from unsay.data.leaks import WORDS_IN_A_ROW, Leaks
from unsay.records import Example

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen"


def found(question: str, answer: str = "72", *, against: Example, in_a_row: bool = True) -> str | None:
    return Leaks([against], in_a_row=in_a_row).found(Example("train-1", question, answer))


@pytest.mark.parametrize(
    ("question", "answer", "expected"),
    [
        ("how MANY clips?", "x", "the question of item t"),
        (f"Well, {LONG}!", "x", f"13 words in a row of the question of item t: '{LONG}'"),
        (f"a b c {LONG.upper().replace(' ', ' - ')} d", "x", "13 words in a row of the question"),
        (LONG.removesuffix(" thirteen"), "x", None),
        (LONG.replace("seven", "7"), "x", None),
        ("other", LONG, None),  # in an answer, what is a question there
        ("other", f"so {LONG.replace('one', 'un')} and", "13 words in a row of the answer of item t"),
        ("", "", None),
    ],
)
def test_what_is_found(question: str, answer: str, expected: str | None) -> None:
    evaluation = Example(
        "t", "How many  clips?" if "clips" in question else f"Tell me: {LONG}.", LONG.replace("one", "un")
    )
    got = found(question, answer, against=evaluation)
    assert got == expected if expected is None else (got or "").startswith(expected)


def test_whole_texts_only() -> None:
    evaluation = Example("t", f"Tell me: {LONG}.", "")
    assert found(f"Well, {LONG}!", against=evaluation, in_a_row=False) is None
    assert found(f"tell me:  {LONG}.", against=evaluation, in_a_row=False) == "the question of item t"


def test_what_was_found_earlier_counts() -> None:
    leaks = Leaks()
    leaks.remember({"train-1": "the question of item test-1"})
    assert leaks.found(Example("train-1", "Anything?", "1")) == "the question of item test-1"
    assert leaks.found(Example("train-2", "Anything?", "1")) is None


def test_a_short_answer_that_many_share_is_no_leak() -> None:
    assert found("another question", "#### 72", against=Example("t", "a question", "#### 72")) is None


words = st.lists(st.sampled_from(["a", "b", "7"]), max_size=40)


@given(words, words)
def test_probing_finds_what_comparing_every_run_finds(train: list[str], test: list[str]) -> None:
    def runs(of: list[str]) -> set[tuple[str, ...]]:
        return {tuple(of[at : at + WORDS_IN_A_ROW]) for at in range(len(of) - WORDS_IN_A_ROW + 1)}

    example = Example("t", "q", " ".join(test))
    hit = Leaks([example]).found(Example("x", "other", ", ".join(train)))
    assert (hit is not None) == bool(runs(train) & runs(test))


def test_gsm8k_has_ten() -> None:
    train, test = (
        [Example(f"{split}/{at}", line["question"], line["answer"]) for at, line in enumerate(gsm8k(split))]
        for split in ("train", "test")
    )
    leaks = Leaks(test)
    hits = {example.id: hit for example in train if (hit := leaks.found(example))}
    assert len(hits) == 10
    assert all(
        re.match(r"13 words in a row of the (question|answer) of item test/\d+: '", hit) for hit in hits.values()
    )
