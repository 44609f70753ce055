"""Wrong spans of another answer to the same question, written where it departs from the right one, and taken back.

Another answer is drawn from the row's candidates; the longest common subsequence of the two shows where it departs. At
each such place what the other answer has there is written with chance `rate`, then taken back. With `undo: token` it
goes from the first token that differs from the right one, and is cut after `max_span` tokens; with `undo: line` both
answers are compared line by line, whole lines are written, and one pop line per line takes them back. `auto` is `line`
where the undo table has pop line. What the right answer has instead is marked as correction. A candidate's final answer
may be right or wrong: only its difference counts. Candidates that are the right answer word for word are passed over.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from unsay.augment import Answer, Augmented, NoMistakeError, Vocabulary
from unsay.augment._candidates import edits_of
from unsay.augment._writing import Unit, actions_of, assemble, check_options, choose, control_of
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

    def __post_init__(self) -> None:
        missing = ["splice needs `candidates:`, a file of other answers; `unsay data build --sample` makes one"]
        check_options(
            self,
            shares=("rate",),
            at_least={"max_span": 1},
            extra=missing if self.candidates is None else (),
        )

    @property
    def actions(self) -> tuple[ActionKind, ...]:
        return actions_of(self.undo)

    def apply(self, answer: Answer, context: Vocabulary, rng: random.Random) -> Augmented | None:
        unit, control = control_of("splice", self.undo, context.table)
        others = [candidate.ids for candidate in answer.candidates if candidate.ids != answer.ids]
        rng.shuffle(others)
        if not others and self.min_errors_per_answer:
            raise NoMistakeError(f"expected another answer to this question among the candidates, got {_got(answer)}")
        # The first that can be used: one may differ only where nothing can be taken back.
        for other in others:
            edits = edits_of(answer, other, unit, control, context, self.max_span)
            if edits and len(edits) >= self.min_errors_per_answer:
                break
        else:
            edits = []
        chosen = choose(
            len(edits),
            edits.__getitem__,
            rate=self.rate,
            least=self.min_errors_per_answer,
            most=self.max_errors_per_answer,
            rng=rng,
            missing=f"none in {len(others)} other answer(s)",
        )
        return assemble(answer.ids, chosen)


def _got(answer: Answer) -> str:
    return f"{len(answer.candidates)}, all the same as the right one" if answer.candidates else "none"
