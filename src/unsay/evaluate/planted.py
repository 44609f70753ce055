"""Answers that begin with a mistake: the gold answer up to and with one wrong unit of a strategy's kind.

What the model does next shows whether it notices, and whether it recovers. The mistake is written as that strategy
writes it into training rows, in the same unit (a line, or tokens), at a place drawn from the run's seed and the item
alone; so every model and decoding of a seed is given the same mistakes. The twin of an answer begins with the right
tokens up to the end of the same unit.

    plant = Plant(decode, opened, seed=0)
    plant.beginning(key, "2 + 2 = <<2+2=4>>4\\n#### 4")
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from unsay import catalog
from unsay.augment import Answer, NoMistakeError, Strategy, Vocabulary, derive_rng, load
from unsay.errors import ConfigError, DataError, EvaluationError, UndoError
from unsay.evaluate.setup import Opened
from unsay.records import CORRECTION, ERROR, UNDO, Beginning
from unsay.settings import Decode

ONE: dict[str, Any] = {"rate": 0.0, "min_errors_per_answer": 1, "max_errors_per_answer": 1}
"""Options, of the strategies that have them, with which exactly one mistake is made, at a place drawn at random."""


@dataclass(frozen=True)
class Begun:
    """The ids that an answer is given, and what they are."""

    ids: tuple[int, ...]
    beginning: Beginning


class Plant:
    """Makes the beginnings of one evaluation. Raises EvaluationError where its model cannot be given any."""

    def __init__(self, decode: Decode, opened: Opened, *, seed: int) -> None:
        assert decode.plant is not None
        if opened.backend is not None:
            raise EvaluationError(
                f"plant: {decode.plant} needs this package's own engine, got a model behind a server; evaluate it "
                "without `backend:`"
            )
        if not opened.table:
            raise EvaluationError(
                f"plant: {decode.plant} writes mistakes in the unit that an undo takes back, but this model has no "
                "undo token; use one that was trained with undo, as with config lora/train_bt"
            )
        self._name, self._twin, self._seed = decode.plant, decode.plant_twin, seed
        kind = catalog.plugin("augment", decode.plant)
        fields = {field.name for field in dataclasses.fields(kind)}
        try:
            self._strategy: Strategy = load(decode.plant, {key: ONE[key] for key in ONE if key in fields})
        except (ConfigError, TypeError) as error:
            raise EvaluationError(
                f"plant: {decode.plant} cannot be used without options of its own: {error}"
            ) from error
        prompter = opened.prompter
        self._vocabulary = Vocabulary(opened.table, prompter.ordinary_ids, prompter.encode_text, prompter.lines_apart)
        self._encode = prompter.encode_answer

    def beginning(self, item: str, gold: str) -> Begun | None:
        """Return what an item's answer begins with; None where its gold answer offers no place for a mistake."""
        try:
            answer = Answer(*self._encode(gold), gold)
            made = self._strategy.apply(answer, self._vocabulary, derive_rng(self._seed, item, f"plant {self._name}"))
        except NoMistakeError:
            return None
        except ConfigError as error:
            raise EvaluationError(f"plant: {self._name} does not fit this model: {error}") from error
        except (DataError, UndoError):
            return None
        if made is None or ERROR not in made.provenance:
            return None
        place = made.provenance.index(ERROR)
        end = made.provenance.index(UNDO, place)
        ids = made.ids[:end]
        if self._twin:
            redone = end + len(made.provenance[end:]) - len(made.provenance[end:].lstrip(UNDO))
            right = len(made.provenance[redone:]) - len(made.provenance[redone:].lstrip(CORRECTION))
            ids = (*made.ids[:place], *made.ids[redone : redone + right])
        return Begun(ids, Beginning(len(ids), place, self._twin))
