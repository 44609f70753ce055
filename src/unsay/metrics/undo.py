"""What the undos of an answer cost and did: rates, episodes, waste, underflow, truncation.

Reads the accounting that came with each sample (`Sample.counts`, `Sample.finish_reason`); never looks at text or ids.
Each measure is a sum over answers divided by a sum over answers (tokens, episodes, or the answers themselves), so a
rate per token weighs every token alike; its error takes the answer as the unit of chance.

    >>> from unsay.records import Counts, Sample
    >>> counts = Counts(10, 6, 2, 2, 0, 1, (2,), (3,), 5)  # 10 sampled, 6 survive, 2 popped by 2 undos in one episode
    >>> values = Undo().summarise(Undo().measure([Sample("0", "", "", "", "eos", counts)]))
    >>> [values[name].value for name in ("undo_rate_token", "waste", "undo_run_length", "undo_first_position")]
    [20.0, 40.0, 2.0, 5.0]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unsay import stats
from unsay.metrics import NO_SAMPLES, PERCENT, Measured, Metric, Parts, Range, from_estimate, missing, share
from unsay.records import BUDGET_REASONS, Counts, MetricValue, Sample

Part = tuple[float, float]
"""What one answer adds above and below the line."""

COUNT: Range = (0.0, None)
NO_COUNTS = "no accounting of the trace"
NO_REASON = "no finish reason"
NO_UNDO = "no answer has an undo"
NO_TOKEN = "no answer has a token"
NOTHING: Part = (0.0, 0.0)
"""The measure does not apply to the answer."""
UNKNOWN: Part = (math.nan, math.nan)


class Measure(NamedTuple):
    """One line of the table below: what it is, and what one answer adds to it."""

    text: str
    part: Callable[[Counts], Part]
    range: Range = COUNT
    higher_is_better: bool | None = None
    none: str = NO_TOKEN
    """Why it has no value where no answer adds anything."""


def _undo_tokens(counts: Counts) -> int:
    return counts.undos + counts.underflows


def _per_token(amount: int, counts: Counts) -> Part:
    return (100.0 * amount, counts.sampled) if counts.sampled else NOTHING


def _per_episode(amounts: tuple[int, ...]) -> Part:
    return (sum(amounts), len(amounts)) if amounts else NOTHING


def _first_undo(counts: Counts) -> Part:
    return NOTHING if counts.first_undo is None else (counts.first_undo, 1)


MEASURES: Mapping[str, Measure] = {
    "undo_rate_token": Measure(
        "% of sampled tokens that are an undo, effective or not", lambda c: _per_token(_undo_tokens(c), c), PERCENT
    ),
    "undo_per_answer": Measure("effective undos per answer", lambda c: (c.undos, 1)),
    "undo_answers": Measure(
        "% of answers with at least one effective undo", lambda c: (100.0 * (c.undos > 0), 1), PERCENT
    ),
    "episodes_per_answer": Measure("runs of undos per answer", lambda c: (c.episodes, 1)),
    "undo_run_length": Measure("undos per run", lambda c: _per_episode(c.run_lengths), none=NO_UNDO),
    "undo_depth": Measure("surviving tokens after a run of undos", lambda c: _per_episode(c.depths), none=NO_UNDO),
    "undo_first_position": Measure("index in the trace of an answer's first undo", _first_undo, none=NO_UNDO),
    "waste": Measure(
        "% of sampled tokens that were popped or are an undo",
        lambda c: _per_token(c.popped + _undo_tokens(c), c),
        PERCENT,
        False,
    ),
    "underflow_per_answer": Measure("undos with nothing to pop per answer", lambda c: (c.underflows, 1), COUNT, False),
    "truncated": Measure("% of answers ended by a budget", lambda c: NOTHING, PERCENT, False),
    "undo_left": Measure("undo ids left in the final answer, per answer", lambda c: (c.undo_left, 1), COUNT, False),
    "sampled_tokens": Measure("sampled tokens per answer", lambda c: (c.sampled, 1)),
}
SHARES = ("undo_answers", "truncated")
"""0 or 100 per answer: their interval is Wilson's."""


@dataclass(frozen=True)
class Undo(Metric):
    """Accounting of retracted tokens: how often, how many, how deep, how much was wasted."""

    names: ClassVar[tuple[str, ...]] = tuple(MEASURES)
    higher_is_better: ClassVar[Mapping[str, bool | None]] = {n: m.higher_is_better for n, m in MEASURES.items()}
    range: ClassVar[Mapping[str, Range]] = {name: measure.range for name, measure in MEASURES.items()}
    definition: ClassVar[Mapping[str, str]] = {name: f"unsay undo v1: {m.text}" for name, m in MEASURES.items()}

    def measure(self, samples: Sequence[Sample]) -> Measured:
        return {name: _parts(name, samples) for name in MEASURES}

    def summarise(self, measured: Measured) -> dict[str, MetricValue]:
        return {name: self._value(name, measured[name]) for name in MEASURES}

    def explain(self, sample: Sample) -> dict[str, Parts]:
        found: dict[str, Parts] = {}
        if sample.finish_reason is not None:
            found["truncated"] = {"ended by": sample.finish_reason}
        if (counts := sample.counts) is not None:
            undos, sampled = _undo_tokens(counts), counts.sampled
            found["undo_rate_token"] = {"undo tokens": undos, "of sampled tokens": sampled}
            found["waste"] = {"taken back": counts.popped, "undo tokens": undos, "of sampled tokens": sampled}
            found["undo_answers"] = {"effective undos": counts.undos}
            if counts.episodes:
                found["undo_run_length"] = {"undos in each run": ", ".join(map(str, counts.run_lengths))}
                found["undo_depth"] = {"surviving tokens after each run": ", ".join(map(str, counts.depths))}
        return found

    def _value(self, name: str, parts: NDArray[np.float64]) -> MetricValue:
        definition, limits = self.definition[name], MEASURES[name].range
        known = parts[~np.isnan(parts[:, 1])]
        lacking = NO_REASON if name == "truncated" else NO_COUNTS
        if len(known) == 0:
            return missing(definition, f"{lacking} in any of {len(parts)} samples" if len(parts) else NO_SAMPLES)
        above, below = known[known[:, 1] > 0].T
        if len(below) == 0:
            return missing(definition, MEASURES[name].none)
        if name in SHARES:
            value = share(above / below, definition)
        else:
            value = from_estimate(stats.ratio(above.tolist(), below.tolist(), bounds=limits), definition, limits)
        if len(known) == len(parts):
            return value
        left_out = f"left out {len(parts) - len(known)} of {len(parts)} samples: {lacking}"
        return replace(value, reason="; ".join(filter(None, (left_out, value.reason))))


def _parts(name: str, samples: Sequence[Sample]) -> NDArray[np.float64]:
    if name == "truncated":
        parts = [_truncated(sample.finish_reason) for sample in samples]
    else:
        part = MEASURES[name].part
        parts = [UNKNOWN if sample.counts is None else part(sample.counts) for sample in samples]
    return np.array(parts, dtype=np.float64).reshape(len(samples), 2)


def _truncated(finish_reason: str | None) -> Part:
    return UNKNOWN if finish_reason is None else (100.0 * (finish_reason in BUDGET_REASONS), 1)
