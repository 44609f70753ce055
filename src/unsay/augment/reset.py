"""A wrong start of the answer, one pop all, and the answer from its beginning.

With `start: line` the wrong start is one to `max_lines` lines of the answer from a later one on, as of someone who has
skipped the first steps. With `start: token` it is the answer up to a random place, at most `max_right` tokens on, and
one to `max_errors` random tokens there, the first of them other than the right one. `auto` is `line` where the answer
has two lines. `rate` is the chance that one more wrong start follows, up to `max_resets`. All of a wrong start is
marked as mistake, right tokens in it, too: they are taken back with the rest; and all of the answer after it as
correction. Needs a control token that pops all.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from unsay.augment import Answer, Augmented, NoMistakeError, Vocabulary
from unsay.augment._writing import Edit, Line, assemble, check_options, lines_of
from unsay.errors import ConfigError
from unsay.records import ERROR, UNDO
from unsay.undo import ActionKind

Start = Literal["auto", "line", "token"]


@dataclass(frozen=True)
class Reset:
    """Options of the strategy."""

    start: Start = "auto"
    max_lines: int = 3
    max_right: int = 32
    max_errors: int = 9
    rate: float = 0.0
    max_resets: int = 3

    def __post_init__(self) -> None:
        wrong = f"expected start to be {', '.join(get_args(Start))}, got {self.start!r}"
        check_options(
            self,
            shares=("rate",),
            at_least={"max_lines": 1, "max_right": 0, "max_errors": 1, "max_resets": 1},
            extra=() if self.start in get_args(Start) else (wrong,),
        )

    @property
    def actions(self) -> tuple[ActionKind, ...]:
        return ("pop_all",)

    def apply(self, answer: Answer, context: Vocabulary, rng: random.Random) -> Augmented | None:
        reset = context.table.control("pop_all")
        if reset is None:
            raise ConfigError("reset needs a control token that pops all; the undo table has none")
        lines = lines_of(answer) if self.start != "token" else []
        by_line = [line for line in lines if line.begin > 0 and not _begins(answer.ids, line)]
        if self.start == "line" and not by_line:
            raise NoMistakeError("expected an answer with a later line to start with, got one without")
        written: list[int] = []
        letters = ""
        starts = 1
        while starts < self.max_resets and rng.random() < self.rate:
            starts += 1
        for _ in range(starts):
            start = self._later_lines(answer.ids, by_line, rng) if by_line else self._random(answer, context, rng)
            written += [*start, reset]
            letters += ERROR * len(start) + UNDO
        return assemble(answer.ids, [Edit(0, tuple(written), letters, len(answer.ids))])

    def _later_lines(self, ids: Sequence[int], lines: Sequence[Line], rng: random.Random) -> Sequence[int]:
        first = rng.randrange(len(lines))
        last = min(first + rng.randint(1, self.max_lines), len(lines)) - 1
        return ids[lines[first].begin : lines[last].end]

    def _random(self, answer: Answer, context: Vocabulary, rng: random.Random) -> Sequence[int]:
        place = rng.randint(0, min(self.max_right, len(answer.ids)))
        right = answer.ids[place] if place < len(answer.ids) else None
        others = [id for id in rng.choices(context.sampleable, k=8) if id != right]
        others = others or [id for id in context.sampleable if id != right]
        if not others:
            raise ConfigError("reset needs at least two ordinary ids to draw from")
        more = rng.choices(context.sampleable, k=rng.randint(1, self.max_errors) - 1)
        return (*answer.ids[:place], others[0], *more)


def _begins(ids: Sequence[int], line: Line) -> bool:
    """Say whether the answer begins with the very tokens of this line."""
    return ids[: line.end - line.begin] == ids[line.begin : line.end]
