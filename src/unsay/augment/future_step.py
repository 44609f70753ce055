"""A later line of the answer written too early and taken back, then the line that belongs there.

Every line but the last can be the place, and any line after it, up to `max_ahead` lines on, what comes too early; the
answer's final line counts. With `undo: line` the whole later line is written and one pop line takes it back. With
`undo: token` the mistake goes from the first token in which the two lines differ to the end of the later line and is
taken back token by token. `auto` is `line` where the undo table has pop line. The line that belongs there is marked as
correction, from where the mistake began. Lines that do not begin with an id of their own, and lines that are equal,
are left alone. With `depth` above 1 the beginning of one more later line may, with chance one half per level, stand in
the middle of the one that comes too early; it is taken back token by token.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from unsay.augment import Answer, Augmented, Vocabulary
from unsay.augment._writing import (
    Edit,
    Unit,
    actions_of,
    assemble,
    check_options,
    choose,
    control_of,
    inner_pop,
    lines_of,
    nest,
    wrong_line,
    wrong_tokens,
)
from unsay.undo import ActionKind


@dataclass(frozen=True)
class FutureStep:
    """Options of the strategy. `rate` is the chance per line, but one is always done."""

    rate: float = 0.3
    undo: Unit = "auto"
    max_ahead: int = 9
    min_errors_per_answer: int = 1
    max_errors_per_answer: int = 3
    depth: int = 1

    def __post_init__(self) -> None:
        check_options(self, shares=("rate",), at_least={"max_ahead": 1, "depth": 1})

    @property
    def actions(self) -> tuple[ActionKind, ...]:
        return actions_of(self.undo, self.depth)

    def apply(self, answer: Answer, context: Vocabulary, rng: random.Random) -> Augmented | None:
        unit, control = control_of("future_step", self.undo, context.table)
        pop = inner_pop("future_step", self.depth, context.table)
        ids, lines = answer.ids, lines_of(answer)

        def later_than(index: int) -> tuple[int, ...]:
            later = lines[rng.randint(index + 1, min(index + self.max_ahead, len(lines) - 1))]
            return ids[later.begin : later.end]

        def too_early(index: int) -> Edit | None:
            here, errors = lines[index], later_than(index)
            if unit == "line":
                edit = wrong_line(ids, here.begin, errors, here.end, (control,), context.table)
            else:
                edit = wrong_tokens(ids, here.begin, errors, here.end, control, context.table)
                # A line that goes on where this one ends is no mistake of this line.
                edit = edit if edit is not None and edit.place < here.end else None
            if edit is None or pop is None:
                return edit

            def one_more(errors: Sequence[int]) -> tuple[int, Sequence[int]]:
                at, line = rng.randrange(1, len(errors)), later_than(index)
                return at, line[: rng.randint(1, len(line))]

            return nest(edit, ids, one_more, self.depth, pop, rng)

        edits = choose(
            max(len(lines) - 1, 0),
            too_early,
            rate=self.rate,
            least=self.min_errors_per_answer,
            most=self.max_errors_per_answer,
            rng=rng,
            missing="an answer without two different lines that begin with ids of their own",
        )
        return assemble(ids, edits)
