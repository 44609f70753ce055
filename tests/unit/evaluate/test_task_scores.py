"""A task's own scores, from what lm-eval logs; and when our exact match may stand for the task's."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import numpy as np
import pytest

from unsay import stats
from unsay.data.source import Source
from unsay.errors import EvaluationError
from unsay.evaluate.lm_eval_tasks import aggregations, load_task, plain_task
from unsay.evaluate.task_scores import read_exact_match, score
from unsay.metrics import Scores
from unsay.metrics.exact_match import FLEXIBLE, GSM8K_FLEXIBLE, GSM8K_IGNORED, GSM8K_STRICT, STRICT

CONFIG = {"task": "mine", "metadata": {"version": 2.0}}


def logged(values: dict[str, list[Any]], filter: str = "none") -> list[dict[str, Any]]:
    """Return lines as lm-eval logs them: one per document, each metric's value beside its name."""
    length = max(map(len, values.values()))
    return [
        {"doc_id": at, "filter": filter, "metrics": [m for m in values if at < len(values[m])]}
        | {metric: column[at] for metric, column in values.items() if at < len(column)}
        for at in range(length)
    ]


def scored(values: dict[str, list[Any]], aggregated: dict[str, Any], how: dict[str, str] | None = None) -> Scores:
    lines = logged(values)
    return score(lines, aggregated, {line["doc_id"]: line["doc_id"] for line in lines}, CONFIG, how or {})


def test_right_and_wrong_have_a_wilson_interval() -> None:
    found = scored({"math_verify": [1, 0, True, np.float64(1.0)]}, {"math_verify,none": 0.75}, {"math_verify": "mean"})
    expected = stats.proportion(3, 4)
    value = found.values["math_verify,none"]
    assert found.items == {"math_verify,none": [100.0, 0.0, 100.0, 100.0]}
    assert value.definition == "lm-eval mine v2 math_verify,none"
    assert (value.value, value.n) == (75.0, 4)
    assert expected.low is not None
    assert expected.stderr is not None
    assert (value.low, value.stderr) == pytest.approx((100 * expected.low, 100 * expected.stderr))


@pytest.mark.parametrize("seed", range(20))
def test_fractions_have_lm_evals_mean_and_stderr(seed: int) -> None:
    from lm_eval.api.metrics import mean, mean_stderr

    rng = random.Random(seed)
    values = [rng.random() for _ in range(rng.randrange(2, 50))]
    value = scored({"f1": values}, {"f1,none": mean(values)}, {"f1": "mean"}).values["f1,none"]
    assert (value.value, value.stderr) == pytest.approx((100 * mean(values), 100 * mean_stderr(values)))
    assert value.low is not None
    assert value.high is not None
    assert 0.0 <= value.low <= value.high <= 100.0
    assert value.definition == "lm-eval mine v2 f1,none"


def test_other_numbers_keep_their_scale_and_say_so() -> None:
    found = scored({"words": [3, 1, -4.5]}, {"words,none": -0.5 / 3}, {"words": "mean"})
    value = found.values["words,none"]
    assert found.items["words,none"] == [3.0, 1.0, -4.5]
    assert value.value == pytest.approx(-0.5 / 3)
    assert value.low is not None
    assert value.low < -4  # not cut at 0
    assert value.definition == "lm-eval mine v2 words,none, unscaled"


@pytest.mark.parametrize("theirs", [0.5, None, "N/A", math.nan])
def test_a_mean_that_is_not_lm_evals_stops_the_run(theirs: Any) -> None:
    with pytest.raises(EvaluationError, match=r"acc,none: expected lm-eval's value to be the mean .* for 4 items"):
        scored({"acc": [1, 0, 1, 1]}, {"acc,none": theirs}, {"acc": "mean"})


