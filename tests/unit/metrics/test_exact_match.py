"""Exact match must agree with lm-eval's own gsm8k filters and metric, item by item."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.metrics.varied_pairs import pairs
from unsay.metrics.exact_match import FLEXIBLE, STRICT, UP_TO_MARKER, ExactMatch, _without
from unsay.records import Sample

ANSWERS = st.one_of(
    st.text(alphabet="0123456789.,$-# \nAaİßΣ\0", max_size=30),
    st.text(max_size=20),
    st.builds(
        lambda before, number, after: f"{before}#### {number}{after}",
        st.text(max_size=10),
        st.from_regex(r"-?\$?[0-9.,]{0,6}", fullmatch=True),
        st.text(alphabet=".\n #0\0", max_size=4),
    ),
)


@functools.cache
def gsm8k_task() -> dict[str, Any]:
    import lm_eval
    import yaml

    path = Path(lm_eval.__file__).parent / "tasks" / "gsm8k" / "gsm8k.yaml"
    task: dict[str, Any] = yaml.safe_load(path.read_text())
    return task


def lm_eval_scores(label: str, predict: str) -> dict[str, float]:
    from lm_eval.api.metrics import exact_match_hf_evaluate
    from lm_eval.filters.extraction import RegexFilter

    options = {
        key: value
        for key, value in gsm8k_task()["metric_list"][0].items()
        if key in ("ignore_case", "ignore_punctuation", "regexes_to_ignore")
    }
    scores = {}
    for name, chain in zip((STRICT, FLEXIBLE), gsm8k_task()["filter_list"], strict=True):
        regex = {key: value for key, value in chain["filter"][0].items() if key != "function"}
        found = next(iter(RegexFilter(**regex).apply([[predict]], [{}])))[0]
        scores[name] = 100.0 * float(
            exact_match_hf_evaluate(predictions=[found], references=[label], **options)["exact_match"]
        )
    return scores


def ours(label: str, predict: str) -> dict[str, float | None]:
    return {name: scores[0] for name, scores in ExactMatch().items([Sample("0", "", label, predict)]).items()}


@settings(max_examples=250, deadline=None)
@given(ANSWERS, ANSWERS)
def test_it_equals_lm_eval(label: str, predict: str) -> None:
    assert ours(label, predict) == lm_eval_scores(label, predict)
    assert ours(predict, predict) == lm_eval_scores(predict, predict)


@pytest.mark.parametrize(
    ("label", "predict"),
    [
        ("", ""),
        ("#### 1,000", "#### $1000."),
        ("#### 18", "so #### 18 and then #### 19"),
        ("#### 3", "no number"),
        ("a\n#### b\n#### 7", "7"),
        ("#### 5", "#### 5\0"),
        ("İ", "i"),
        ("[INVALID]", "nothing"),
        ("#### .", "-$"),
        ("#### -4", "####  -4"),
        ("#### 70000", "It costs $70,000."),
    ],
)
def test_it_equals_lm_eval_in_corners(label: str, predict: str) -> None:
    assert ours(label, predict) == lm_eval_scores(label, predict)


def test_it_equals_lm_eval_on_varied_pairs() -> None:
    varied = pairs(2500)
    assert [ours(label, predict) for predict, label in varied] == [
        lm_eval_scores(label, predict) for predict, label in varied
    ]
    right = [ours(label, predict)[FLEXIBLE] for predict, label in varied]
    assert 50 < right.count(100.0) < 2400


def test_another_dataset_states_its_own_patterns() -> None:
    metric = ExactMatch(strict=r"Answer: (.+)", flexible=None, ignored=(), source="mine v2")
    values = metric.summarise(
        metric.measure([Sample("0", "", "Paris", "Answer: PARIS"), Sample("1", "", "Paris", "Paris")])
    )
    assert values[STRICT].value == 50.0
    assert values[FLEXIBLE].value is None
    assert values[FLEXIBLE].reason == "the dataset defines no pattern for it"
    assert "mine v2" in values[STRICT].definition
    assert r"Answer: (.+)" in values[STRICT].definition
    assert ExactMatch().definition[STRICT] == "lm-eval gsm8k v3 strict-match"
    assert ExactMatch().definition[FLEXIBLE] == "lm-eval gsm8k v3 flexible-extract"


def test_a_wrong_answer_among_right_ones_has_an_error() -> None:
    samples = [Sample(str(i), "", "#### 4", "#### 4" if i else "#### 5") for i in range(1319)]
    value = ExactMatch().summarise(ExactMatch().measure(samples))[STRICT]
    assert value.value is not None
    assert 0 < value.value < 100
    assert value.stderr is not None
    assert value.stderr > 0
    right = ExactMatch().summarise(ExactMatch().measure(samples[1:]))[STRICT]
    assert (right.value, right.stderr, right.high) == (100.0, 0.0, 100.0)
    assert right.low is not None
    assert 99 < right.low < 100


@given(st.text(alphabet="# 0\nx", max_size=40))
def test_what_stands_before_the_marker_goes_as_with_the_pattern(text: str) -> None:
    assert _without(UP_TO_MARKER, text) == re.sub(UP_TO_MARKER, "", text)


def test_an_answer_of_a_million_characters_without_the_marker_is_read_once() -> None:
    """The pattern itself would try each of them against all that follow."""
    sample = Sample("0", "", "#### 4", "so " * 350_000 + "4")
    assert ExactMatch().items([sample]) == {STRICT: [0.0], FLEXIBLE: [100.0]}
    assert ExactMatch().items([Sample("0", "", "- " * 500_000, "4")])[FLEXIBLE] == [0.0]
