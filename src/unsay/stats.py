"""Intervals and paired comparisons for scores.

Knows numbers only: no samples, no metrics, no files, no formatting. Values keep the unit they come in (0-1, 0-100,
tokens). What cannot be computed is `None` with a reason, never 0 and never nan.

    mean([1, 0, 1, 1]).stderr        # 0.25
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unsay.errors import DataError

CONFIDENCE = 0.95
EXACT_UP_TO = 20_000
"""Discordant pairs up to which McNemar's tail is summed in whole numbers."""
DRAWS_AT_ONCE = 2_000_000
"""Indices drawn at once by the bootstrap: bounds its memory, does not change its result."""
BLOCKS = 20_000
"""Blocks that the bootstrap draws instead of rows, at least, where there are more than twice as many rows."""

_NORMAL_FROM = 1e7
"""Degrees of freedom from which Student's t is taken as the normal distribution."""
_CENTRAL_FROM = 1e4
"""Degrees of freedom from which noncentral t is taken as Student's t, moved."""

Rows = NDArray[np.float64]
Statistic = Callable[[Rows], NDArray[np.float64]]


@dataclass(frozen=True)
class Estimate:
    """A value with its standard error and 95 % interval over n observations."""

    value: float | None
    stderr: float | None
    low: float | None
    high: float | None
    n: int
    reason: str | None = None
    """Why something above is None."""


@dataclass(frozen=True)
class PairedDifference:
    """Mean of a - b over the same n items, with the standard error of that mean."""

    diff: float | None
    stderr: float | None
    low: float | None
    high: float | None
    n: int
    reason: str | None = None


@dataclass(frozen=True)
class McNemar:
    """Exact McNemar test: items only a has right, items only b has right, two-sided p."""

    only_a: int
    only_b: int
    p: float


@dataclass(frozen=True)
class Bootstrap:
    """A statistic of all items, and its spread over `resamples` seeded resamples of the items."""

    value: float | None
    stderr: float | None
    low: float | None
    high: float | None
    n: int
    resamples: int
    seed: int
    reason: str | None = None


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided tests (TOST) of |true difference| < margin; `p` is the larger of their two p-values."""

    margin: float
    p: float
    equivalent: bool
    """p is below alpha: the difference is shown to be smaller than the margin."""


@dataclass(frozen=True)
class Resampled:
    """A difference and its spread over seeded resamples; `p` is two-sided, (1 + resamples across 0) counted.

    `stderr`, `low`, `high` and `p` are None for a single item.
    """

    diff: float | None
    stderr: float | None
    low: float | None
    high: float | None
    p: float | None
    n: int
    resamples: int
    seed: int
    reason: str | None = None


@dataclass(frozen=True)
class Seeded:
    """A mean over seeds and items, or a difference of two: n items, `df` degrees of freedom (inf: many).

    `p` is two-sided, of the value being 0; `by_seeds` has error and degrees of freedom of the seeds alone. All but
    `value` are None where the chance is not known.
    """

    value: float
    stderr: float | None
    df: float | None
    low: float | None
    high: float | None
    p: float | None
    n: int
    by_seeds: tuple[float, float] | None = None

    @property
    def errors(self) -> tuple[tuple[float, float], ...]:
        """Standard errors with their degrees of freedom; the wider interval, and the larger p, count."""
        if not self.stderr or self.df is None:
            return ()
        return ((self.stderr, self.df), *([self.by_seeds] if self.by_seeds is not None else []))


def mean(
    values: Iterable[float], *, bounds: tuple[float, float | None] | None = None, confidence: float = CONFIDENCE
) -> Estimate:
    """Estimate a mean: stderr = sd / sqrt(n), sd with n - 1, interval mean ± z · stderr.

    The formula is lm-eval's and Inspect's. `bounds` (lowest, highest or None) cuts the interval to the values a score
    can take. One value has a mean but no standard error. Raises DataError for a value that is not finite.
    """
    data = _finite(values)
    n = len(data)
    if n == 0:
        return Estimate(None, None, None, None, 0, "no items")
    if n == 1:
        return Estimate(data[0], None, None, None, 1, "one item has no standard error")
    if min(data) == max(data):  # spares a stderr of 1e-17 left by rounding
        return Estimate(data[0], 0.0, data[0], data[0], n)
    value = math.fsum(data) / n
    stderr = math.sqrt(math.fsum((item - value) ** 2 for item in data) / (n - 1) / n)
    low, high = _normal_interval(value, stderr, bounds, confidence)
    return Estimate(value, stderr, low, high, n)


def proportion(successes: int, n: int, *, confidence: float = CONFIDENCE) -> Estimate:
    """Estimate a share of 0/1 outcomes on the 0-1 scale: the standard error of `mean`, the interval of `wilson`.

    The standard error sqrt(p(1 - p) / (n - 1)) is 0 only where all outcomes agree. Raises DataError for impossible
    counts.
    """
    _check_counts(successes, n)
    if n == 0:
        return Estimate(None, None, None, None, 0, "no items")
    p = successes / n
    low, high = wilson(successes, n, confidence=confidence)
    if n == 1:
        return Estimate(p, None, low, high, 1, "one item has no standard error")
    return Estimate(p, math.sqrt(p * (1 - p) / (n - 1)), low, high, n)


def wilson(successes: int, n: int, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Give the Wilson score interval of a proportion, 0-1 (E. B. Wilson 1927; no continuity correction).

    Raises DataError for n = 0 and for impossible counts.
    """
    _check_counts(successes, n)
    if n == 0:
        raise DataError("Wilson interval: expected at least one outcome, got none")
    z = _z(confidence)
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high


