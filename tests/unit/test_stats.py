"""Statistics must equal scipy and statsmodels, and say why where there is no number."""

from __future__ import annotations

import math
import random
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unsay import stats
from unsay.errors import DataError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import scipy.stats
    from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
    from statsmodels.stats.multitest import multipletests
    from statsmodels.stats.proportion import proportion_confint

SEEDS = range(200)


@pytest.mark.parametrize("seed", SEEDS)
def test_random_tables_equal_scipy_and_statsmodels(seed: int) -> None:
    rng = random.Random(seed)
    n = rng.randrange(2, 400)
    p = rng.choice([0.0, 0.02, 0.3, 0.5, 0.9, 1.0])
    a, b = ([float(rng.random() < p) for _ in range(n)] for _ in range(2))
    right = int(sum(a))

    share = stats.proportion(right, n)
    assert share.value == pytest.approx(np.mean(a))
    assert share.stderr == pytest.approx(scipy.stats.sem(a), abs=1e-15)
    assert (share.low, share.high) == pytest.approx(proportion_confint(right, n, method="wilson"), abs=1e-12)
    reference = scipy.stats.binomtest(right, n).proportion_ci(method="wilson")
    assert (share.low, share.high) == pytest.approx((reference.low, reference.high), abs=1e-12)

    only_a, only_b = stats.discordant(a, b)
    table = [[sum(x == y == 1 for x, y in zip(a, b, strict=True)), only_a], [only_b, 0]]
    found = stats.mcnemar(only_a, only_b)
    assert found.p == pytest.approx(statsmodels_mcnemar(table, exact=True).pvalue, rel=1e-9)
    if only_a + only_b:
        assert found.p == pytest.approx(scipy.stats.binomtest(only_a, only_a + only_b).pvalue, rel=1e-9)

    scores = [rng.gauss(50, 20) for _ in range(n)]
    others = [score + rng.gauss(1, 5) for score in scores]
    value = stats.mean(scores)
    assert value.stderr == pytest.approx(scipy.stats.sem(scores))
    low, high = scipy.stats.norm.interval(0.95, loc=np.mean(scores), scale=scipy.stats.sem(scores))
    assert (value.low, value.high) == pytest.approx((low, high))
    paired = stats.paired_difference(others, scores)
    test = scipy.stats.ttest_rel(others, scores)
    assert paired.diff is not None
    assert paired.stderr is not None
    assert paired.diff / paired.stderr == pytest.approx(test.statistic)


@pytest.mark.parametrize("seed", range(20))
def test_holm_equals_statsmodels(seed: int) -> None:
    rng = random.Random(seed)
    p_values = [round(rng.random() ** 3, 3) for _ in range(rng.randrange(1, 40))]
    assert stats.holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_equals_its_definition(p_values: list[float]) -> None:
    ordered = sorted(p_values)
    steps = [min(1.0, (len(ordered) - j) * p) for j, p in enumerate(ordered)]
    expected = [max(steps[: k + 1]) for k in range(len(steps))]
    assert sorted(stats.holm(p_values)) == expected


@pytest.mark.parametrize(
    ("only_a", "only_b"), [(0, 0), (1, 0), (5, 5), (9_000, 9_300), (10_000, 10_001), (30_000, 31_000), (0, 25_000)]
)
def test_mcnemar_for_few_and_many_pairs(only_a: int, only_b: int) -> None:
    expected = min(1.0, 2 * scipy.stats.binom.cdf(min(only_a, only_b), only_a + only_b, 0.5))
    found = stats.mcnemar(only_a, only_b)
    assert found.p == pytest.approx(expected, rel=1e-8)
    assert found.p == stats.mcnemar(only_b, only_a).p


def test_mcnemar_in_floating_point_continues_the_whole_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = stats.mcnemar(900, 1010).p
    monkeypatch.setattr(stats, "EXACT_UP_TO", 0)
    assert stats.mcnemar(900, 1010).p == pytest.approx(exact, rel=1e-9)


def test_no_and_one_observation_have_reasons() -> None:
    for found in (stats.mean([]), stats.proportion(0, 0), stats.ratio([], [])):
        assert (found.value, found.stderr, found.low, found.high, found.n) == (None, None, None, None, 0)
        assert found.reason == "no items"
    for found in (stats.mean([3.0]), stats.proportion(1, 1), stats.ratio([6.0], [2.0])):
        assert found.value in (3.0, 1.0)
        assert found.stderr is None
        assert found.reason
    assert stats.paired_difference([], []).reason == "no items"
    assert stats.paired_difference([1.0], [0.0]).stderr is None
    assert stats.bootstrap(np.zeros((0, 2)), lambda t: t[:, 0]).reason == "no items"
    assert stats.bootstrap([[2.0, 1.0]], lambda t: t[:, 0]).stderr is None
    assert stats.holm([]) == ()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=60))
