"""Wrong spans of another answer to the same question, written where it departs from the right one, and taken back.

Another answer is drawn from the row's candidates; the longest common subsequence of the two shows where it departs. At
each such place what the other answer has there is written with chance `rate`, then taken back. With `undo: token` it
goes from the first token that differs from the right one, and is cut after `max_span` tokens; with `undo: line` both
answers are compared line by line, whole lines are written, and one pop line per line takes them back. `auto` is `line`
where the undo table has pop line. What the right answer has instead is marked as correction. A candidate's final answer
may be right or wrong: only its difference counts. Candidates that are the right answer word for word are passed over.
With `depth` above 1 a mistake may, with chance one half per level, hold what another answer has elsewhere, which is
taken back token by token before the mistake goes on.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unsay.augment import Answer, Augmented, Vocabulary
from unsay.augment._candidates import departures, drawn, first_edits
from unsay.augment._writing import (
    Edit,
    Unit,
    actions_of,
    assemble,
    check_options,
    choose,
    control_of,
    holds_control,
    inner_pop,
    nest,
)
from unsay.undo import ActionKind


@dataclass(frozen=True)
class Splice:
    """Options of the strategy. `candidates` is a file of other answers; `rate` is the chance per departure."""

    candidates: Path | None = None
    rate: float = 0.3
    undo: Unit = "auto"
    max_span: int = 128
    min_errors_per_answer: int = 1
    max_errors_per_answer: int = 3
    depth: int = 1

    def __post_init__(self) -> None:
        missing = ["splice needs `candidates:`, a file of other answers; `unsay data build --sample` makes one"]
        check_options(
            self,
            shares=("rate",),
            at_least={"max_span": 1, "depth": 1},
            extra=missing if self.candidates is None else (),
        )

    @property
    def actions(self) -> tuple[ActionKind, ...]:
        return actions_of(self.undo, self.depth)

    def apply(self, answer: Answer, context: Vocabulary, rng: random.Random) -> Augmented | None:
        undo = control_of("splice", self.undo, context.table)
        pop = inner_pop("splice", self.depth, context.table)
        others = drawn(
            answer,
            [each.ids for each in answer.candidates if each.ids != answer.ids],
            self,
            rng,
            wanted="another answer to this question among the candidates",
            useless="the same as the right one",
        )
        edits = first_edits(answer, others, undo, context, self)

        def from_elsewhere(errors: Sequence[int]) -> tuple[int, Sequence[int]] | None:
            found = departures(answer.ids, rng.choice(others))
            ids = rng.choice(found).errors[: self.max_span] if found else ()
            return None if holds_control(ids, context.table) else (rng.randrange(1, len(errors)), ids)

        def edit_at(index: int) -> Edit:
            edit = edits[index]
            return edit if pop is None else nest(edit, answer.ids, from_elsewhere, self.depth, pop, rng)

        chosen = choose(
            len(edits),
            edit_at,
            rate=self.rate,
            least=self.min_errors_per_answer,
            most=self.max_errors_per_answer,
            rng=rng,
            missing=f"none in {len(others)} other answer(s)",
        )
        return assemble(answer.ids, chosen)
