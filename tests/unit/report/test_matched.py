"""Accuracy at matched sampled tokens: worked by hand, by law, against a plain reference, and on a lab."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.lab import TABLE, UNDO, Arm, make
from unsay.records import Beginning, Counts, Key, Trace
from unsay.report import matched
from unsay.report.matched import INVALID, Answer, area, single, spent, summarise, text_after, vote
from unsay.store import layout, read, write


def answer(final: str, tokens: int, first: str = INVALID) -> Answer:
    """An answer whose final answer is there with its last token; `first` is what is read before."""
    return Answer(tokens, lambda count: final if count >= tokens else first)


def test_one_answer_by_hand() -> None:
    rows = [[answer("4", 100)], [answer("5", 50, first="7")], [answer("9", 10)]]
    scores = single(rows, ["4", "7", "8"], (32, 64, 128))
    assert scores[:, :, 0].tolist() == [[0, 100, 0], [0, 0, 0], [100, 0, 0]]
    assert spent(rows, (32, 64, 128)).tolist() == pytest.approx([74 / 3, 124 / 3, 160 / 3])


def test_a_vote_by_hand() -> None:
    row = [answer("4", 10), answer("5", 20), answer("5", 30), answer(INVALID, 5)]
    assert vote(row, 5) == (INVALID, 5)  # the first one, cut
    assert vote(row, 10) == ("4", 10)
    assert vote(row, 59) == ("4", 30)  # one each: the earlier one
    assert vote(row, 60) == ("5", 60)
    assert vote(row, 1000) == ("5", 65)
    assert vote([answer(INVALID, 5), answer(INVALID, 5)], 99) == (INVALID, 10)


@given(st.lists(st.tuples(st.sampled_from("345"), st.integers(1, 40)), min_size=1, max_size=9), st.integers(1, 300))
def test_a_vote_equals_counting(drawn: Sequence[tuple[str, int]], budget: int) -> None:
    final, used = vote([answer(*each) for each in drawn], budget)
    finished, total = [], 0
    for text, tokens in drawn:
        total += tokens
        if total > budget:
            break
        finished.append(text)
    assert used <= budget
    if finished:
        assert finished.count(final) == max(map(finished.count, finished))
        assert used == sum(tokens for _, tokens in drawn[: len(finished)])
    else:
        assert (final, used) == (INVALID, budget)


@given(st.lists(st.tuples(st.sampled_from("45"), st.integers(1, 40)), min_size=1, max_size=9))
def test_with_room_for_one_answer_a_vote_is_that_answer(drawn: Sequence[tuple[str, int]]) -> None:
    row = [answer(*each) for each in drawn]
    for budget in range(1, row[0].tokens + row[1].tokens if len(row) > 1 else 50):
        assert vote(row, budget)[0] == row[0].at(budget)


@given(st.lists(st.integers(0, 100), min_size=2, max_size=6))
def test_the_area_is_a_mean(values: list[int]) -> None:
    budgets = [2 ** (at + 5) for at in range(len(values))]
    found = area(budgets, values)
    assert found is not None
    assert min(values) - 1e-9 <= found <= max(values) + 1e-9
    assert area(budgets, [7.0] * len(values)) == pytest.approx(7.0)
    assert area([64, 128, 512], [0.0, 100.0, 100.0]) == pytest.approx((50 + 200) / 3)


def test_error_bars_of_one_seed_are_wilson_s_and_of_several_hold_the_seeds() -> None:
    rng = np.random.default_rng(0)
    right = 100.0 * (rng.random((1, 200, 1)) < 0.4)
    (alone,) = summarise(right, (64,), [50.0])
    assert alone.low is not None
    assert alone.high is not None
    assert alone.low < alone.value < alone.high
    same = np.repeat(right, 3, axis=2)
    apart = 100.0 * (rng.random((1, 200, 3)) < np.array([0.2, 0.4, 0.6]))
    widths = []
    for scores in (same, apart):
        (point,) = summarise(scores, (64,), [50.0])
        assert point.value == pytest.approx(scores.mean())
        assert point.low is not None
        assert point.high is not None
        widths.append(point.high - point.low)
    assert widths[1] > 1.5 * widths[0]


def test_a_simulated_vote_has_the_accuracy_that_follows() -> None:
    """Three votes of which each is right with chance p: p³ + 3 p² (1 - p), where wrong answers agree."""
    p, n = 0.7, 3000
    rng = random.Random("vote")
    rows = [[answer("1" if rng.random() < p else "0", 10) for _ in range(3)] for _ in range(n)]
    right = sum(vote(row, 30)[0] == "1" for row in rows) / n
    expected = p**3 + 3 * p**2 * (1 - p)
    assert right == pytest.approx(expected, abs=4 * (expected * (1 - expected) / n) ** 0.5)


def test_text_after_so_many_tokens_is_what_survives_of_them() -> None:
    ids, pieces = (5, 6, UNDO, 7), (" five", " six", "<u>", " seven")
    counts = Counts(4, 2, 1, 1, 0, 1, (1,), (1,), 2)
    trace = Trace(Key("t", 0), "", "", 0, ids, pieces, (5, 7), " five seven", "max_steps", counts)
    assert [text_after(trace, TABLE, count) for count in range(5)] == ["", " five", " five six", " five", " five seven"]


# -- on a lab ----------------------------------------------------------------------------------------------------------

SFT = Arm("EXP-1", method="sft", config="lora/train")


def lab(
    folder: Path, answers: dict[tuple[str, int], list[str]], beginning: Beginning | None = None
) -> list[read.Entry]:
    """Make experiments (config, seed) that are sampled; each answer's pieces are its characters."""
    for (config, seed), texts in answers.items():
        arm = Arm(f"{config}-{seed}", method="vanilla", config=config, seed=seed, seeded=True, limit=None)
        place = make(folder, arm)
        record = read.record(place)
        assert record is not None
        settings = {**record.spec["settings"], "decode": {"do_sample": True}}
        write.write_json(place / layout.EXPERIMENT, replace(record, spec={"settings": settings}).to_json())
        (place / layout.TRACES).unlink()
        with write.Journal(place / layout.TRACES) as journal:
            for item, text in enumerate(texts):
                counts = Counts(len(text), len(text), 0, 0, 0, 0, (), (), None)
                ids = tuple(map(ord, text))
                trace = Trace(Key("gsm8k", item), "p", "e", 0, ids, tuple(text), ids, text, "stop", counts)
                journal.append(replace(trace, beginning=beginning).to_json())
    return read.find(folder)