def test_a_standard_error_of_zero_needs_all_right_or_all_wrong(outcomes: list[float]) -> None:
    right = int(sum(outcomes))
    for found in (stats.mean(outcomes), stats.proportion(right, len(outcomes))):
        assert found.stderr is not None
        assert (found.stderr == 0) == (right in (0, len(outcomes)))
    assert stats.mean(outcomes).stderr == pytest.approx(stats.proportion(right, len(outcomes)).stderr, abs=1e-15)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 500), st.integers(1, 500))
def test_wilson_contains_the_share_and_stays_inside(successes: int, more: int) -> None:
    n = successes + more
    low, high = stats.wilson(successes, n)
    assert 0 <= low <= successes / n < high <= 1
    assert stats.wilson(more, n) == pytest.approx((1 - high, 1 - low))


def test_equal_values_have_no_error_left_by_rounding() -> None:
    assert stats.mean([0.1] * 7).stderr == 0.0
    assert stats.mean([0.1] * 7).value == 0.1


def test_bounds_cut_the_interval() -> None:
    found = stats.mean([0.0, 0.0, 0.0, 100.0], bounds=(0.0, 100.0))
    assert found.low == 0.0
    assert found.high is not None
    assert found.high < 100
    assert stats.mean([0.0, 9.0, 0.0], bounds=(0.0, None)).low == 0.0


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30))
def test_a_ratio_to_ones_is_the_mean(values: list[float]) -> None:
    found, expected = stats.ratio(values, [1.0] * len(values)), stats.mean(values)
    assert found.value == pytest.approx(expected.value, abs=1e-9)
    assert found.stderr == pytest.approx(expected.stderr, abs=1e-9)


def test_the_error_of_a_ratio_is_the_bootstraps() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(5, 200, size=600).astype(float)
    y = rng.binomial(x.astype(int), 0.1).astype(float)
    found = stats.ratio(list(y), list(x))
    spread = stats.bootstrap(np.stack([y, x], axis=1), lambda totals: totals[:, 0] / totals[:, 1], resamples=4000)
    assert found.value == pytest.approx(spread.value)
    assert found.stderr == pytest.approx(spread.stderr, rel=0.06)
    assert (found.low, found.high) == pytest.approx((spread.low, spread.high), rel=0.02)


def test_bootstrap_equals_scipys_and_depends_on_the_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).normal(50, 10, size=200)

    def mean_of(totals: np.ndarray) -> np.ndarray:
        return totals[:, 0] / 200

    found = stats.bootstrap(values[:, None], mean_of, resamples=5000, seed=7)
    reference = scipy.stats.bootstrap((values,), np.mean, n_resamples=5000, method="percentile", rng=1)
    assert found.stderr == pytest.approx(reference.standard_error, rel=0.05)
    assert (found.low, found.high) == pytest.approx(tuple(reference.confidence_interval), abs=0.15)
    assert found.value == pytest.approx(values.mean())
    assert stats.bootstrap(values[::-1, None], mean_of, resamples=5000, seed=7).low == pytest.approx(found.low)
    assert stats.bootstrap(values[:, None], mean_of, resamples=5000, seed=8).low != found.low
    monkeypatch.setattr(stats, "DRAWS_AT_ONCE", 999)
    assert stats.bootstrap(values[:, None], mean_of, resamples=5000, seed=7) == found


def test_the_smallest_difference_a_design_can_see() -> None:
    for correlation, points in ((0.0, 4.4), (0.5, 3.1), (0.8, 2.0)):
        stderr = 100 * math.sqrt(2 * 0.8 * 0.2 * (1 - correlation) / 1319)
        assert stats.smallest_difference(stderr) == pytest.approx(points, abs=0.06)


@pytest.mark.parametrize(
    "call",
    [
        lambda: stats.mean([1.0, math.nan]),
        lambda: stats.mean([math.inf]),
        lambda: stats.mean([0.0, 1.0], confidence=1.0),
        lambda: stats.wilson(0, 0),
        lambda: stats.proportion(3, 2),
        lambda: stats.proportion(-1, 2),
        lambda: stats.ratio([1.0], [0.0]),
        lambda: stats.ratio([1.0], [1.0, 2.0]),
        lambda: stats.paired_difference([1.0], []),
        lambda: stats.discordant([1.0], []),
        lambda: stats.mcnemar(-1, 3),
        lambda: stats.holm([0.5, 1.5]),
        lambda: stats.holm([math.nan]),
        lambda: stats.smallest_difference(-1.0),
        lambda: stats.bootstrap([1.0, 2.0], lambda totals: totals[:, 0]),
        lambda: stats.bootstrap([[math.nan]], lambda totals: totals[:, 0]),
    ],
)
def test_impossible_input_is_refused(call: object) -> None:
    with pytest.raises(DataError):
        call()  # type: ignore[operator]
