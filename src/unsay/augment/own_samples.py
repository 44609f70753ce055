"""A wrong answer of the model itself, laid over the right one: what it wrote too much is written, and taken back.

One of the row's candidates whose final answer is wrong is drawn; candidates that are correct, or that
nobody has judged, are passed over. The
longest common subsequence of the two answers shows what the model wrote that the right answer has not: all of it is
kept as mistakes, each in its place, up to `max_errors_per_answer`. What it left out is written as the correction. With
`undo: token` a mistake begins with the first token that differs from the right one, and is cut after `max_span` tokens;
with `undo: line` the answers are compared line by line, whole lines are written, and one pop line per line takes them
back. `auto` is `line` where the undo table has pop line.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from unsay.augment import Answer, Augmented, Vocabulary
from unsay.augment._candidates import drawn, first_edits
from unsay.augment._writing import Unit, actions_of, assemble, check_options, choose, control_of
from unsay.undo import ActionKind


@dataclass(frozen=True)
class OwnSamples:
    """Options of the strategy. `candidates` is a file of the model's own answers, with a verdict on each."""

    candidates: Path | None = None
    undo: Unit = "auto"
    max_span: int = 128
    min_errors_per_answer: int = 1
    max_errors_per_answer: int = 16

    def __post_init__(self) -> None:
        missing = [
            "own_samples needs `candidates:`, a file of the model's answers; `unsay data build --sample` makes one"
        ]
        check_options(self, at_least={"max_span": 1}, extra=missing if self.candidates is None else ())

    @property
    def actions(self) -> tuple[ActionKind, ...]:
        return actions_of(self.undo)

    def apply(self, answer: Answer, context: Vocabulary, rng: random.Random) -> Augmented | None:
        undo = control_of("own_samples", self.undo, context.table)
        wrong = [each.ids for each in answer.candidates if each.correct is False and each.ids != answer.ids]
        unjudged = sum(each.correct is None for each in answer.candidates)
        useless = f"of them correct or judged by nobody ({unjudged} by nobody)" if unjudged else "of them correct"
        wanted = "a wrong answer of the model to this question"
        tried = drawn(answer, wrong, self, rng, wanted=wanted, useless=useless)
        edits = first_edits(answer, tried, undo, context, self)
        chosen = choose(
            len(edits),
            edits.__getitem__,
            rate=1.0,
            least=self.min_errors_per_answer,
            most=self.max_errors_per_answer,
            rng=rng,
            missing=f"none in {len(tried)} wrong answer(s)",
        )
        return assemble(answer.ids, chosen)
