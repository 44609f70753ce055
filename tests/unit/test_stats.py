"""Statistics must equal scipy and statsmodels, and say why where there is no number."""

from __future__ import annotations

import gc
import math
import random
import warnings
from itertools import product
from operator import mul

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from unsay import stats
from unsay.errors import DataError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import scipy.stats
    from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
    from statsmodels.stats.multitest import multipletests
    from statsmodels.stats.proportion import proportion_confint
    from statsmodels.stats.weightstats import ztost

SEEDS = range(1000)


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
    assert found.p == pytest.approx(statsmodels_mcnemar(table, exact=True).pvalue, rel=1e-10)
    if only_a + only_b:
        assert found.p == pytest.approx(scipy.stats.binomtest(only_a, only_a + only_b).pvalue, rel=1e-10)

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
    assert paired.diff / paired.stderr == pytest.approx(test.statistic, rel=1e-10)
    gains = [other - score for other, score in zip(others, scores, strict=True)]
    low, high = scipy.stats.norm.interval(0.95, loc=np.mean(gains), scale=scipy.stats.sem(gains))
    assert (paired.low, paired.high) == pytest.approx((low, high), rel=1e-10, abs=1e-10)

    margin = rng.choice([0.1, 0.5, 2.0])
    equal = stats.equivalence(paired.diff, paired.stderr, margin)
    assert equal.p == pytest.approx(ztost(np.array(gains), -margin, margin)[0], rel=1e-9, abs=1e-300)
    z90 = scipy.stats.norm.ppf(0.95) * paired.stderr
    assert equal.equivalent == (-margin < paired.diff - z90 and paired.diff + z90 < margin)


def test_holm_equals_statsmodels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gc, "collect", lambda: 0)  # statsmodels collects garbage, a tenth of a second, on every call
    rng = random.Random(0)
    for _ in SEEDS:
        p_values = [round(rng.random() ** 3, rng.choice([2, 9])) for _ in range(rng.randrange(1, 40))]
        assert stats.holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1], rel=1e-10)


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


@given(st.lists(st.integers(-3, 3), max_size=9))
def test_sign_flips_count_every_choice_of_signs(counts: list[int]) -> None:
    sums = [sum(map(mul, signs, counts)) for signs in product((1, -1), repeat=len(counts))]
    far = sum(abs(each) >= abs(sum(counts)) for each in sums)
    assert stats.sign_flips(counts) == pytest.approx(far / len(sums))


@given(st.integers(0, 400), st.integers(0, 400))
def test_sign_flips_of_ones_are_mcnemars_test(only_a: int, only_b: int) -> None:
    counts = [1] * only_a + [0] * 20 + [-1] * only_b
    assert stats.sign_flips(counts) == pytest.approx(stats.mcnemar(only_a, only_b).p, rel=1e-9)


@pytest.mark.parametrize(("n", "alpha"), [(600, 0.05), (600, 0.005), (40, 0.05)])
def test_the_smallest_change_is_found_four_times_in_five(n: int, alpha: float) -> None:
    share = stats.smallest_change(n, alpha=alpha)
    changed = np.random.default_rng(0).binomial(n, share, size=4000)
    found = np.mean([stats.mcnemar(int(count), 0).p < alpha for count in changed])
    assert found == pytest.approx(0.8, abs=0.025)


def test_a_few_items_can_change_too_little() -> None:
    assert stats.smallest_change(3) == 1.0


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


@pytest.mark.parametrize("df", [1.0, 2.0, 3.7, 12.0, 300.0, 20_000.0, math.inf])
@pytest.mark.parametrize("alpha", [0.05, 0.005, 0.00086])
def test_the_smallest_difference_has_the_power_of_noncentral_t(df: float, alpha: float) -> None:
    found = stats.smallest_difference(2.0, alpha=alpha, df=df) / 2.0
    if math.isinf(df):
        power = scipy.stats.norm.sf(scipy.stats.norm.isf(alpha / 2) - found)
    else:
        power = scipy.stats.nct.sf(scipy.stats.t.isf(alpha / 2, df), df, found)
    assert power == pytest.approx(0.8, abs=0.002)


def test_the_smallest_difference_a_design_can_see() -> None:
    for correlation, points in ((0.0, 4.4), (0.5, 3.1), (0.8, 2.0)):
        stderr = 100 * math.sqrt(2 * 0.8 * 0.2 * (1 - correlation) / 1319)
        assert stats.smallest_difference(stderr) == pytest.approx(points, abs=0.06)


