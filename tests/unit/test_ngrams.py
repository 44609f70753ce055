"""Counting many pairs at once must equal counting each with a Counter and a set."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unsay.ngrams import CHARACTERS_AT_ONCE, PAIRS_AT_ONCE, Remembered, Words, batches, clipped_matches, different

TEXTS = st.one_of(
    st.text(alphabet="ab", max_size=12),
    st.text(alphabet="\0\x01ab\U0010ffff", max_size=8),
    st.text(st.characters(), max_size=20),
)
PAIRS = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6)


def grams(text: str, order: int) -> Counter[str]:
    return Counter(text[at : at + order] for at in range(len(text) - order + 1))


@settings(max_examples=200, deadline=None)
@given(PAIRS)
def test_clipped_matches(pairs: list[tuple[str, str]]) -> None:
    expected = [[(grams(a, order) & grams(b, order)).total() for order in (1, 2, 3, 4)] for a, b in pairs]
    assert clipped_matches(pairs).tolist() == expected


@settings(max_examples=200, deadline=None)
@given(PAIRS)
def test_different(pairs: list[tuple[str, str]]) -> None:
    texts = [text.replace("\0", "") for pair in pairs for text in pair]
    expected = []
    for a, b in zip(texts[::2], texts[1::2], strict=True):
        sets = [(set(a), set(b)), (set(pairwise(a)), set(pairwise(b)))]
        expected.append([[len(ours), len(theirs), len(ours & theirs)] for ours, theirs in sets])
    assert different(texts).tolist() == expected


def test_batches_keep_the_order_and_stay_small() -> None:
    long = "x" * (CHARACTERS_AT_ONCE + 1)
    pairs = [("a", str(i)) for i in range(PAIRS_AT_ONCE + 3)] + [(long, "b"), ("c", "d")]
    made = list(batches(pairs))
    assert [pair for batch in made for pair in batch] == pairs
    assert [len(batch) for batch in made] == [PAIRS_AT_ONCE, 3, 1, 1]
    assert list(batches([])) == []


def test_words_get_characters_that_can_be_encoded() -> None:
    words = Words()
    given_out = [words[str(number)] for number in range(60_000)]
    assert len(set(given_out)) == 60_000
    assert "\0" not in given_out
    "".join(given_out).encode("utf-32-le")
    assert words["7"] == given_out[7]


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unsay.ngrams.REMEMBERED", 10)
    made: list[str] = []
    remembered = Remembered(lambda text: made.append(text) or text.upper())
    assert [remembered[text] for text in ("a", "a", "b" * 65, "b" * 65)] == ["A", "A", "B" * 65, "B" * 65]
    assert made == ["a", "b" * 65, "b" * 65]
    for number in range(100):
        assert remembered[str(number)] == str(number)
        assert len(remembered) <= 10
