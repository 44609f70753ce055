"""What every file of `unsay.metrics` promises, run against each file found."""

from __future__ import annotations

import dataclasses
import doctest
import importlib
import json
import pickle
import random
import re
import subprocess
import sys
from collections.abc import Sequence
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unsay import metrics
from unsay.errors import ConfigError, UnsayError
from unsay.metrics import LONGEST_EXPLAINED, Metric, explain, found, item_scores, load, load_all, score
from unsay.records import Counts, MetricValue, Sample

FILES = found()
MADE = [load(name, resamples=50) if name == "bleu" else load(name) for name in FILES]
HEAVY = ("torch", "transformers", "lm_eval", "scipy", "statsmodels", "nltk", "rouge_chinese", "rouge_score", "datasets")
TEXTS = [
    "",
    "a",
    "4",
    "#### 4",
    "She sells 9 eggs.\n\nShe makes 9 * 2 = $<<9*2=18>>18.\n#### 18",
    "我们今天去学校。你好吗？\n#### 18",
    "😀 #### 5\r\n \n",
    "long " * 400,
]
COUNTS = [None, Counts(10, 10, 0, 0, 0, 0, (), (), None), Counts(20, 12, 4, 4, 0, 2, (1, 3), (5, 9), 6)]
SAMPLES = [
    Sample(f"{i}-{j}", "question", label, predict, ("eos", "max_steps", None)[(i + j) % 3], COUNTS[(i * j) % 3])
    for i, label in enumerate(TEXTS)
    for j, predict in enumerate(TEXTS)
]


def made_here(module: ModuleType) -> list[type]:
    return [
        thing
        for thing in vars(module).values()
        if isinstance(thing, type) and dataclasses.is_dataclass(thing) and thing.__module__ == module.__name__
    ]


def numbers(value: MetricValue) -> list[float]:
    return [number for number in (value.value, value.stderr, value.low, value.high) if number is not None]


def summary(metric: Metric, samples: Sequence[Sample]) -> dict[str, MetricValue]:
    return metric.summarise(metric.measure(samples))


@pytest.fixture(params=FILES)
def metric(request: pytest.FixtureRequest) -> Metric:
    return load(request.param)


def test_files_were_found() -> None:
    assert set(FILES) >= {"exact_match", "bleu4_lf", "rouge_lf", "bleu", "rouge_l", "undo"}
    names = [name for metric in load_all() for name in metric.names]
    assert len(names) == len(set(names)) >= 20


@pytest.mark.parametrize("file", FILES)
def test_a_file_holds_one_frozen_dataclass_with_defaults(file: str) -> None:
    module = importlib.import_module(f"unsay.metrics.{file}")
    (made,) = made_here(module)
    assert made.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert made() == made()
    for docstring in (module.__doc__, made.__doc__):
        assert docstring
        assert docstring.splitlines()[0].endswith(".")


@pytest.mark.parametrize("file", FILES)
def test_the_worked_example_holds(file: str) -> None:
    module = importlib.import_module(f"unsay.metrics.{file}")
    outcome = doctest.testmod(module)
    assert outcome.attempted > 0
    assert outcome.failed == 0


def test_everything_is_stated_for_every_name(metric: Metric) -> None:
    assert metric.names
    assert set(metric.higher_is_better) == set(metric.range) == set(metric.definition) == set(metric.names)
    assert all(metric.definition.values())
    assert all(highest is None or lowest < highest for lowest, highest in metric.range.values())


def test_items_and_summary_have_the_promised_shape(metric: Metric) -> None:
    items = metric.items(SAMPLES)
    values = summary(metric, SAMPLES)
    assert set(items) == set(values) == set(metric.names)
    assert values == summary(metric, SAMPLES)
    for name in metric.names:
        lowest, highest = metric.range[name]
        top = float("inf") if highest is None else highest + 1e-9
        assert len(items[name]) == len(SAMPLES)
        assert all(item is None or lowest <= item <= top for item in items[name])
        value = values[name]
        assert value.definition == metric.definition[name]
        assert (value.value is None) == (value.n == 0)
        assert value.value is None or lowest <= value.value <= top
        assert value.stderr is not None or value.reason
        json.dumps(value.to_json(), allow_nan=False)


def test_what_a_score_was_made_of_is_said_in_few_words(metric: Metric) -> None:
    for sample in SAMPLES:
        parts = metric.explain(sample)
        assert set(parts) <= set(metric.names)
        assert metric.explain(sample) == parts
        for of in parts.values():
            assert len(of) <= 6
            assert all(isinstance(words, str) and isinstance(value, str | int | float) for words, value in of.items())


def test_a_score_is_taken_apart_only_where_its_metric_gives_it_again() -> None:
    sample = Sample("0", "", "#### 4", "#### 5", "eos", COUNTS[2])
    made = load_all()
    definitions = {name: text for metric in made for name, text in metric.definition.items()}
    scores = {name: column[0] for metric in made for name, column in metric.items([sample]).items()}
    recorded = {name: score for name, score in scores.items() if score is not None}
    found = explain(sample, recorded, definitions, made)
    assert found["exact_match_strict"] == {"found": "5", "expected": "4"}
    assert found["rouge_l"] == {"words in common, in order": 0, "of the answer's": 1, "of the reference's": 1}
    assert found["rouge_1_lf"] == {"different words in both": 1, "of the answer's": 2, "of the reference's": 2}
    assert found["bleu4_lf"] == {
        "characters": "5 of 6", "runs of 2 characters": "4 of 5", "runs of 3 characters": "3 of 4",
        "runs of 4 characters": "2 of 3", "brevity penalty": 1.0, "answer and reference": "6 and 6 characters",
    }  # fmt: skip
    assert found["undo_rate_token"] == {"undo tokens": 4, "of sampled tokens": 20}
    assert "exact_match_strict" not in explain(sample, recorded | {"exact_match_strict": 100.0}, definitions, made)
    assert "exact_match_strict" not in explain(sample, recorded, definitions | {"exact_match_strict": "own"}, made)
    long = dataclasses.replace(sample, predict="#### 5" + " " * LONGEST_EXPLAINED)
    assert explain(long, recorded, definitions, made) == {}