# -- comparing arms ---------------------------------------------------------------


def one_column(at: int, n: int) -> stats.Statistic:
    return lambda totals: totals[:, at] / n


def ratio_of_columns(totals: np.ndarray) -> np.ndarray:
    return totals[:, 0] / totals[:, 1]


def test_a_difference_of_two_runs_is_the_paired_bootstrap() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(50, 10, size=(2, 150))
    b += 0.6 * (a - 50)
    wanted = one_column(0, 150), one_column(1, 150)
    (found,) = stats.differences(np.stack([a, b], axis=1), [wanted], resamples=8000, seed=5)
    reference = scipy.stats.bootstrap((b - a,), np.mean, n_resamples=8000, method="percentile", rng=1)
    assert found.diff == pytest.approx((b - a).mean())
    assert found.stderr == pytest.approx(reference.standard_error, rel=0.04)
    assert (found.low, found.high) == pytest.approx(tuple(reference.confidence_interval), abs=0.15)
    paired = stats.paired_difference(list(b), list(a))
    assert found.stderr == pytest.approx(paired.stderr, rel=0.04)


def test_a_difference_does_not_depend_on_its_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).normal(size=(60, 4))
    wanted = [(one_column(0, 60), one_column(2, 60))]
    alone = stats.differences(rows, wanted, resamples=500)
    more = stats.differences(rows, [*wanted, (one_column(3, 60), one_column(0, 60))], resamples=500)
    assert more[0] == alone[0]
    assert stats.differences(rows, wanted, resamples=500, seed=1) != alone
    monkeypatch.setattr(stats, "DRAWS_AT_ONCE", 999)
    (chunked,) = stats.differences(rows, wanted, resamples=500)
    assert (chunked.low, chunked.high, chunked.p) == pytest.approx((alone[0].low, alone[0].high, alone[0].p))


def test_pseudo_values_of_a_mean_are_its_items() -> None:
    values = np.random.default_rng(1).normal(size=30)
    rows = np.stack([values, np.ones(30)], axis=1)
    assert stats.pseudo_values(rows, ratio_of_columns) == pytest.approx(values, abs=1e-12)


@given(
    st.lists(
        st.tuples(st.floats(0, 50), st.floats(1, 60)).map(lambda pair: (min(pair), pair[1])), min_size=2, max_size=40
    )
)
def test_pseudo_values_have_the_value_as_their_mean(rows: list[tuple[float, float]]) -> None:
    expected = sum(a for a, _ in rows) / sum(b for _, b in rows)
    assert stats.pseudo_values(rows, ratio_of_columns).mean() == pytest.approx(expected, abs=1e-9)


def test_pseudo_values_of_a_ratio_have_the_error_of_its_delta_method() -> None:
    rng = np.random.default_rng(2)
    below = rng.uniform(5, 15, 4000)
    above = below * rng.uniform(0.2, 0.8, 4000)
    each = stats.pseudo_values(np.stack([above, below], axis=1), ratio_of_columns)
    expected = stats.ratio(above.tolist(), below.tolist())
    assert stats.mean(each.tolist()).stderr == pytest.approx(expected.stderr, rel=1e-2)


def test_two_equal_arms_have_p_1_and_two_far_apart_the_smallest_there_is() -> None:
    rows = np.stack([np.arange(40.0), np.arange(40.0), np.arange(40.0) + 100], axis=1)
    same, apart = ((one_column(0, 40), one_column(other, 40)) for other in (1, 2))
    found = stats.differences(rows, [same, apart], resamples=1000)
    assert [each.p for each in found] == [1.0, 2 / 1001]
    assert [each.diff for each in found] == [0.0, 100.0]


def test_none_and_one_item_have_reasons_and_no_errors() -> None:
    wanted = one_column(0, 1), one_column(1, 1)
    (none,) = stats.differences(np.zeros((0, 2)), [wanted])
    (one,) = stats.differences([[1.0, 3.0]], [wanted])
    assert (none.diff, none.p, none.reason) == (None, None, "no items")
    assert (one.diff, one.stderr, one.p) == (2.0, None, None)
    assert one.reason


@given(st.floats(-4, 4), st.floats(0.1, 3), st.floats(0.5, 5), st.floats(1, 40))
def test_equivalence_is_the_larger_of_two_t_tests(diff: float, stderr: float, margin: float, df: float) -> None:
    t = scipy.stats.t(df)
    expected = max(t.sf((diff + margin) / stderr), t.cdf((diff - margin) / stderr))
    assert stats.equivalence(diff, stderr, margin, df=df).p == pytest.approx(expected, abs=1e-9)


