"""Strategies that give a plain answer mistakes and the tokens that take them back: one file per strategy.

A strategy is one frozen dataclass, the only public one of its file; its fields are its options. It has

    actions: tuple[ActionKind, ...]      what its control tokens must do; a tokenizer without them is given them
    def apply(self, answer: Answer, context: Vocabulary, rng: random.Random) -> Augmented | None

and works on ids alone: no tokenizer, no files, no random state but `rng`. It returns the trace without its end token,
with one provenance letter per id (`c` clean, `e` taken back later, `u` undo, `k` the correction after an undo), or None
to leave the answer as it is. It raises ConfigError when its options do not fit the undo table, whatever the row,
UndoError for a row it must refuse, and NoMistakeError where the answer offers it nothing to get wrong. One that learns
from other answers to the same question has an option `candidates`, the file they come from; whoever builds rows reads
it and hands them over as `Answer.candidates`.

    strategy = load("random_tokens", {"max_errors": 5})
    row = apply_strategy("random_tokens", strategy, source, vocabulary, seed=0)

`apply_strategy` is the only caller of `apply`: it derives the random state, adds the end token and refuses, with the
row id, every trace that breaks a rule of `unsay.undo.check_row`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from unsay import catalog
from unsay.errors import ConfigError, UndoError
from unsay.records import CLEAN, CORRECTION, UNDO, Row
from unsay.undo import ActionKind, UndoTable, check_row


@dataclass(frozen=True)
class Candidate:
    """Another answer to a question, on ids without end token; `correct` None where nobody has judged it."""

    ids: tuple[int, ...]
    correct: bool | None = None


@dataclass(frozen=True)
class Answer:
    """A gold answer on ids, without end token. `offsets[i]` are the start and end character of `ids[i]` in `text`.

    Ids that share one character (bytes of it) have the same offsets; offsets never go back. `candidates` are other
    answers to the same question, for strategies that ask for them.
    """

    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    text: str
    candidates: tuple[Candidate, ...] = ()

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.offsets):
            raise UndoError(f"expected one pair of offsets per id, got {len(self.offsets)} for {len(self.ids)} ids")

    def boundary(self, place: int) -> int | None:
        """Count the ids before the character at `place`, or return None when an id lies across that place."""
        count = bisect_left(self.offsets, place, key=lambda offset: offset[0])
        return count if count == 0 or self.offsets[count - 1][1] <= place else None

    def reach(self, place: int) -> int:
        """Count the ids that begin before the character at `place`."""
        return bisect_left(self.offsets, place, key=lambda offset: offset[0])


@dataclass(frozen=True)
class Vocabulary:
    """What a strategy may use of a tokenizer.

    `sampleable` are ordinary ids for random tokens, without special or control tokens. `encode` turns plain text into
    ids without adding any; it must be the encoding that made `Answer.ids`. `lines_apart` says that nothing before a
    line changes its ids, as long as it does not begin with white space: a line can then be encoded alone.
    """

    table: UndoTable
    sampleable: Sequence[int]
    encode: Callable[[str], tuple[int, ...]]
    lines_apart: bool = False

    @cached_property
    def line_break(self) -> tuple[int, ...]:
        """The ids of a line break alone."""
        return self.encode("\n")


@dataclass(frozen=True)
class Augmented:
    """A trace without its end token, one provenance letter per id."""

    ids: tuple[int, ...]
    provenance: str


@dataclass(frozen=True)
class Source:
    """One training example on ids, before anything is done to it."""

    id: str
    prompt_ids: tuple[int, ...]
    answer: Answer
    end_id: int

    def plain(self) -> Row:
        """Return the row without any mistake."""
        ids = (*self.answer.ids, self.end_id)
        return Row(self.id, self.prompt_ids, ids, CLEAN * len(ids))


class NoMistakeError(UndoError):
    """An answer in which a strategy finds no place for the mistakes it must make."""


class Strategy(Protocol):
    """What every file of this folder provides."""

    @property
    def actions(self) -> tuple[ActionKind, ...]: ...

    def apply(self, answer: Answer, context: Vocabulary, rng: random.Random) -> Augmented | None: ...


def load(name: str, options: Mapping[str, Any] | None = None) -> Strategy:
    """Return the strategy of that name with these options; raise ConfigError for an unknown name or option."""
    kind: Any = catalog.plugin("augment", name)
    options = options or {}
    fields = [field.name for field in dataclasses.fields(kind)]
    if mistakes := [catalog.unknown(f"option of {name}", option, fields) for option in options if option not in fields]:
        raise ConfigError(mistakes)
    strategy: Strategy = kind(**options)
    return strategy


def derive_rng(seed: int, row_id: str, purpose: str) -> random.Random:
    """Return the random state of one row: the same whatever the order of rows or the number of processes."""
    parts = (str(seed), row_id, purpose)
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return random.Random(int.from_bytes(hashlib.sha256(text.encode()).digest(), "big"))


def apply_strategy(name: str, strategy: Strategy, source: Source, vocabulary: Vocabulary, *, seed: int) -> Row:
    """Return the row with mistakes, or the plain row when the strategy leaves it clean.

    Raise UndoError, naming the row, for every trace that may not be trained on.
    """
    try:
        augmented = strategy.apply(source.answer, vocabulary, derive_rng(seed, source.id, name))
    except UndoError as error:
        raise type(error)(f"row {source.id}: {error}") from error
    if augmented is None:
        row = source.plain()
    else:
        ids = (*augmented.ids, source.end_id)
        # An undo just before the end makes the end token itself the correction.
        end = CORRECTION if augmented.provenance.endswith(UNDO) else CLEAN
        row = Row(source.id, source.prompt_ids, ids, augmented.provenance + end)
    check_row(row, source.answer.ids, vocabulary.table, {source.end_id})
    return row