def test_a_sample_is_measured_alone_and_as_one_of_many(metric: Metric) -> None:
    whole = metric.measure(SAMPLES)
    assert set(whole) == set(metric.names)
    parts = [metric.measure(part) for part in (SAMPLES[:1], SAMPLES[1:1], SAMPLES[1:40], SAMPLES[40:])]
    for name, numbers in whole.items():
        assert numbers.dtype == np.float64
        assert len(numbers) == len(SAMPLES)
        assert numbers.ndim <= 2
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), numbers)
    assert item_scores(whole) == metric.items(SAMPLES)
    pickle.loads(pickle.dumps(metric))  # goes to other processes


def test_numbers_come_back_from_samples_of_any_kind(metric: Metric) -> None:
    """Measured parts may not depend on what was measured before."""
    before = metric.measure(SAMPLES[:9])
    metric.measure([Sample(str(i), "", f"{i} eggs", f"eggs {i}") for i in range(3000)])
    after = metric.measure(SAMPLES[:9])
    for name, numbers in before.items():
        np.testing.assert_array_equal(after[name], numbers)


def test_every_definition_names_a_version(metric: Metric) -> None:
    for definition in metric.definition.values():
        assert re.search(r"\bv\d|\b\d+\.\d+|version:\d", definition), definition


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(SAMPLES), min_size=1, max_size=12))
def test_an_error_of_exactly_zero_is_never_printed_inside_the_range(samples: list[Sample]) -> None:
    for metric in MADE:
        for name, value in summary(metric, samples).items():
            lowest, highest = metric.range[name]
            if value.value is None:
                continue
            inside = highest is not None and lowest < value.value < highest
            if inside:
                assert value.stderr is None or value.stderr > 0, (name, value)
                assert value.stderr is not None or value.reason
            if value.stderr is not None:
                assert value.low is not None
                assert value.high is not None
                assert lowest <= value.low <= value.value + 1e-9 <= value.high + 2e-9
                assert highest is None or value.high <= highest + 1e-9  # sacreBLEU itself rounds up


def test_the_order_of_samples_does_not_matter(metric: Metric) -> None:
    order = list(range(len(SAMPLES)))
    random.Random(5).shuffle(order)
    mixed = [SAMPLES[i] for i in order]
    items, mixed_items = metric.items(SAMPLES), metric.items(mixed)
    for name in metric.names:
        assert mixed_items[name] == [items[name][i] for i in order]
    values, mixed_values = summary(metric, SAMPLES), summary(metric, mixed)
    for name in metric.names:
        assert numbers(mixed_values[name]) == pytest.approx(numbers(values[name]), rel=1e-12)
        assert mixed_values[name].n == values[name].n


def test_no_sample_gives_no_value_and_a_reason(metric: Metric) -> None:
    assert metric.items([]) == {name: [] for name in metric.names}
    for value in summary(metric, []).values():
        assert (value.value, value.stderr, value.low, value.high, value.n) == (None, None, None, None, 0)
        assert value.reason == "no samples"


def test_one_sample_has_no_standard_error(metric: Metric) -> None:
    for value in summary(metric, [SAMPLES[-1]]).values():
        assert value.stderr is None
        assert value.reason


def test_an_error_of_zero_belongs_to_the_ends_of_the_range(metric: Metric) -> None:
    same = [dataclasses.replace(SAMPLES[34], key=str(i)) for i in range(7)]
    for name, value in summary(metric, same).items():
        lowest, highest = metric.range[name]
        if value.value is not None and highest is not None and lowest < value.value < highest:
            assert value.stderr is None
            assert value.reason


def test_score_runs_every_file() -> None:
    scores = score(SAMPLES)
    expected = {name for metric in load_all() for name in metric.names}
    assert set(scores.items) == set(scores.values) == expected
    assert scores.values["exact_match_strict"].value is not None
    assert set(score(SAMPLES, [load("rouge_l")]).values) == {"rouge_l"}


def test_two_metrics_of_one_name_are_refused() -> None:
    with pytest.raises(UnsayError, match="rouge_l"):
        score(SAMPLES, [load("rouge_l"), load("rouge_l")])


def test_options_reach_their_file_and_mistakes_are_named() -> None:
    by_file = dict(zip(found(), load_all({"exact_match": {"flexible": None}}), strict=True))
    assert summary(by_file["exact_match"], SAMPLES)["exact_match_flexible"].value is None
    with pytest.raises(ConfigError, match="did you mean 'rouge_l'"):
        load("rouge_ll")
    with pytest.raises(ConfigError, match="exact_match"):
        load_all({"exact_macth": {}})
    with pytest.raises(ConfigError, match="resamples"):
        load("bleu", resample=3)


def test_scoring_loads_no_heavy_library() -> None:
    program = (
        "import sys; from unsay.metrics import score; from unsay.records import Sample;"
        "score([Sample('0', '', '#### 4', 'It is 4.'), Sample('1', '', 'a', 'b')]);"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert done.stderr == ""


def test_importing_the_contract_imports_no_metric() -> None:
    program = "import sys, unsay.metrics as m; m.found(); print([n for n in sys.modules if n.startswith(m.__name__)])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"['{metrics.__name__}']"