def ratio(
    numerators: Sequence[float],
    denominators: Sequence[float],
    *,
    bounds: tuple[float, float | None] | None = None,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """Estimate sum(numerators) / sum(denominators), one pair per item, with the item as the unit of chance.

    The standard error is the ratio estimator's (Cochran, Sampling Techniques, 6.3), which is the clustered one where
    the denominator counts observations inside an item: sqrt(n / (n - 1) · sum((y - R x)²)) / sum(x). With all
    denominators 1 it is `mean`. Raises DataError for unequal lengths, non-finite values or a denominator <= 0.
    """
    y, x = _finite(numerators), _finite(denominators)
    n = len(y)
    if n != len(x):
        raise DataError(f"ratio: expected as many numerators as denominators, got {n} and {len(x)}")
    if any(item <= 0 for item in x):
        raise DataError("ratio: expected denominators above 0; leave out items that have none")
    if n == 0:
        return Estimate(None, None, None, None, 0, "no items")
    value = math.fsum(y) / math.fsum(x)
    if n == 1:
        return Estimate(value, None, None, None, 1, "one item has no standard error")
    if len({top / bottom for top, bottom in zip(y, x, strict=True)}) == 1:
        return Estimate(value, 0.0, value, value, n)
    squares = math.fsum((top - value * bottom) ** 2 for top, bottom in zip(y, x, strict=True))
    stderr = math.sqrt(n / (n - 1) * squares) / math.fsum(x)
    low, high = _normal_interval(value, stderr, bounds, confidence)
    return Estimate(value, stderr, low, high, n)


def paired_difference(a: Sequence[float], b: Sequence[float], *, confidence: float = CONFIDENCE) -> PairedDifference:
    """Compare two systems on the same items: mean of a - b, its stderr (sd of the differences / sqrt(n)), z interval.

    `a[i]` and `b[i]` must be scores of one item. Raises DataError where the lengths differ or a value is not finite.
    """
    if len(a) != len(b):
        raise DataError(f"paired difference: expected the same items on both sides, got {len(a)} and {len(b)}")
    found = mean((left - right for left, right in zip(a, b, strict=True)), confidence=confidence)
    return PairedDifference(found.value, found.stderr, found.low, found.high, found.n, found.reason)


def mcnemar(only_a: int, only_b: int) -> McNemar:
    """Test whether two systems differ on paired 0/1 outcomes: two-sided exact binomial test of the discordant pairs.

    p = min(1, 2 · P(X <= min(only_a, only_b))) with X ~ Binomial(only_a + only_b, 1/2); 1 without discordant pairs.
    Summed in whole numbers up to 20,000 pairs, then in floating point to about ten digits. Raises DataError for
    negative counts.
    """
    if only_a < 0 or only_b < 0:
        raise DataError(f"McNemar: expected counts of at least 0, got {only_a} and {only_b}")
    return McNemar(only_a, only_b, min(1.0, _two_tails(min(only_a, only_b), only_a + only_b)))


def sign_flips(counts: Sequence[int]) -> float:
    """Return the two-sided p of Fisher's randomization test: is each count as likely positive as negative?

    The share of all 2^m choices of signs of the m counts whose sum is at least as far from 0 (The Design of
    Experiments, 1935, section 21), worked out exactly; with counts of -1, 0 and 1 it is `mcnemar`. A count is how many
    more of several models have an item right on one side: the models are given, the items are drawn by chance.
    """
    sizes = [abs(int(count)) for count in counts if count]
    chances = np.ones(1)  # of the sums -total, -total + 2, …, total
    for size in sizes:
        grown = np.zeros(len(chances) + size)
        grown[: len(chances)] += chances / 2
        grown[size:] += chances / 2
        chances = grown
    total = sum(sizes)
    far = np.abs(2 * np.arange(len(chances)) - total) >= abs(sum(int(count) for count in counts))
    return min(1.0, float(chances[far].sum()))


def discordant(a: Sequence[float], b: Sequence[float]) -> tuple[int, int]:
    """Count the items that only a, and only b, has right (above 0) — what `mcnemar` takes.

    Raises DataError where the lengths differ.
    """
    if len(a) != len(b):
        raise DataError(f"discordant: expected the same items on both sides, got {len(a)} and {len(b)}")
    pairs = [(left > 0, right > 0) for left, right in zip(a, b, strict=True)]
    return pairs.count((True, False)), pairs.count((False, True))


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Adjust p-values for several comparisons, in the order given (S. Holm 1979, step-down).

    Raises DataError for a p-value outside 0-1.
    """
    if any(not 0 <= p <= 1 for p in p_values):
        raise DataError(f"Holm: expected p-values between 0 and 1, got {list(p_values)}")
    adjusted = [0.0] * len(p_values)
    floor = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        floor = max(floor, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = floor
    return tuple(adjusted)


def auroc(positives: Sequence[float], negatives: Sequence[float], *, confidence: float = CONFIDENCE) -> Estimate:
    """Estimate P(a positive scores higher than a negative), ties half, of pairs that belong to one item each.

    `positives[i]` and `negatives[i]` are scores of one item. The value is the Mann-Whitney statistic over all pairs;
    the standard error is Obuchowski's for clustered data (Biometrics 53, 1997), which is DeLong's where the two scores
    of an item are independent: with the components v_i = P(positive i above a negative) and w_i = P(a positive above
    negative i), sqrt((var(v) + var(w) + 2 cov(v, w)) / n). Raises DataError for unequal lengths or non-finite scores.
    """
    high, low = np.array(_finite(positives)), np.array(_finite(negatives))
    n = len(high)
    if n != len(low):
        raise DataError(f"auroc: expected one negative for each positive, got {n} and {len(low)}")
    if n == 0:
        return Estimate(None, None, None, None, 0, "no items")
    components = _auroc_components(high, low)
    value = float(components.mean() / 2)
    if n == 1:
        return Estimate(value, None, None, None, 1, "one item has no standard error")
    stderr = float(np.std(components, ddof=1)) / math.sqrt(n)
    if stderr == 0:
        return Estimate(value, None, None, None, n, f"all {n} items score the same: no standard error")
    lowest, highest = _normal_interval(value, stderr, (0.0, 1.0), confidence)
    return Estimate(value, stderr, lowest, highest, n)


def auroc_over_seeds(seeds: Sequence[tuple[Sequence[float], Sequence[float]]]) -> Seeded:
    """Estimate the mean of one AUROC per seed, all on the same items in the same order, as `seeded_mean` does.

    Obuchowski's components of the items give the error of each area and what the areas have in common because they
    share their items. Scores of differently trained models are on scales of their own: they never enter one area.
    """
    rows = []
    for positives, negatives in seeds:
        components = _auroc_components(np.array(_finite(positives)), np.array(_finite(negatives)))
        rows.append(components - components.mean() / 2)  # they average to twice the area
    return seeded_mean(rows, bounds=(0.0, 1.0))


def _auroc_components(high: NDArray[np.float64], low: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return v_i + w_i of `auroc`; their mean is twice the area."""
    components: NDArray[np.float64] = _shares_below(np.sort(low), high) + 1 - _shares_below(np.sort(high), low)
    return components


def _shares_below(ordered: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return for each value the share of the others that are smaller, equal ones counted half."""
    left, right = (np.searchsorted(ordered, values, side=side) for side in ("left", "right"))
    shares: NDArray[np.float64] = (left + right) / (2 * len(ordered))
    return shares


def two_sided_p(z: float) -> float:
    """Return how likely a standard normal number is at least as far from 0 as z, accurate far out."""
    return 2 * _upper_tail(abs(z))


def smallest_difference(stderr: float, *, alpha: float = 0.05, power: float = 0.8, df: float = math.inf) -> float:
    """Give the smallest true difference a two-sided test with this standard error finds with this power.

    δ · stderr, in the unit of `stderr`, where noncentral t with noncentrality δ and `df` degrees of freedom exceeds
    t(1 - alpha/2) with this power; for the normal distribution, unless `df` is given, δ = z(1 - alpha/2) + z(power).
    Raises DataError for a negative standard error.
    """
    if not stderr >= 0:
        raise DataError(f"smallest difference: expected a standard error of at least 0, got {stderr}")
    return _noncentrality(alpha, power, df) * stderr


@lru_cache(maxsize=1024)
def _noncentrality(alpha: float, power: float, df: float) -> float:
    """Return δ of `smallest_difference`: Φ(δ - t · s) averaged over s, the estimated error by the true one, is power.

    s² · df has the chi-squared distribution; the tail on the other side adds nothing at any power above alpha.
    """
    critical = student_quantile(1 - alpha / 2, df)
    if df > _CENTRAL_FROM:
        return critical + student_quantile(power, df)
    width = 8 / math.sqrt(2 * df)
    s = np.linspace(max(0.0, 1 - width), 1 + width, 401)[1:]
    logs = (df - 1) * np.log(s) - df * s**2 / 2
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    low, high = 0.0, critical * float(s[-1]) + 10
    for _ in range(40):
        delta = (low + high) / 2
        found = math.fsum(w * (1 - _upper_tail(delta - at)) for w, at in zip(weights, critical * s, strict=True))
        low, high = (delta, high) if found < power else (low, delta)
    return high


def smallest_change(n: int, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """Return the share of n items that has to change, all to one side, for `mcnemar` to find it with this power.

    It asks for 1 + log2(1 / alpha) items that change; 1 where there are not so many items.
    """
    needed = math.floor(1 - math.log2(alpha)) + 1
    low, high = 0.0, 1.0
    for _ in range(60):
        share = (low + high) / 2
        missed = math.fsum(math.comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(min(needed, n + 1)))
        low, high = (share, high) if 1 - missed < power else (low, share)
    return high


def student_p(t: float, df: float) -> float:
    """Return how likely a number of Student's t with `df` degrees of freedom (inf: normal) is as far from 0 as t.

    The regularised incomplete beta function I(df / 2, 1 / 2) at df / (df + t²), by its continued fraction (Lentz).
    Raises DataError for df that is not above 0.
    """
    if not df > 0:
        raise DataError(f"Student's t: expected degrees of freedom above 0, got {df}")
    if df > _NORMAL_FROM:
        return two_sided_p(t)
    if t == 0:
        return 1.0
    if math.isinf(t):
        return 0.0
    a, b, x, y = df / 2, 0.5, df / (df + t * t), t * t / (df + t * t)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(y)
    )  # fmt: skip
    if x < (a + 1) / (a + b + 2):
        return min(1.0, front * _beta_fraction(a, b, x) / a)
    return max(0.0, 1 - front * _beta_fraction(b, a, y) / b)


def student_quantile(share: float, df: float) -> float:
    """Return the number below which this share of Student's t lies, by bisection; raises DataError outside 0 to 1."""
    if not 0 < share < 1:
        raise DataError(f"Student's t: expected a share between 0 and 1, got {share}")
    if df > _NORMAL_FROM:
        return NormalDist().inv_cdf(share)
    tails = 2 * min(share, 1 - share)
    low, high = 0.0, 1.0
    while student_p(high, df) > tails:
        low, high = high, 2 * high
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if student_p(middle, df) > tails else (low, middle)
    return math.copysign(high, share - 0.5) if share != 0.5 else 0.0


def _beta_fraction(a: float, b: float, x: float) -> float:
    tiny, c = 1e-300, 1.0
    d = 1 / max(tiny, 1 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d, c = 1 + term * d, 1 + term / c
            d, c = 1 / (d if abs(d) > tiny else tiny), c if abs(c) > tiny else tiny
            fraction *= d * c
        if abs(d * c - 1) < 1e-15:
            break
    return fraction


def equivalence(diff: float, stderr: float, margin: float, *, alpha: float = 0.05, df: float = math.inf) -> Equivalence:
    """Test whether a true difference is smaller than `margin` in size, by two one-sided t tests (TOST).

    Equivalent at `alpha` where the 1 - 2 · alpha interval diff ± t · stderr, with `df` degrees of freedom, lies inside
    ± margin. Raises DataError for a margin that is not above 0 or a negative standard error.
    """
    if not 0 < margin < math.inf:
        raise DataError(f"equivalence: expected a margin above 0, got {margin}")
    if not stderr >= 0 or not math.isfinite(diff):
        raise DataError(f"equivalence: expected a difference and its standard error, got {diff} and {stderr}")
    if stderr == 0:
        p = 0.0 if abs(diff) < margin else 1.0
    else:
        t = (margin - abs(diff)) / stderr
        p = student_p(t, df) / 2 if t >= 0 else 1 - student_p(t, df) / 2
    return Equivalence(margin, p, p < alpha)


def seeded_mean(rows: Any, *, bounds: tuple[float, float] | None = None, confidence: float = CONFIDENCE) -> Seeded:
    """Estimate a mean over seeds and items that were both drawn by chance; `rows` is (seeds, items), crossed.

    The readers and cases of diagnostic studies, for which Obuchowski and Rockette (Communications in Statistics 24,
    1995) give the variance and Hillis (Statistics in Medicine 26, 2007) the degrees of freedom: with S² the variance of
    the K means, c the covariance that two of them have because they share their items, never taken below 0,

        V = S² / K + c,    df = V² / ((S² / K)² / (K - 1))

    S² is not taken below v - c, v being the mean variance of one of the K means over the items: that much the items
    alone make. Where a few seeds differ by far more than items explain, and happen to agree, df comes out too large:
    simulated with K = 3, n = 600, p below 0.003 comes up to 2 % of the time. So p is the larger one of this test and of
    the t test over the K means with K - 1 degrees of freedom, and the interval is the wider one. Where nothing varies,
    p is the sign test's over the items. Raises DataError for rows that are no finite table.
    """
    table = _table(rows)
    parts = _seed_parts(table)
    return _seeded(float(table.mean()), [parts], parts.shared, table.shape[1], bounds, confidence)


def seeded_difference(
    a: Any,
    b: Any,
    *,
    same_training: bool = False,
    trained: tuple[bool, bool] = (True, True),
    confidence: float = CONFIDENCE,
) -> Seeded:
    """Estimate b minus a, each (seeds, items), on the same items, with seeds of their own.

    As `seeded_mean`, with S² / K of both sides and c(a) + c(b) - 2 c(a, b) for the items (readers nested in
    modalities: Hillis, Statistics in Medicine 33, 2014). With the `same_training` in every row of both, what differs
    between trainings is no chance of the difference: they are subtracted first. A single seed of something that was
    `trained` is taken to vary as the seeds of the other side do; what is not trained has no such chance. Raises
    DataError where the items differ in number, for rows that are no finite table, and where neither side has two seeds:
    `mcnemar` is for those.
    """
    one, two = _table(a), _table(b)
    if one.shape[1] != two.shape[1]:
        raise DataError(f"seeded difference: expected the same items, got {one.shape[1]} and {two.shape[1]}")
    if same_training:
        if len(one) != len(two):
            raise DataError(f"seeded difference: expected the same trainings, got {len(one)} and {len(two)}")
        return seeded_mean(two - one, confidence=confidence)
    if len(one) < 2 and len(two) < 2:
        raise DataError("seeded difference: expected two seeds on one side at least, got one on each")
    n = one.shape[1]
    value = float(two.mean() - one.mean())
    if n < 2:
        return Seeded(value, None, None, None, None, None, n)
    parts = [_seed_parts(one), _seed_parts(two)]
    spreads = list(parts)
    for at, side in enumerate((one, two)):
        other = parts[1 - at]
        if len(side) == 1 and trained[at]:
            # one mean more with the chance of the other side's
            shared = max(0.0, parts[at].shared - other.own)
            parts[at] = replace(parts[at], shared=shared)
            times = 1 + other.seeds
            spreads = [replace(other, spread=times * other.spread, seen=times * other.seen)]
    mixed = float((_centred(one).mean(axis=0) * _centred(two).mean(axis=0)).sum()) / (n - 1) / n
    shared = parts[0].shared + parts[1].shared - 2 * mixed
    return _seeded(value, spreads, shared, n, None, confidence)


@dataclass(frozen=True)
class _SeedParts:
    """Where the variance of a mean over seeds comes from.

    `spread` is S² / K with what it is not taken below, `seen` without; `shared` is c, `own` is v - c of one seed.
    """

    seeds: int
    spread: float
    shared: float
    own: float
    seen: float = 0.0


def _seed_parts(table: Rows) -> _SeedParts:
    """Take the variance of a table (seeds, items) apart; that of a single seed is all `shared`."""
    count, n = table.shape
    if n < 2 or count == 0:
        return _SeedParts(count, 0.0, 0.0, 0.0)
    each = _centred(table)
    single = float((each**2).sum()) / (n - 1) / n / count
    if count == 1:
        return _SeedParts(1, 0.0, single, 0.0)
    together = float((each.sum(axis=0) ** 2).sum()) / (n - 1) / n
    shared = (together - count * single) / (count * (count - 1))
    own = max(0.0, single - shared)
    seen = float(table.mean(axis=1).var(ddof=1)) / count
    return _SeedParts(count, max(seen, own / count), shared, own, seen)


def _centred(table: Rows) -> Rows:
    centred: Rows = table - table.mean(axis=1, keepdims=True)
    return centred


def _seeded(
    value: float,
    parts: Sequence[_SeedParts],
    shared: float,
    n: int,
    bounds: tuple[float, float] | None,
    confidence: float,
) -> Seeded:
    if n < 2:
        return Seeded(value, None, None, None, None, None, n)
    spread = math.fsum(part.spread for part in parts)
    variance = spread + max(0.0, shared)
    if variance < 1e-24:  # rounding: nothing varies, and the signs of the items are left
        return Seeded(value, 0.0, None, value, value, 1.0 if abs(value) < 1e-12 else 2.0 ** (1 - n), n)
    stderr, df = math.sqrt(variance), _degrees(variance, [(part.spread, part.seeds) for part in parts])
    seen = math.fsum(part.seen for part in parts)
    by_seeds = math.sqrt(seen), _degrees(seen, [(part.seen, part.seeds) for part in parts])
    tests = [(stderr, df), *([by_seeds] if seen > 0 else [])]
    half = max(student_quantile((1 + confidence) / 2, degrees) * error for error, degrees in tests)
    p = max(student_p(value / error, degrees) for error, degrees in tests)
    lowest, highest = bounds if bounds is not None else (-math.inf, math.inf)
    low, high = max(lowest, value - half), min(highest, value + half)
    return Seeded(value, stderr, df, low, high, p, n, by_seeds if seen > 0 else None)


def _degrees(variance: float, parts: Sequence[tuple[float, int]]) -> float:
    """Return Satterthwaite's degrees of freedom of a variance that has these parts (part, seeds) beside what is known.

    Inf where no part has any chance.
    """
    squares = math.fsum(part**2 / (seeds - 1) for part, seeds in parts if seeds > 1)
    return variance**2 / squares if squares > 0 else math.inf


def pseudo_values(rows: Any, statistic: Statistic) -> Rows:
    """Return what each item makes of a statistic of totals: its value is their mean, its chance is theirs.

    Jackknife pseudo-values n · θ - (n - 1) · θ(without the item) (Tukey; Efron and Tibshirani, An Introduction to the
    Bootstrap, 1993, chapter 11), moved so that their mean is θ; of a mean they are the items themselves. `rows` and
    `statistic` are those of `bootstrap`; (items,). Raises DataError for rows that are not a finite table.
    """
    table = _table(rows)
    n = len(table)
    total = table.sum(axis=0, keepdims=True)
    value = float(statistic(total)[0])
    if n < 2:
        return np.full(n, value)
    without = statistic(total - table)
    values: Rows = value + (n - 1) * (without.mean() - without)
    return values


def differences(
    rows: Any,
    wanted: Sequence[tuple[Statistic, Statistic]],
    *,
    resamples: int = 10_000,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> list[Resampled]:
    """Bootstrap differences of statistics over the same items (paired): of each pair, the second minus the first.

    `rows` and statistics are those of `bootstrap`, `rows` in an order that means the same every time (sorted by item
    id): the result depends on it and on `seed`, not on what else is in `wanted`. Interval: percentiles; stderr: their
    sd. Raises DataError for rows that are not a finite table.
    """
    table = _table(rows)
    n = len(table)
    if n == 0:
        return [Resampled(None, None, None, None, None, 0, resamples, seed, "no items") for _ in wanted]
    whole = table.sum(axis=0, keepdims=True)
    values = [float(b(whole)[0] - a(whole)[0]) for a, b in wanted]
    if n == 1:
        reason = "one item has no standard error"
        return [Resampled(value, None, None, None, None, 1, resamples, seed, reason) for value in values]
    parts: list[list[Rows]] = [[] for _ in wanted]
    for totals in _resampled_totals(table, resamples, seed):
        for found, (a, b) in zip(parts, wanted, strict=True):
            found.append(b(totals) - a(totals))
    results = []
    for value, found in zip(values, parts, strict=True):
        drawn = np.concatenate(found)
        low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
        across = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
        p = min(1.0, 2 * (1 + across) / (resamples + 1))
        stderr = float(drawn.std(ddof=1))
        results.append(Resampled(value, stderr, float(low), float(high), p, n, resamples, seed))
    return results


def bootstrap(
    rows: Any, statistic: Statistic, *, resamples: int = 1000, seed: int = 0, confidence: float = CONFIDENCE
) -> Bootstrap:
    """Bootstrap a corpus statistic over items: percentile interval, stderr = sd of the resampled statistics.

    `rows` is (items, k): what each item adds to k totals. `statistic` maps totals (m, k) to m values, so one call
    serves all resamples. A paired difference is a statistic of both systems' columns side by side. The result depends
    on the seed, not on the order of the items. Raises DataError for rows that are not a finite table.
    """
    table = _table(rows)
    n = len(table)
    if n == 0:
        return Bootstrap(None, None, None, None, 0, resamples, seed, "no items")
    value = float(statistic(table.sum(axis=0, keepdims=True))[0])
    if n == 1:
        return Bootstrap(value, None, None, None, 1, resamples, seed, "one item has no standard error")
    ordered = table[np.lexsort(table.T[::-1])] if table.shape[1] else table
    drawn = np.concatenate([statistic(totals) for totals in _resampled_totals(ordered, resamples, seed)])
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Bootstrap(value, float(drawn.std(ddof=1)), float(low), float(high), n, resamples, seed)


def _table(rows: Any) -> Rows:
    table = np.asarray(rows, dtype=np.float64)
    if table.ndim != 2 or not np.isfinite(table).all():
        raise DataError(f"bootstrap: expected finite rows of shape (items, k), got shape {table.shape}")
    return table


def _resampled_totals(table: Rows, resamples: int, seed: int) -> Iterable[Rows]:
    """Draw as many rows as there are, with replacement, again and again; give their sums.

    From 2 · `BLOCKS` rows on, what is drawn are blocks of n // `BLOCKS` rows put together at random once, and single
    rows for what is left over by n: sums of independent rows spread as the rows do, so the error has the same
    expectation; that some rows always come together moves it by about 1 / sqrt(2 · blocks), under 1 %, less than 1,000
    resamples do. The work stays that of 40,000 rows at most.
    """
    rng = np.random.default_rng(seed)
    size = max(1, len(table) // BLOCKS)
    left = len(table) % size
    blocks = table
    if size > 1:
        mixed = table[rng.permutation(len(table))]
        blocks = mixed[: len(table) - left].reshape(-1, size, table.shape[1]).sum(axis=1)
    n = len(blocks)
    step = max(1, DRAWS_AT_ONCE // n)
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        draws = rng.integers(0, n, size=(count, n)) + n * np.arange(count)[:, None]
        times = np.bincount(draws.ravel(), minlength=count * n).reshape(count, n)  # how often each was drawn
        totals: Rows = times.astype(np.float64) @ blocks
        if left:
            totals += table[rng.integers(0, len(table), size=(count, left))].sum(axis=1)
        yield totals


def _two_tails(k: int, n: int) -> float:
    """2 · P(X <= k) for X ~ Binomial(n, 1/2); may exceed 1."""
    if n <= EXACT_UP_TO:
        term = total = 1
        for i in range(k):
            term = term * (n - i) // (i + 1)
            total += term
        return 2 * total / (1 << n)
    log_largest = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2)
    share = total_share = 1.0
    for i in range(k, 0, -1):
        share *= i / (n - i + 1)
        total_share += share
        if share < 1e-18 * total_share:
            break
    return 2 * math.exp(log_largest) * total_share


def _normal_interval(
    value: float, stderr: float, bounds: tuple[float, float | None] | None, confidence: float
) -> tuple[float, float]:
    half = _z(confidence) * stderr
    lowest, highest = bounds if bounds is not None else (-math.inf, None)
    return max(lowest, value - half), min(math.inf if highest is None else highest, value + half)


def _upper_tail(z: float) -> float:
    """P(Z >= z), accurate far out."""
    return 0.5 * math.erfc(z / math.sqrt(2))


def _z(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise DataError(f"expected a confidence between 0 and 1, got {confidence}")
    return NormalDist().inv_cdf((1 + confidence) / 2)


def _finite(values: Iterable[float]) -> list[float]:
    data = [float(value) for value in values]
    if not all(map(math.isfinite, data)):
        raise DataError("expected finite numbers, got nan or infinity; leave out what could not be scored")
    return data


def _check_counts(successes: int, n: int) -> None:
    if not 0 <= successes <= n:
        raise DataError(f"expected 0 <= successes <= n, got {successes} of {n}")
