"""What the undos of an answer cost and did: rates, episodes, waste, underflow, truncation.

Reads the accounting that came with each sample (`Sample.counts`, `Sample.finish_reason`); never looks at text or ids.
Each measure is a sum over answers divided by a sum over answers (tokens, episodes, or the answers themselves), so a
rate per token weighs every token alike; its error takes the answer as the unit of chance.

    >>> from unsay.records import Counts, Sample
    >>> counts = Counts(10, 6, 2, 2, 0, 1, (2,), (3,), 5)  # 10 sampled, 6 survive, 2 popped by 2 undos in one episode
    >>> values = Undo().summarise([Sample("0", "", "", "", "eos", counts)])
    >>> [values[name].value for name in ("undo_rate_token", "waste", "undo_run_length", "undo_first_position")]
    [20.0, 40.0, 2.0, 5.0]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

from unsay import stats
from unsay.metrics import NO_SAMPLES, PERCENT, Items, Range, from_estimate, missing, share
from unsay.records import BUDGET_REASONS, Counts, MetricValue, Sample

Part = tuple[float, float] | None
"""What one answer adds above and below the line; None where the measure does not apply to it."""

COUNT: Range = (0.0, None)
NO_COUNTS = "no accounting of the trace"
NO_REASON = "no finish reason"
NO_UNDO = "no answer has an undo"
NO_TOKEN = "no answer has a token"


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
    return (100.0 * amount, counts.sampled) if counts.sampled else None


def _per_episode(amounts: tuple[int, ...]) -> Part:
    return (sum(amounts), len(amounts)) if amounts else None


def _first_undo(counts: Counts) -> Part:
    return None if counts.first_undo is None else (counts.first_undo, 1)


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
    "truncated": Measure("% of answers ended by a budget", lambda c: None, PERCENT, False),
    "undo_left": Measure("undo ids left in the final answer, per answer", lambda c: (c.undo_left, 1), COUNT, False),
    "sampled_tokens": Measure("sampled tokens per answer", lambda c: (c.sampled, 1)),
}
SHARES = ("undo_answers", "truncated")
"""0 or 100 per answer: their interval is Wilson's."""


@dataclass(frozen=True)
class Undo:
    """Accounting of retracted tokens: how often, how many, how deep, how much was wasted."""

    names: ClassVar[tuple[str, ...]] = tuple(MEASURES)
    higher_is_better: ClassVar[Mapping[str, bool | None]] = {n: m.higher_is_better for n, m in MEASURES.items()}
    range: ClassVar[Mapping[str, Range]] = {name: measure.range for name, measure in MEASURES.items()}
    definition: ClassVar[Mapping[str, str]] = {name: f"unsay undo v1: {m.text}" for name, m in MEASURES.items()}

    def items(self, samples: Sequence[Sample]) -> Items:
        return {name: [_item(_part(name, sample)) for sample in samples] for name in MEASURES}

    def summarise(self, samples: Sequence[Sample], items: Items | None = None) -> dict[str, MetricValue]:
        return {name: self._value(name, samples) for name in MEASURES}

    def _value(self, name: str, samples: Sequence[Sample]) -> MetricValue:
        definition, limits = self.definition[name], MEASURES[name].range
        known = [sample for sample in samples if _is_known(name, sample)]
        lacking = NO_REASON if name == "truncated" else NO_COUNTS
        if not known:
            return missing(definition, f"{lacking} in any of {len(samples)} samples" if samples else NO_SAMPLES)
        parts = [part for part in (_part(name, sample) for sample in known) if part is not None]
        if not parts:
            return missing(definition, MEASURES[name].none)
        if name in SHARES:
            value = share([_item(part) for part in parts], definition)
        else:
            above, below = zip(*parts, strict=True)
            value = from_estimate(stats.ratio(above, below, bounds=limits), definition, limits)
        if len(known) == len(samples):
            return value
        left_out = f"left out {len(samples) - len(known)} of {len(samples)} samples: {lacking}"
        return replace(value, reason="; ".join(filter(None, (left_out, value.reason))))


def _is_known(name: str, sample: Sample) -> bool:
    return (sample.finish_reason if name == "truncated" else sample.counts) is not None


def _part(name: str, sample: Sample) -> Part:
    if not _is_known(name, sample):
        return None
    if name == "truncated":
        return 100.0 * (sample.finish_reason in BUDGET_REASONS), 1
    return MEASURES[name].part(sample.counts) if sample.counts is not None else None


def _item(part: Part) -> float | None:
    return None if part is None else part[0] / part[1]