def test_another_aggregation_is_taken_over_with_what_is_known() -> None:
    values = {"f1": [("a", "a"), ("a", "b")], "middle": [0.0, 1.0], "perplexity": [-2.0, -3.0]}
    theirs = {
        "f1,none": 0.66, "f1_stderr,none": 0.1,
        "middle,none": 1.0, "middle_stderr,none": "N/A",
        "perplexity,none": np.float64(12.2), "perplexity_stderr,none": np.float64(1.5),
    }  # fmt: skip
    found = scored(values, theirs, {"f1": "f1", "middle": "median", "perplexity": "perplexity"})
    assert found.items == {
        "f1,none": [None, None], "middle,none": [0.0, 1.0], "perplexity,none": [-2.0, -3.0],
    }  # fmt: skip
    f1, middle, perplexity = found.values.values()
    assert (f1.value, f1.stderr, f1.low, f1.reason) == (66.0, 10.0, None, "lm-eval sums it up by f1: no interval")
    assert middle.definition.endswith(", unscaled")
    assert (middle.value, middle.stderr) == (1.0, None)
    assert middle.reason == "lm-eval sums it up by median: no interval, no standard error"
    assert (perplexity.value, perplexity.stderr) == (12.2, 1.5)
    json.dumps([value.to_json() for value in found.values.values()])


def test_a_metric_the_task_does_not_list_is_a_mean_where_it_is_one() -> None:
    assert scored({"x": [1, 0]}, {"x,none": 0.5}).values["x,none"].low is not None
    value = scored({"x": [1, 0]}, {"x,none": 0.9}).values["x,none"]
    assert (value.value, value.low, value.reason) == (
        0.9, None, "lm-eval sums it up by a way of its own: no interval, no standard error",
    )  # fmt: skip


def test_what_lm_eval_could_not_compute_has_its_reason() -> None:
    found = scored({"x": [math.nan, 1.0]}, {"x,none": math.nan}, {"x": "mean"})
    assert found.items["x,none"] == [None, 1.0]
    assert (found.values["x,none"].value, found.values["x,none"].reason) == (None, "lm-eval's value is nan")


def test_an_item_that_a_metric_left_out_has_no_score() -> None:
    found = scored({"all": [1, 1, 0], "some": [0, 1]}, {"all,none": 2 / 3, "some,none": 0.5}, {"some": "mean"})
    assert found.items["some,none"] == [0.0, 1.0, None]
    assert found.values["some,none"].n == 2


def test_what_has_a_name_of_ours_is_left_to_it_and_bypass_is_no_metric() -> None:
    lines = logged({"exact_match": [1.0], "bypass": [0]}, "strict-match") + logged({"exact_match": [0.0]}, "other")
    theirs = {"exact_match,other": 0.0, "exact_match,strict-match": 1.0, "bypass,strict-match": 999}
    found = score(lines, theirs, {0: 0}, CONFIG, {}, skip={"exact_match,strict-match"})
    assert set(found.values) == {"exact_match,other"}


# -- exact match --------------------------------------------------------------------


def gsm8k(**changes: Any) -> dict[str, Any]:
    return load_task("gsm8k") | changes


def test_gsm8ks_exact_match_is_ours() -> None:
    reading = read_exact_match(gsm8k(), own=False)
    assert reading.options == {
        "strict": GSM8K_STRICT, "flexible": GSM8K_FLEXIBLE, "ignored": GSM8K_IGNORED, "ignore_case": True,
        "gold": None, "source": "lm-eval gsm8k v3",
    }  # fmt: skip
    assert reading.reasons == {}
    assert reading.keys == {"exact_match,strict-match", "exact_match,flexible-extract"}


def test_own_data_is_cut_on_both_sides() -> None:
    config = plain_task(Source("own", None, None, {}, None, answer="A: (.+)"))
    reading = read_exact_match(config, own=True)
    assert (reading.options["strict"], reading.options["gold"], reading.reasons) == ("A: (.+)", "A: (.+)", {})
    assert reading.of_target is False
    assert read_exact_match(plain_task(Source("own", None, None, {}, None)), own=True).reasons == {}


