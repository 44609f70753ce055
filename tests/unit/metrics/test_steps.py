"""Executable steps: worked by hand, by law, and on a simulated model whose precision and recall are known."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.metrics.traces import BREAK, UNDO, UNDO_LINE, sample
from unsay.metrics.steps import Steps, is_right
from unsay.records import Sample

RIGHT, WRONG, WORDS = 1, 2, 3
PIECES = {RIGHT: "2+3=<<2+3=5>>5", WRONG: "2*3=<<2*3=7>>7", WORDS: "Tom has "}


def values(*samples: Sample) -> dict[str, float | None]:
    return {name: value.value for name, value in Steps().summarise(Steps().measure(samples)).items()}


def answer(*ids: int) -> Sample:
    return sample(ids, PIECES)


def test_worked_by_hand() -> None:
    caught = answer(WORDS, RIGHT, BREAK, WRONG, UNDO_LINE, RIGHT)
    missed = answer(WRONG, BREAK, RIGHT)
    needless = answer(RIGHT, UNDO, RIGHT)
    assert values(caught) == {
        "step_precision": 100.0, "step_recall": 100.0, "step_false_undo": 0.0, "step_errors": pytest.approx(100 / 3)
    }  # fmt: skip
    assert values(missed) == {
        "step_precision": None, "step_recall": 0.0, "step_false_undo": 0.0, "step_errors": 50.0
    }  # fmt: skip
    together = values(caught, missed, needless)
    assert together["step_precision"] == 50.0  # one wrong and one right step were taken back
    assert together["step_recall"] == 50.0
    assert together["step_false_undo"] == 20.0  # of 5 right steps
    assert together["step_errors"] == pytest.approx(100 * 2 / 7)


def test_a_step_counts_once_it_is_complete() -> None:
    begun = sample([1, UNDO, 3], {1: "<<2*3=7", 3: "<<2*3=6>>"})
    assert values(begun) == {
        "step_precision": None, "step_recall": None, "step_false_undo": 0.0, "step_errors": 0.0
    }  # fmt: skip
    whole = sample([1, 2, UNDO, 3], {1: "<<2*3=7", 2: ">>7", 3: ">>"})
    assert values(whole)["step_precision"] == 100.0  # its end was taken back
    assert values(whole)["step_recall"] == 50.0  # and written again


@pytest.mark.parametrize(
    ("expression", "result", "right"),
    [
        ("2+3*4", "14", True), ("10/4", "2.5", True), ("10/3", "3.33", True), ("10/3", "3.34", True),
        ("10/3", "3.4", False), ("1,200-200", "1000", True), ("5-7", "-2", True), (".5*4", "2", True),
        ("4/0", "4", None), ("x+1", "2", None), ("2**3", "8", None), ("5", "5", True), ("2+2", "four", None),
    ],
)  # fmt: skip
def test_what_is_right(expression: str, result: str, right: bool | None) -> None:
    assert is_right(expression, result) is right


@given(
    st.lists(st.integers(1, 99), min_size=2, max_size=5),
    st.lists(st.sampled_from("+-*/"), min_size=4, max_size=4),
    st.integers(-3, 3),
)
def test_arithmetic_is_python_s(numbers: list[int], signs: list[str], off: int) -> None:
    terms = [str(numbers[0]), *(part for pair in zip(signs, map(str, numbers[1:]), strict=False) for part in pair)]
    truth = eval("".join(f"F({term})" if term.isdigit() else term for term in terms), {"F": Fraction})
    assert is_right("".join(terms), f"{float(truth) + off:.4f}") is (off == 0)
    assert is_right(" ".join(terms), f"{float(truth) + off:.4f}") is (off == 0)


@given(st.lists(st.sampled_from([RIGHT, WRONG, WORDS, BREAK, UNDO, UNDO_LINE]), max_size=40))
def test_every_step_written_is_taken_back_or_kept(ids: list[int]) -> None:
    measured = Steps().measure([answer(*ids)])
    all_steps = measured["step_errors"][0, 1]
    assert all_steps == ids.count(RIGHT) + ids.count(WRONG)
    assert measured["step_errors"][0, 0] == 100.0 * ids.count(WRONG)
    assert measured["step_recall"][0, 1] == ids.count(WRONG)
    assert measured["step_false_undo"][0, 1] == ids.count(RIGHT)
    if UNDO not in ids and UNDO_LINE not in ids:
        assert measured["step_precision"][0, 1] == 0


@pytest.mark.parametrize(("recall", "false"), [(0.8, 0.1), (0.3, 0.02), (0.5, 0.5)])
def test_a_simulated_model_of_known_recall_and_false_undos(recall: float, false: float) -> None:
    rng = random.Random(f"steps {recall} {false}")
    answers, wrong, right = [], 0, 0
    for _ in range(500):
        ids: list[int] = []
        for _ in range(rng.randint(2, 5)):
            step = WRONG if rng.random() < 0.4 else RIGHT
            ids += [WORDS, step]
            wrong, right = wrong + (step == WRONG), right + (step == RIGHT)
            ids += [UNDO_LINE] if rng.random() < (recall if step == WRONG else false) else [BREAK]
        answers.append(answer(*ids))
    found = values(*answers)
    for name, rate, n in (("step_recall", recall, wrong), ("step_false_undo", false, right)):
        assert found[name] == pytest.approx(100 * rate, abs=4 * 100 * (rate * (1 - rate) / n) ** 0.5)
    precision = recall * wrong / (recall * wrong + false * right)
    assert found["step_precision"] == pytest.approx(100 * precision, abs=6)