def test_the_same_trainings_are_subtracted_first() -> None:
    rng = np.random.default_rng(7)
    one = _crossed(rng, 3, 200, of_seed=20, of_item=5)
    two = one + 1 + rng.normal(0, 0.5, (3, 200))
    found = stats.seeded_difference(one, two, same_training=True)
    assert found == stats.seeded_mean(two - one)
    assert found.p < 1e-3 < stats.seeded_difference(one, two).p


def test_equivalence_at_its_edges() -> None:
    assert stats.equivalence(0.0, 0.0, 1.0).equivalent
    assert not stats.equivalence(1.0, 0.0, 1.0).equivalent
    assert stats.equivalence(1.0, 0.5, 1.0).p == pytest.approx(0.5)
    assert stats.equivalence(-0.3, 0.4, 1.0).p == stats.equivalence(0.3, 0.4, 1.0).p
    assert 0 < stats.equivalence(0.0, 1.0, 30.0).p < 1e-100, "the tail is not rounded away"


# -- coverage ---------------------------------------------------------------------

SIZES = (100, 600, 1319)
SHARES = tuple(share / 10 for share in range(1, 10))
DRAWS = 20_000


@pytest.mark.slow
@pytest.mark.parametrize("n", SIZES)
def test_wilson_covers_the_true_share(n: int) -> None:
    rng = np.random.default_rng(n)
    intervals = np.array([stats.wilson(right, n) for right in range(n + 1)])
    covered = []
    for share in SHARES:
        low, high = intervals[rng.binomial(n, share, size=DRAWS)].T
        covered.append(float(((low <= share) & (share <= high)).mean()))
    print(f"Wilson, n = {n}: {100 * np.mean(covered):.2f} % ({100 * min(covered):.2f} to {100 * max(covered):.2f})")
    assert 0.93 <= np.mean(covered) <= 0.97
    assert min(covered) > 0.92


@pytest.mark.slow
@pytest.mark.parametrize("n", SIZES)
def test_the_paired_interval_covers_the_true_difference(n: int) -> None:
    """Two systems that are right on the same items more often than by chance, the second one 3 points better."""
    rng = np.random.default_rng(n)
    covered = []
    for share in SHARES:
        other = min(share + 0.03, 1.0)
        both = share * other + 0.4 * math.sqrt(share * (1 - share) * other * (1 - other))  # correlation 0.4
        only_a, only_b = share - both, other - both
        counts = rng.multinomial(n, [only_a, only_b, 1 - only_a - only_b], size=DRAWS)
        diff, low, high = paired_intervals(counts[:, 0], counts[:, 1], n)
        for at in range(0, DRAWS, DRAWS // 20):  # the vectorised form is ours
            x, y = int(counts[at, 0]), int(counts[at, 1])
            a, b = [0.0] * y + [1.0] * x + [0.0] * (n - x - y), [1.0] * y + [0.0] * (n - y)
            ours = stats.paired_difference(b, a)
            assert (diff[at], low[at], high[at]) == pytest.approx((ours.diff, ours.low, ours.high), abs=1e-12)
        truth = only_b - only_a
        covered.append(float(((low <= truth) & (truth <= high)).mean()))
    print(f"Paired, n = {n}: {100 * np.mean(covered):.2f} % ({100 * min(covered):.2f} to {100 * max(covered):.2f})")
    assert 0.93 <= np.mean(covered) <= 0.97


def paired_intervals(only_a: np.ndarray, only_b: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    diff = (only_b - only_a) / n
    stderr = np.sqrt(((only_a + only_b) / n - diff**2) / (n - 1))
    z = float(scipy.stats.norm.ppf(0.975))
    return diff, diff - z * stderr, diff + z * stderr


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
        lambda: stats.equivalence(0.0, 1.0, 0.0),
        lambda: stats.equivalence(0.0, 1.0, math.inf),
        lambda: stats.equivalence(0.0, -1.0, 1.0),
        lambda: stats.equivalence(math.nan, 1.0, 1.0),
        lambda: stats.differences([1.0], [(one_column(0, 1), one_column(0, 1))]),
        lambda: stats.pseudo_values([[math.inf], [1.0]], one_column(0, 2)),
        lambda: stats.seeded_difference([[1.0, 2.0]] * 2, [[1.0, 2.0]] * 3, same_training=True),
        lambda: stats.bootstrap([1.0, 2.0], lambda totals: totals[:, 0]),
        lambda: stats.bootstrap([[math.nan]], lambda totals: totals[:, 0]),
    ],
)
def test_impossible_input_is_refused(call: object) -> None:
    with pytest.raises(DataError):
        call()  # type: ignore[operator]


