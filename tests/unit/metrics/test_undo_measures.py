"""The accounting measures, worked by hand and by law."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unsay.metrics.undo import Undo
from unsay.records import BUDGET_REASONS, Counts, MetricValue, Sample


def answer(counts: Counts | None, finish_reason: str | None = "eos") -> Sample:
    return Sample("0", "", "", "", finish_reason, counts)


CLEAN = Counts(10, 10, 0, 0, 0, 0, (), (), None)
TWICE = Counts(20, 12, 4, 4, 0, 2, (1, 3), (5, 9), 6)
UNDERFLOW = Counts(10, 5, 2, 2, 1, 1, (3,), (0,), 2, 1)
SAMPLES = [answer(CLEAN), answer(TWICE, "max_steps"), answer(UNDERFLOW, "stop")]


def summary(samples: list[Sample]) -> dict[str, MetricValue]:
    return Undo().summarise(Undo().measure(samples))


def test_worked_by_hand() -> None:
    expected = {
        "undo_rate_token": 100 * 7 / 40,
        "undo_per_answer": 6 / 3,
        "undo_answers": 100 * 2 / 3,
        "episodes_per_answer": 3 / 3,
        "undo_run_length": 7 / 3,
        "undo_depth": 14 / 3,
        "undo_first_position": 8 / 2,
        "waste": 100 * (6 + 6 + 1) / 40,
        "underflow_per_answer": 1 / 3,
        "truncated": 100 / 3,
        "undo_left": 1 / 3,
        "sampled_tokens": 40 / 3,
    }
    values = summary(SAMPLES)
    assert {name: value.value for name, value in values.items()} == pytest.approx(expected)
    assert {name: value.n for name, value in values.items() if value.n != 3} == {
        "undo_run_length": 2,
        "undo_depth": 2,
        "undo_first_position": 2,
    }
    items = Undo().items(SAMPLES)
    assert items["undo_depth"] == [None, 7.0, 0.0]
    assert items["waste"] == [0.0, 40.0, 50.0]
    assert items["truncated"] == [0.0, 100.0, 0.0]


def test_without_counts_there_is_a_reason_and_no_zero() -> None:
    values = summary([answer(None, None), answer(None, None)])
    assert all(value.value is None and value.stderr is None and value.reason for value in values.values())
    assert values["waste"].reason == "no accounting of the trace in any of 2 samples"
    assert values["truncated"].reason == "no finish reason in any of 2 samples"


def test_samples_without_counts_are_left_out_and_said() -> None:
    values = summary([*SAMPLES, answer(None, "eos")])
    assert values["waste"].value == pytest.approx(32.5)
    assert values["waste"].n == 3
    assert values["waste"].reason == "left out 1 of 4 samples: no accounting of the trace"
    assert values["truncated"].value == 25.0
    assert values["truncated"].reason is None


def test_without_an_undo_rates_are_zero_and_episodes_have_no_value() -> None:
    values = summary([answer(CLEAN), answer(CLEAN)])
    assert values["undo_rate_token"].value == 0.0
    assert values["undo_left"].value == 0.0
    assert values["undo_depth"].value is None
    assert values["undo_depth"].reason == "no answer has an undo"


def test_an_answer_without_a_token_has_no_rate() -> None:
    empty = answer(Counts(0, 0, 0, 0, 0, 0, (), (), None))
    assert Undo().items([empty])["waste"] == [None]
    assert summary([empty])["waste"].reason == "no answer has a token"
    assert summary([empty])["sampled_tokens"].value == 0.0


@pytest.mark.parametrize("reason", [*BUDGET_REASONS, "eos", "stop"])
def test_only_budgets_truncate(reason: str) -> None:
    assert Undo().items([answer(CLEAN, reason)])["truncated"] == [100.0 if reason in BUDGET_REASONS else 0.0]


@st.composite
def counted(draw: st.DrawFn) -> Sample:
    """An answer whose undos pop one token each."""
    effective, underflows, survivors = (draw(st.integers(0, 20)) for _ in range(3))
    runs = [] if effective + underflows == 0 else [effective + underflows]
    sampled = survivors + 2 * effective + underflows
    counts = Counts(
        sampled,
        survivors,
        effective,
        effective,
        underflows,
        len(runs),
        tuple(runs),
        (0,) * len(runs),
        0 if runs else None,
    )
    return answer(counts, draw(st.sampled_from(["eos", "max_steps"])))


@settings(max_examples=100, deadline=None)
@given(st.lists(counted(), min_size=1, max_size=12))
def test_laws(samples: list[Sample]) -> None:
    counts = [sample.counts for sample in samples if sample.counts is not None]
    values = summary(samples)
    sampled = sum(c.sampled for c in counts)
    if sampled:
        wasted = sum(2 * c.undos + c.underflows for c in counts)
        assert values["waste"].value == pytest.approx(100 * wasted / sampled)
    for name, value in values.items():
        highest = Undo().range[name][1]
        assert (value.value is None) == (value.n == 0)
        if value.low is not None and value.high is not None and value.value is not None:
            slack = 1e-9
            assert 0 <= value.low <= value.value + slack <= value.high + 2 * slack
            assert highest is None or value.high <= highest
        if value.value is not None and highest is not None and 0 < value.value < highest:
            assert value.stderr is None or value.stderr > 0
    flipped = summary([dataclasses.replace(sample) for sample in reversed(samples)])
    assert {name: value.value for name, value in flipped.items()} == pytest.approx(
        {name: value.value for name, value in values.items()}
    )