def test_a_lab_gives_a_curve_per_experiment_and_a_vote_over_sampled_seeds(tmp_path: Path) -> None:
    right = "#### 0"
    entries = lab(
        tmp_path,
        {
            ("short", 1): [right, "#### 9"],
            ("short", 2): [right, "#### 1"],
            ("short", 3): ["#### 5", "#### 1"],
        },
    )
    one, majority = matched.curves(entries, (3, 6, 18))
    assert (one.kind, majority.kind) == ("one answer", "majority")
    assert [point.value for point in one.points] == pytest.approx([0, 100 * 4 / 6, 100 * 4 / 6])
    assert [point.value for point in majority.points] == [0.0, 50.0, 100.0]
    assert [point.tokens for point in majority.points] == [3.0, 6.0, 18.0]
    assert majority.name.endswith("short, majority of up to 3")
    assert majority.tokens_per_right == 18.0


def test_at_the_largest_budget_a_curve_is_the_exact_match_on_the_page(tmp_path: Path) -> None:
    """Cut answers need the patterns; whole ones are read as they were scored."""
    texts = [random.Random(at).choice([f"It is {at}.\n#### {at}", f"#### {at + 1}", "so"]) for at in range(200)]
    (entry,) = lab(tmp_path, {("short", 1): texts})
    (curve,) = matched.curves([entry], (4, 1024))
    expected = [text.endswith(f"#### {at}") for at, text in enumerate(texts)]
    assert curve.points[1].value == pytest.approx(100 * sum(expected) / len(expected))
    assert curve.points[0].value < curve.points[1].value


def test_without_traces_or_patterns_the_reason_is_given(tmp_path: Path) -> None:
    place = make(tmp_path, SFT)
    (place / layout.TRACES).unlink()
    (curve,) = matched.curves(read.find(tmp_path))
    assert curve.points == ()
    assert "no traces" in (curve.reason or "")
    values = read.read_json(place / layout.METRICS)
    values["metrics"]["exact_match_strict"]["definition"] = "somebody's own"
    write.write_json(place / layout.METRICS, values)
    (curve,) = matched.curves(read.find(tmp_path))
    assert "was not recorded" in (curve.reason or "")


@pytest.mark.parametrize(("twin", "words"), [(False, "(with a mistake)"), (True, "(the right one)")])
def test_what_an_answer_was_given_is_no_sampled_token(tmp_path: Path, twin: bool, words: str) -> None:
    entries = lab(tmp_path, {("short", 1): ["#### 0"], ("short", 2): ["#### 1"]}, Beginning(3, 1, twin))
    one, majority = matched.curves(entries)
    assert one.points == majority.points == ()
    assert one.reason == majority.reason
    assert f"given their beginning {words}" in (one.reason or "")