# -- AUROC ------------------------------------------------------------------------


@given(
    st.integers(2, 40).flatmap(
        lambda n: st.tuples(*[st.lists(st.integers(0, 5).map(float), min_size=n, max_size=n) for _ in range(2)])
    )
)
def test_auroc_is_the_mann_whitney_statistic(scores: tuple[list[float], list[float]]) -> None:
    high, low = scores
    found = stats.auroc(high, low)
    pairs = [1.0 if x > y else 0.5 if x == y else 0.0 for x in high for y in low]
    assert found.value == pytest.approx(sum(pairs) / len(pairs))
    assert found.value == pytest.approx(scipy.stats.mannwhitneyu(high, low).statistic / len(pairs))
    assert stats.auroc(low, high).value == pytest.approx(1 - (found.value or 0))
    shifted = stats.auroc([math.exp(x) for x in high], [math.exp(y) for y in low])
    assert (shifted.value, shifted.stderr) == pytest.approx((found.value, found.stderr))


@pytest.mark.parametrize("rho", [0.0, 0.8])
def test_the_error_of_auroc_holds_where_the_two_scores_of_an_item_go_together(rho: float) -> None:
    rng = np.random.default_rng(7)
    areas, errors = [], []
    for _ in range(600):
        common = rng.normal(size=100) * rho**0.5
        high, low = (common + rng.normal(size=100) * (1 - rho) ** 0.5 for _ in range(2))
        found = stats.auroc((high + 0.7).tolist(), low.tolist())
        areas.append(found.value)
        errors.append(found.stderr)
    assert np.mean(errors) == pytest.approx(np.std(areas), rel=0.1)
    assert np.mean(areas) == pytest.approx(scipy.stats.norm.cdf(0.7 / 2**0.5), abs=4 * np.std(areas) / 600**0.5)


def test_auroc_says_why_there_is_no_number() -> None:
    assert stats.auroc([], []).reason == "no items"
    assert stats.auroc([1.0], [0.0]).stderr is None
    assert "no standard error" in (stats.auroc([1.0, 1.0], [0.0, 0.0]).reason or "")
    with pytest.raises(DataError, match="one negative for each positive, got 2 and 1"):
        stats.auroc([1.0, 2.0], [1.0])


@pytest.mark.parametrize("df", [0.7, 1.0, 2.0, 3.3, 30.0, 1e4, math.inf])
def test_students_t_equals_scipy(df: float) -> None:
    for t in (0.0, 0.1, 1.0, 3.0, 30.0):
        assert stats.student_p(-t, df) == pytest.approx(2 * scipy.stats.t.sf(t, df), rel=1e-9, abs=1e-300)
    for share in (0.001, 0.2, 0.5, 0.8, 0.975, 0.9985):
        assert stats.student_quantile(share, df) == pytest.approx(scipy.stats.t.ppf(share, df), rel=1e-7, abs=1e-12)


def _crossed(
    rng: np.random.Generator, seeds: int, items: int, *, of_seed: float, of_item: float
) -> NDArray[np.float64]:
    """Scores with a chance of seeds and of items, and one of each cell: in points, around 0."""
    cells = rng.normal(0, 30, (seeds, items))
    return cells + rng.normal(0, of_seed, (seeds, 1)) + rng.normal(0, of_item, (1, items))


def test_over_seeds_that_are_one_is_over_items() -> None:
    """Three copies of one seed are worth one: the error is that of its items, not a third of it."""
    row = np.random.default_rng(1).normal(3, 20, 400)
    found, single = stats.seeded_mean([row, row, row]), stats.mean(row)
    assert found.stderr == pytest.approx(single.stderr)
    assert found.df > 1e9
    assert found.p == pytest.approx(stats.two_sided_p(single.value / single.stderr))