def metric(**options: Any) -> dict[str, Any]:
    return gsm8k(metric_list=[{"metric": "exact_match", "aggregation": "mean"} | options])


def filtered(*steps: dict[str, Any], name: str = "strict-match") -> dict[str, Any]:
    return gsm8k(filter_list=[{"name": name, "filter": list(steps)}])


REGEX, FIRST = {"function": "regex", "regex_pattern": "(a)"}, {"function": "take_first"}


@pytest.mark.parametrize(
    ("config", "strict", "flexible"),
    [
        (gsm8k(process_results=dict), "gsm8k scores answers with code of its own", ...),
        (metric(ignore_punctuation=True), "gsm8k sets ignore_punctuation for exact match, which", ...),
        (metric(ignore_numbers=True), "gsm8k sets ignore_numbers for exact match, which", ...),
        (metric(hf_evaluate=True), "gsm8k sets hf_evaluate for exact match, which", ...),
        (metric(ignore_punctuation=False), None, None),
        (gsm8k(metric_list=[{"metric": "acc"}]), "gsm8k does not score exact match", ...),
        (gsm8k(doc_to_choice=["a"]), "gsm8k takes the gold answer from a list", ...),
        (gsm8k(metric_list=None), None, None),
        (gsm8k(filter_list=None), "gsm8k has no filter strict-match", "gsm8k has no filter flexible-extract"),
        (filtered(REGEX, FIRST), None, "gsm8k has no filter flexible-extract"),
        (filtered(REGEX | {"group_select": 0, "fallback": "[invalid]"}, FIRST), None, "gsm8k has no filter"),
        (filtered(REGEX | {"group_select": -1}, FIRST), "the filter strict-match of gsm8k does more", ...),
        (filtered(REGEX | {"fallback": ""}, FIRST), "the filter strict-match of gsm8k does more", ...),
        (filtered(REGEX, {"function": "lowercase"}, FIRST), "the filter strict-match of gsm8k does more", ...),
        (filtered(FIRST), "the filter strict-match of gsm8k does more", ...),
    ],
)
def test_where_ours_cannot_be_the_tasks_it_is_not_computed(config: dict[str, Any], strict: Any, flexible: Any) -> None:
    reading = read_exact_match(config, own=False)
    for name, option, expected in ((STRICT, "strict", strict), (FLEXIBLE, "flexible", flexible)):
        if expected is None:
            assert name not in reading.reasons
            assert reading.options[option] is not None
        else:
            assert reading.options[option] is None
            assert reading.reasons[name].startswith("" if expected is ... else expected)


def test_answers_can_show_that_ours_is_not_the_tasks() -> None:
    reading = read_exact_match(filtered(REGEX, FIRST), own=False).without("several gold answers")
    assert (reading.options["strict"], reading.keys) == (None, frozenset())
    assert reading.reasons == {STRICT: "several gold answers", FLEXIBLE: "gsm8k has no filter flexible-extract"}


def test_how_lm_eval_sums_up_is_read_from_the_task() -> None:
    from lm_eval.api import metrics as theirs

    def worst(values: list[float]) -> float:
        return min(values)

    def mean(values: list[float]) -> float:
        return values[0]

    def own(items: list[Any]) -> float:
        return 0.0

    config = {
        "metric_list": [
            {"metric": "exact_match", "aggregation": "mean"}, {"metric": "bleu"}, {"metric": "acc"},
            {"metric": own, "aggregation": worst}, {"metric": "x", "aggregation": theirs.mean},
            {"metric": "y", "aggregation": mean},
        ]
    }  # fmt: skip
    assert aggregations(config) == {
        "exact_match": "mean", "bleu": "bleu", "acc": "mean", "own": "worst", "x": "mean", "y": "a mean of its own",
    }  # fmt: skip
    assert aggregations({}) == {"exact_match": "mean"}
