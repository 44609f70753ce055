"""The paired tests of a study: one line each, a family of them adjusted together.

    family([paired("sft", "slip", a, b, these=True)])

Single runs: McNemar. Several seeds: `unsay.stats.seeded_difference`, which counts the chance of trainings and of
questions; with the same trainings on both sides, `seeded_mean` of their differences. Those say what other trainings
would show; `p_these`, where it is asked for, says of these trainings alone what other questions would.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from unsay.report import numbers, results

Scores = Sequence[Sequence[float]]
"""One list per seed, on the same items."""


@dataclass(frozen=True)
class Line:
    """One paired test: `other` minus `baseline`; `fixed` and `broken` are shares of items over all seeds, in %.

    `differing` counts the answers, over all seeds, that are right on one side only. `by_seed` has the differences
    seed by seed, as far as the seeds of both sides belong together; `smallest` is the true difference that is found
    four times in five at the level of the first step of its family. `budget`: the sampled tokens at which both are
    compared, where that is the question.
    """

    baseline: str
    other: str
    n: int
    seeds: tuple[int, int]
    before: float
    after: float
    diff: float
    by_seed: tuple[float, ...]
    low: float | None
    high: float | None
    fixed: float
    broken: float
    differing: int
    p: float
    test: str
    errors: results.Errors
    budget: int | None = None
    p_holm: float = 1.0
    smallest: float | None = None
    p_these: float | None = None
    p_these_holm: float | None = None

    @property
    def beyond_chance(self) -> bool:
        return self.p_holm < numbers.ALPHA

    def to_json(self) -> dict[str, Any]:
        shown = {key: value for key, value in vars(self).items() if key != "errors"}
        return shown | {"errors": results.errors_json(self.errors), "beyond_chance": self.beyond_chance}


def family(lines: Sequence[Line]) -> tuple[Line, ...]:
    """Adjust the p-values of lines for each other (Holm); what each could have seen, at the first step's level."""
    from unsay import stats

    adjusted = stats.holm([line.p for line in lines])
    these = iter(stats.holm([line.p_these for line in lines if line.p_these is not None]))
    alpha = numbers.ALPHA / max(1, len(lines))
    return tuple(
        replace(
            line,
            p_holm=p,
            p_these_holm=None if line.p_these is None else next(these),
            smallest=_smallest(line, alpha),
        )
        for line, p in zip(lines, adjusted, strict=True)
    )


def _smallest(line: Line, alpha: float) -> float | None:
    """Return what a line could have seen; where few answers differ their spread does not say it."""
    from unsay import stats

    if line.differing >= results.FEW:
        return results.smallest(line.errors, alpha)
    return 100.0 * stats.smallest_change(line.n, alpha=alpha) if line.test == results.MCNEMAR else None


def paired(
    before: str,
    after: str,
    a: Scores,
    b: Scores,
    *,
    same_training: bool = False,
    trained: tuple[bool, bool] = (True, True),
    seeds: tuple[Sequence[int], Sequence[int]] = ((), ()),
    budget: int | None = None,
    these: bool = False,
) -> Line:
    """Compare two arms, one list of scores per seed each, on the same items in the same order.

    With the `same_training` on both sides what differs between trainings is no chance of the comparison. `trained` says
    which side has chance of training at all; `seeds` are their numbers, by which trainings on the same rows in the same
    order are put beside each other. Fixed and broken pair every seed with every seed, the same trainings with
    themselves. `these` asks for a second test, of these trainings themselves (several, the same on both sides):
    `stats.sign_flips` of how many of them have an item right on one side only. Where few answers differ the interval
    is `results.not_too_narrow`.
    """
    import numpy as np

    from unsay import stats

    one, two = np.array(a, dtype=np.float64), np.array(b, dtype=np.float64)  # (seeds, items)
    n = one.shape[1]
    right_a, right_b = (each > 0 for each in (one, two))
    if same_training:
        fixed, broken = float((~right_a & right_b).mean()), float((right_a & ~right_b).mean())
    else:
        pairs = right_a[:, None, :], right_b[None, :, :]
        fixed, broken = float((~pairs[0] & pairs[1]).mean()), float((pairs[0] & ~pairs[1]).mean())
    errors: results.Errors
    if len(one) == len(two) == 1:
        only_a, only_b = stats.discordant(one[0].tolist(), two[0].tolist())
        plain = stats.paired_difference(two[0].tolist(), one[0].tolist())
        p, test = stats.mcnemar(only_b, only_a).p, results.MCNEMAR
        low, high = plain.low, plain.high
        errors = ((plain.stderr, math.inf),) if plain.stderr else ()
    else:
        found = stats.seeded_difference(one, two, same_training=same_training, trained=trained)
        p, test = 1.0 if found.p is None else found.p, results.SAME_TRAINING if same_training else results.OVER_SEEDS
        low, high, errors = found.low, found.high, found.errors
    diff = float(two.mean() - one.mean())
    differing = round((fixed + broken) * n * max(len(one), len(two)))
    if low is not None and high is not None:
        low, high = results.not_too_narrow(low, high, diff, differing=differing, n=n)
    return Line(
        baseline=before,
        other=after,
        n=n,
        seeds=(len(one), len(two)),
        before=float(one.mean()),
        after=float(two.mean()),
        diff=diff,
        by_seed=_by_seed(one.mean(axis=1).tolist(), two.mean(axis=1).tolist(), seeds),
        low=low,
        high=high,
        fixed=100.0 * fixed,
        broken=100.0 * broken,
        differing=differing,
        p=p,
        test=test,
        errors=errors,
        budget=budget,
        p_these=stats.sign_flips((right_b.sum(axis=0) - right_a.sum(axis=0)).tolist())
        if these and same_training and len(one) > 1
        else None,
    )


def _by_seed(a: Sequence[float], b: Sequence[float], seeds: tuple[Sequence[int], Sequence[int]]) -> tuple[float, ...]:
    """Return the differences of seeds of the same number, or of every seed to the only one of the other side."""
    if len(a) == len(b) == 1:
        return ()
    if len(a) == 1:
        return tuple(value - a[0] for value in b)
    if len(b) == 1:
        return tuple(b[0] - value for value in a)
    if len(a) == len(b) and not any(seeds):
        return tuple(after - before for before, after in zip(a, b, strict=True))
    first, second = dict(zip(seeds[0], a, strict=False)), dict(zip(seeds[1], b, strict=False))
    return tuple(second[seed] - first[seed] for seed in first if seed in second)
