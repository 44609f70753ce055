"""Loops: worked by hand, by law, and on a simulated model whose rates are known."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.metrics.traces import BREAK, UNDO, UNDO_LINE, sample
from unsay.metrics.loops import Loops
from unsay.records import Sample


def values(*samples: Sample) -> dict[str, float | None]:
    return {name: value.value for name, value in Loops().summarise(Loops().measure(samples)).items()}


def test_worked_by_hand() -> None:
    again = sample([5, 6, UNDO, 6, 7])  # 6 again where 6 stood
    other = sample([5, 6, UNDO, 7, UNDO, 8])  # twice something else
    assert values(again) == {"reemission": 100.0, "loops": 0.0}
    assert values(other) == {"reemission": 0.0, "loops": 0.0}
    assert values(again, other) == {"reemission": pytest.approx(100 / 3), "loops": 0.0}


def test_a_run_of_undos_is_one_episode_and_is_judged_where_it_ends() -> None:
    assert values(sample([5, 6, 7, UNDO, UNDO, 6, 7, 8]))["reemission"] == 100.0
    for ids in ([7], [6], [6, 8], [6, UNDO, 8]):  # begins alike, or never gets there
        assert values(sample([5, 6, 7, UNDO, UNDO, *ids]))["reemission"] == 0.0


def test_a_line_that_only_begins_like_the_one_taken_back_is_another() -> None:
    assert values(sample([5, BREAK, 6, 7, UNDO_LINE, 6, 8]))["reemission"] == 0.0
    assert values(sample([5, BREAK, 6, 7, UNDO_LINE, 6, 7]))["reemission"] == 100.0


def test_an_undo_that_nothing_follows_or_that_takes_nothing_is_no_episode() -> None:
    assert values(sample([5, UNDO]))["reemission"] is None
    assert values(sample([UNDO, 5]))["reemission"] is None


def test_coming_back_to_one_beginning_three_times_is_a_loop() -> None:
    twice = sample([5, 6, UNDO, 7, UNDO, 8])
    thrice = sample([5, 6, UNDO, 7, UNDO, 8, UNDO, 9_000])
    at_the_end = sample([5, 6, UNDO, 7, UNDO, 8, UNDO])
    assert values(twice, thrice)["loops"] == 50.0
    assert values(at_the_end)["loops"] == 100.0
    assert values(sample([5, 6, 7], finish_reason="max_visits"))["loops"] == 100.0


def test_starting_over_from_nothing_is_no_loop() -> None:
    assert values(sample([5, UNDO, 6, UNDO, 7, UNDO, 8]))["loops"] == 0.0


def test_without_traces_there_is_a_reason() -> None:
    value = Loops().summarise(Loops().measure([Sample("0", "", "", "")]))["loops"]
    assert (value.value, value.reason) == (None, "no traces")


@given(st.lists(st.integers(1, 20), max_size=60))
def test_without_undo_nothing_is_found(ids: list[int]) -> None:
    assert values(sample(ids)) == {"reemission": None, "loops": 0.0}


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_a_simulated_model_that_writes_the_same_again_at_a_known_rate(rate: float) -> None:
    rng = random.Random(f"reemission {rate}")
    answers, episodes = [], 0
    for _ in range(400):
        ids = [1]
        for _ in range(rng.randint(1, 5)):
            wrong = rng.randint(10, 10_000)
            ids += [wrong, UNDO, wrong if rng.random() < rate else -wrong]
            episodes += 1
        answers.append(sample(ids))
    found = values(*answers)["reemission"]
    assert found == pytest.approx(100 * rate, abs=4 * 100 * (rate * (1 - rate) / episodes) ** 0.5)
