"""A later line of the answer written too early and taken back, then the line that belongs there.

Every line but the last can be the place, and any line after it, up to `max_ahead` lines on, what comes too early; the
answer's final line counts. With `undo: line` the whole later line is written and one pop line takes it back. With
`undo: token` the mistake goes from the first token in which the two lines differ to the end of the later line and is
taken back token by token. `auto` is `line` where the undo table has pop line. The line that belongs there is marked as
correction, from where the mistake began. Lines that do not begin with an id of their own, and lines that are equal,
are left alone.
"""

from __future__ import annotations

import random
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
    lines_of,
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

    def __post_init__(self) -> None:
        check_options(self, shares=("rate",), at_least={"max_ahead": 1})

    @property
    def actions(self) -> tuple[ActionKind, ...]:
        return actions_of(self.undo)

    def apply(self, answer: Answer, context: Vocabulary, rng: random.Random) -> Augmented | None:
        unit, control = control_of("future_step", self.undo, context.table)
        ids, lines = answer.ids, lines_of(answer)

        def too_early(index: int) -> Edit | None:
            here = lines[index]
            later = lines[rng.randint(index + 1, min(index + self.max_ahead, len(lines) - 1))]
            errors = ids[later.begin : later.end]
            if unit == "line":
                return wrong_line(ids, here.begin, errors, here.end, (control,), context.table)
            edit = wrong_tokens(ids, here.begin, errors, here.end, control, context.table)
            # A line that goes on where this one ends is no mistake of this line.
            return edit if edit is not None and edit.place < here.end else None

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
