"""Planted mistakes: one wrong unit of a strategy's kind, the same for every decoding, and its clean twin."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import unsay
from unsay.backend import Backend
from unsay.datasets.wordproblems import generate
from unsay.definitions import Model
from unsay.errors import EvaluationError
from unsay.evaluate.planted import Begun, Plant
from unsay.evaluate.setup import Opened, open_model
from unsay.metrics.steps import found
from unsay.settings import Decode
from unsay.undo import EMPTY, resolve

BUNDLED = Path(unsay.__file__).parent / "assets" / "unsay-tiny"
GOLDS = [record["answer"] for record in generate("test", 40)]


@pytest.fixture(scope="module")
def opened() -> Opened:
    return open_model(Model("tiny", str(BUNDLED)), device="cpu")


def begun(opened: Opened, strategy: str = "arithmetic_slip", *, twin: bool = False, seed: int = 0) -> list[Begun]:
    plant = Plant(Decode(plant=strategy, plant_twin=twin), opened, seed=seed)
    made = [plant.beginning(str(at), gold) for at, gold in enumerate(GOLDS)]
    assert None not in made
    return [each for each in made if each is not None]


@pytest.mark.parametrize("strategy", ["arithmetic_slip", "future_step", "random_tokens"])
def test_an_answer_begins_rightly_and_goes_wrong_at_the_place(opened: Opened, strategy: str) -> None:
    twins = begun(opened, strategy, twin=True)
    for gold, one, twin in zip(GOLDS, begun(opened, strategy), twins, strict=True):
        right, _ = opened.prompter.encode_answer(gold)
        place = one.beginning.place
        assert one.ids[:place] == right[:place]
        assert one.ids[place:] != right[place : len(one.ids)]
        assert one.beginning.given == len(one.ids) > place
        assert not opened.table.actions.keys() & set(one.ids)
        assert twin.beginning.twin
        assert (twin.beginning.place, twin.beginning.given) == (place, len(twin.ids))
        assert twin.ids == right[: len(twin.ids)]
        assert len(twin.ids) > place or strategy == "random_tokens"


def test_a_slip_is_one_wrong_step_and_an_undo_of_its_line_takes_back_just_that(opened: Opened) -> None:
    line = opened.table.control("pop_line")
    assert line is not None
    for one in begun(opened):
        verdicts = [is_right for _, is_right in found(opened.prompter.text_of(one.ids))]
        assert verdicts == [True] * (len(verdicts) - 1) + [False]
        assert resolve((*one.ids, line), opened.table).visible_ids == one.ids[: one.beginning.place]
    assert len({one.beginning.place for one in begun(opened)}) > 5


def test_the_mistakes_are_a_function_of_seed_and_item(opened: Opened) -> None:
    assert begun(opened) == begun(opened)
    assert begun(opened) != begun(opened, seed=1)
    plant = Plant(Decode(plant="arithmetic_slip"), opened, seed=0)
    assert plant.beginning("7", GOLDS[7]) == begun(opened)[7]
    rewinding = Plant(Decode(plant="arithmetic_slip", undo_context="rewind", undo="ban"), opened, seed=0)
    assert rewinding.beginning("7", GOLDS[7]) == begun(opened)[7]


def test_an_answer_without_a_place_for_a_mistake_is_given_nothing(opened: Opened) -> None:
    plant = Plant(Decode(plant="arithmetic_slip"), opened, seed=0)
    assert plant.beginning("0", "I do not know.\n#### 4") is None
    assert plant.beginning("0", "<|BACKTRACK|>") is None


def test_what_cannot_be_planted_is_said(opened: Opened) -> None:
    with pytest.raises(EvaluationError, match="has no undo token"):
        Plant(Decode(plant="arithmetic_slip"), replace(opened, table=EMPTY), seed=0)
    with pytest.raises(EvaluationError, match="own_samples cannot be used without options of its own"):
        Plant(Decode(plant="own_samples"), opened, seed=0)
    served = replace(opened, model=Model("m", "m/m", backend=Backend("server", url="http://127.0.0.1:1/v1")))
    with pytest.raises(EvaluationError, match="got a model behind a server"):
        Plant(Decode(plant="arithmetic_slip"), served, seed=0)
