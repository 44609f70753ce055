"""Random ids at a random place, then one undo for each of them.

The place is uniform over the answer, before its first token to before its end token; `rate` is the chance of a mistake
at each of the other places. The number of mistakes is uniform over `min_errors` to `max_errors`, or with
`law: geometric` each number half as likely as the one before; 0 leaves the answer as it is. The first mistake differs
from the right token at that place; the token after the undos is the correction. With `depth` above 1 a mistake may,
with chance one half per level, hold another one that is taken back before the mistake goes on. Needs a control token
that pops one.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from unsay.augment import Answer, Augmented, Vocabulary
from unsay.augment._writing import Edit, assemble, check_options
from unsay.errors import ConfigError
from unsay.records import ERROR, UNDO
from unsay.undo import ActionKind

Law = Literal["uniform", "geometric"]


@dataclass(frozen=True)
class RandomTokens:
    """Options of the strategy."""

    max_errors: int = 9
    min_errors: int = 1
    law: Law = "uniform"
    rate: float = 0.0
    depth: int = 1

    def __post_init__(self) -> None:
        extra = []
        if self.law not in get_args(Law):
            extra.append(f"expected law to be {' or '.join(get_args(Law))}, got {self.law!r}")
        if self.min_errors > self.max_errors >= 1:
            extra.append(f"expected min_errors of at most max_errors ({self.max_errors}), got {self.min_errors}")
        check_options(self, shares=("rate",), at_least={"max_errors": 1, "min_errors": 0, "depth": 1}, extra=extra)

    @property
    def actions(self) -> tuple[ActionKind, ...]:
        return ("pop",)

    def apply(self, answer: Answer, context: Vocabulary, rng: random.Random) -> Augmented | None:
        pop = context.table.control("pop")
        if pop is None:
            raise ConfigError("random_tokens needs a control token that pops one; the undo table has none")
        ids = answer.ids
        num_errors = self._num_errors(rng)
        place = rng.randint(0, len(ids))
        edits = [self._edit(ids, place, num_errors, pop, context.sampleable, rng)] if num_errors else []
        if self.rate:
            for other in range(len(ids) + 1):
                if other != place and rng.random() < self.rate and (num_errors := self._num_errors(rng)):
                    edits.append(self._edit(ids, other, num_errors, pop, context.sampleable, rng))
            edits.sort(key=lambda edit: edit.place)
        return assemble(ids, edits)

    def _num_errors(self, rng: random.Random) -> int:
        if self.law == "uniform":
            return rng.randint(self.min_errors, self.max_errors)
        count = self.min_errors
        while count < self.max_errors and rng.random() < 0.5:
            count += 1
        return count

    def _edit(
        self, ids: Sequence[int], place: int, num_errors: int, pop: int, sampleable: Sequence[int], rng: random.Random
    ) -> Edit:
        right = ids[place] if place < len(ids) else None
        errors = [_draw(sampleable, rng, other_than=right)]
        errors += [_draw(sampleable, rng) for _ in range(num_errors - 1)]
        written, letters = self._nested(errors, self.depth, pop, sampleable, rng)
        return Edit(place, tuple(written), letters, min(place + 1, len(ids)))

    def _nested(
        self, errors: list[int], depth: int, pop: int, sampleable: Sequence[int], rng: random.Random
    ) -> tuple[list[int], str]:
        """Return a mistake with its undos, and perhaps with another one inside, between two of its ids."""
        inner: list[int] = []
        letters = ""
        at = 1
        if depth > 1 and len(errors) > 1 and rng.random() < 0.5:
            at = rng.randrange(1, len(errors))
            inside = [_draw(sampleable, rng) for _ in range(max(1, self._num_errors(rng)))]
            inner, letters = self._nested(inside, depth - 1, pop, sampleable, rng)
        size = len(errors)
        written = [*errors[:at], *inner, *errors[at:], *[pop] * size]
        return written, ERROR * at + letters + ERROR * (size - at) + UNDO * size


def _draw(ids: Sequence[int], rng: random.Random, other_than: int | None = None) -> int:
    if all(id == other_than for id in ids):
        raise ConfigError("random_tokens needs at least two ordinary ids to draw from")
    while (id := rng.choice(ids)) == other_than:
        pass
    return id
