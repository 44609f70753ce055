"""Random ids at one random place, then one undo for each of them.

The place is uniform over the answer, before its first token to before its end token. The number of mistakes is uniform
over 0 to `max_errors`; 0 leaves the row as it is. The first mistake differs from the right token at that place; the
token after the undos is the correction. Needs a control token that pops one.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from unsay.augment import Answer, Augmented, Vocabulary
from unsay.errors import ConfigError
from unsay.records import CLEAN, CORRECTION, ERROR, UNDO
from unsay.undo import ActionKind


@dataclass(frozen=True)
class RandomTokens:
    """Options of the strategy."""

    max_errors: int = 9

    def __post_init__(self) -> None:
        if self.max_errors < 1:
            raise ConfigError(f"expected max_errors of 1 or more, got {self.max_errors}")

    @property
    def actions(self) -> tuple[ActionKind, ...]:
        return ("pop",)

    def apply(self, answer: Answer, context: Vocabulary, rng: random.Random) -> Augmented | None:
        undo_id = context.table.control("pop")
        if undo_id is None:
            raise ConfigError("random_tokens needs a control token that pops one; the undo table has none")
        num_errors = rng.randint(0, self.max_errors)
        place = rng.randint(0, len(answer.ids))
        if num_errors == 0:
            return None
        right = answer.ids[place] if place < len(answer.ids) else None
        errors = [_draw(context.sampleable, rng, other_than=right)]
        errors += [_draw(context.sampleable, rng) for _ in range(num_errors - 1)]
        rest = answer.ids[place:]
        return Augmented(
            ids=(*answer.ids[:place], *errors, *[undo_id] * num_errors, *rest),
            provenance=(
                CLEAN * place + ERROR * num_errors + UNDO * num_errors + CORRECTION * bool(rest) + CLEAN * len(rest[1:])
            ),
        )


def _draw(ids: Sequence[int], rng: random.Random, other_than: int | None = None) -> int:
    if all(id == other_than for id in ids):
        raise ConfigError("random_tokens needs at least two ordinary ids to draw from")
    while (id := rng.choice(ids)) == other_than:
        pass
    return id