def test_over_seeds_that_differ_by_far_is_the_t_test_over_seeds() -> None:
    table = _crossed(np.random.default_rng(2), 4, 50_000, of_seed=20, of_item=0)
    means = table.mean(axis=1)
    expected = scipy.stats.ttest_1samp(means, 0)
    assert stats.seeded_mean(table).p == pytest.approx(expected.pvalue, rel=0.02)
    other = _crossed(np.random.default_rng(3), 3, 50_000, of_seed=10, of_item=0)
    expected = scipy.stats.ttest_ind(other.mean(axis=1), means, equal_var=False)
    found = stats.seeded_difference(table, other)
    assert found.p == pytest.approx(expected.pvalue, rel=0.02)
    assert found.value == pytest.approx(other.mean() - means.mean())
    assert found.low < found.value < found.high


def test_a_single_trained_seed_varies_like_those_of_the_other_side() -> None:
    rng = np.random.default_rng(4)
    many, one = (_crossed(rng, seeds, 500, of_seed=5, of_item=10) for seeds in (3, 1))
    trained = stats.seeded_difference(many, one)
    fixed = stats.seeded_difference(many, one, trained=(True, False))
    assert trained.stderr > fixed.stderr
    assert trained.by_seeds[0] == pytest.approx(many.mean(axis=1).std(ddof=1) * math.sqrt(1 + 1 / 3))
    with pytest.raises(DataError, match="two seeds on one side"):
        stats.seeded_difference(one, one)


def test_what_never_varies_has_no_error_of_its_own() -> None:
    same = stats.seeded_mean(np.full((3, 9), 0.0))
    assert (same.value, same.stderr, same.p) == (0.0, 0.0, 1.0)
    assert stats.seeded_mean(np.full((3, 9), 5.0)).p == scipy.stats.binomtest(0, 9).pvalue
    assert stats.seeded_difference(np.zeros((3, 600)), np.full((2, 600), 100.0)).p < 1e-100
    assert stats.seeded_mean([[1.0], [2.0]]).p is None


def test_an_area_over_seeds_has_the_error_of_items_and_of_seeds() -> None:
    rng = np.random.default_rng(5)
    high, low = rng.normal(0.8, 1, 300), rng.normal(0, 1, 300)
    one = stats.auroc(high.tolist(), low.tolist())
    copies = stats.auroc_over_seeds([(high.tolist(), low.tolist())] * 3)
    assert copies.value == pytest.approx(one.value)
    assert copies.stderr == pytest.approx(one.stderr)  # the spread over seeds alone would be 0
    apart = stats.auroc_over_seeds([((high + shift).tolist(), low.tolist()) for shift in (-2, 0, 2)])
    areas = [stats.auroc((high + shift).tolist(), low.tolist()).value for shift in (-2, 0, 2)]
    assert apart.value == pytest.approx(np.mean(areas))
    assert apart.stderr >= np.std(areas, ddof=1) / math.sqrt(3)
    assert 0 <= apart.low <= apart.high <= 1


@pytest.mark.slow
@pytest.mark.parametrize("of_seed", [0.0, 1.0, 3.0, 8.0])
@pytest.mark.parametrize("of_item", [0.0, 20.0])
def test_seeds_and_items_find_nothing_where_there_is_nothing(of_seed: float, of_item: float) -> None:
    """Three seeds at the level of a Holm step; a hierarchical bootstrap finds up to 10 % there."""
    rng = np.random.default_rng(6)
    draws = 1200
    paired = [stats.seeded_mean(_crossed(rng, 3, 200, of_seed=of_seed, of_item=of_item)).p for _ in range(draws)]
    apart = []
    for _ in range(draws):
        table = _crossed(rng, 6, 200, of_seed=of_seed, of_item=of_item)
        apart.append(stats.seeded_difference(table[:3], table[3:]).p)
    for found in (paired, apart):
        p = np.array(found)
        assert (p < 0.003).mean() < 0.003 + 3 * math.sqrt(0.003 / draws)
        assert (p < 0.05).mean() < 0.05 + 3 * math.sqrt(0.05 / draws)


def test_seeds_and_items_find_what_is_there() -> None:
    """What is said to be seen four times in five is. (A test that never finds anything would pass the one above.)"""
    rng = np.random.default_rng(7)
    true = stats.smallest_difference(math.sqrt((1.0 + 30.0**2 / 200) / 3), df=2)  # of three seeds and their cells
    found = []
    for _ in range(600):
        p = stats.seeded_mean(_crossed(rng, 3, 200, of_seed=1.0, of_item=5.0) + true).p
        found.append(p is not None and p < 0.05)
    assert np.mean(found) == pytest.approx(0.8, abs=0.05)  # three standard errors of 600 draws
