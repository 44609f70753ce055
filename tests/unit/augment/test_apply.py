"""What `unsay.augment` itself promises: places in the text, random state, refusals that name the row."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

import pytest

from tests.encodings import BYTES, END, MERGED, POP, Encoding
from unsay.augment import Answer, Augmented, Source, Vocabulary, apply_strategy, derive_rng, load
from unsay.errors import ConfigError, UndoError
from unsay.undo import ActionKind


@dataclass(frozen=True)
class Fixed:
    """A strategy that always gives the same."""

    ids: tuple[int, ...] | None
    provenance: str = ""
    fails: bool = False
    actions: ClassVar[tuple[ActionKind, ...]] = ("pop",)

    def apply(self, answer: Answer, context: Vocabulary, rng: random.Random) -> Augmented | None:
        if self.fails:
            raise UndoError("this answer cannot be used")
        return None if self.ids is None else Augmented(self.ids, self.provenance)


def build(strategy: Fixed, text: str = "ab", encoding: Encoding = BYTES) -> tuple[tuple[int, ...], str]:
    source = Source("train-5", (1,), encoding.answer(text), END)
    row = apply_strategy("fixed", strategy, source, encoding.vocabulary(), seed=0)
    assert (row.id, row.prompt_ids) == ("train-5", (1,))
    return row.ids, row.provenance


def test_none_leaves_the_row_clean() -> None:
    assert build(Fixed(None)) == ((97, 98, END), "ccc")


def test_the_end_token_is_added() -> None:
    assert build(Fixed((97, 99, POP, 98), "ceuk")) == ((97, 99, POP, 98, END), "ceukc")


def test_the_end_token_right_after_an_undo_is_the_correction() -> None:
    assert build(Fixed((97, 98, 99, POP), "cceu")) == ((97, 98, 99, POP, END), "cceuk")


@pytest.mark.parametrize(
    ("strategy", "reason"),
    [
        (Fixed((97, 99), "cc"), "clean answer"),
        (Fixed((POP, 97, 98), "ukc"), "nothing left to take"),
        (Fixed((97, 97, POP, 98), "ceuk"), None),
        (Fixed((97, 98, POP, 98), "ceuk"), "to differ from the right one"),
        (Fixed((97, 98, END), "ccc"), "one end token"),
        (Fixed(None, fails=True), "this answer cannot be used"),
    ],
)
def test_refusals_name_the_row(strategy: Fixed, reason: str | None) -> None:
    if reason is None:
        build(strategy)
        return
    with pytest.raises(UndoError, match=f"train-5: .*{reason}"):
        build(strategy)


def test_random_states_differ_by_seed_row_and_purpose() -> None:
    states = [derive_rng(*key).random() for key in [(1, "a", "x"), (2, "a", "x"), (1, "b", "x"), (1, "a", "y")]]
    assert len(set(states)) == 4
    assert derive_rng(1, "a", "x").random() == states[0]
    assert derive_rng(1, "2a", "x").random() != derive_rng(12, "a", "x").random()


def test_random_state_is_pinned() -> None:
    """Another number here means that no training data made before can be made again."""
    assert derive_rng(0, "train-0", "random_tokens").randrange(10**9) == 121470357


def test_places_in_the_text() -> None:
    answer = MERGED.answer("é.\n24")  # two bytes of one character, one piece, one piece
    assert [answer.boundary(place) for place in range(6)] == [0, 2, None, 3, None, 4]
    assert [answer.reach(place) for place in range(6)] == [0, 2, 3, 3, 4, 4]


def test_an_answer_without_its_offsets_is_refused() -> None:
    with pytest.raises(UndoError, match="one pair of offsets per id"):
        Answer((1, 2), ((0, 1),), "ab")


def test_load() -> None:
    assert load("random_tokens", {"max_errors": 3}) == load("random_tokens", {"max_errors": 3})
    with pytest.raises(ConfigError, match="random_tokens"):
        load("random_token")
    with pytest.raises(ConfigError, match="max_errors"):
        load("random_tokens", {"max_error": 3})
