"""Whether a model takes tokens back only to write them again, and whether it goes round in circles.

Replays the stack of survivors of each answer (`Sample.written`); never looks at the gold answer. An episode is a run of
control tokens that took something back: e are the tokens it took, in their order.

- `reemission`: % of episodes, with a token after them, behind which just e is written again, token by token. A wrong
  line and the right one may begin alike, so all of e counts. Greedy decoding that goes on from the same context can do
  nothing else (docs/undo.md).
- `loops`: % of answers in which one and the same beginning (all survivors together, while not empty) is come back to
  by an episode for the third time, or which `max_visits` ended.

Self-backtracking (Yang et al. 2025, arXiv 2502.04404) and rewinding decoders keep sets of visited states for the same
reason.

    >>> from unsay.records import Sample, Written
    >>> again = Written(("a", "b", "<", "b"), (1, 2, 9, 2), (None, None, 1, None))  # b, taken back, and b again
    >>> values = Loops().summarise(Loops().measure([Sample("0", "", "", "", "eos", None, again)]))
    >>> values["reemission"].value, values["loops"].value
    (100.0, 0.0)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from unsay import stats
from unsay.metrics import NO_SAMPLES, PERCENT, Measured, Metric, Parts, Range, from_estimate, missing, share
from unsay.records import MetricValue, Sample, Written

REEMISSION, LOOPS = "reemission", "loops"
THIRD = 3
NO_TRACE = "no traces"
NO_EPISODE = "no undo that anything follows"


@dataclass(frozen=True)
class Loops(Metric):
    """Share of undos behind which the same is written again, and of answers that go round in circles."""

    names: ClassVar[tuple[str, ...]] = (REEMISSION, LOOPS)
    higher_is_better: ClassVar[Mapping[str, bool | None]] = {REEMISSION: False, LOOPS: False}
    range: ClassVar[Mapping[str, Range]] = {REEMISSION: PERCENT, LOOPS: PERCENT}
    definition: ClassVar[Mapping[str, str]] = {
        REEMISSION: "unsay undo v1: % of undo runs behind which just what they took back is written again",
        LOOPS: "unsay undo v1: % of answers that come back to one beginning three times, or were ended by max_visits",
    }

    def measure(self, samples: Sequence[Sample]) -> Measured:
        again = np.full((len(samples), 2), np.nan)
        loops = np.full(len(samples), np.nan)
        for at, sample in enumerate(samples):
            if sample.written is not None:
                same, episodes, visits = walk(sample.written)
                again[at] = 100.0 * same, episodes
                loops[at] = 100.0 * (visits >= THIRD or sample.finish_reason == "max_visits")
        return {REEMISSION: again, LOOPS: loops}

    def explain(self, sample: Sample) -> dict[str, Parts]:
        if sample.written is None:
            return {}
        same, episodes, visits = walk(sample.written)
        return {
            REEMISSION: {"runs of undos behind which the same was written": same, "of runs": episodes},
            LOOPS: {"most returns to one beginning": visits},
        }

    def summarise(self, measured: Measured) -> dict[str, MetricValue]:
        again, loops = measured[REEMISSION], measured[LOOPS]
        if len(loops) == 0 or np.isnan(loops).all():
            reason = NO_TRACE if len(loops) else NO_SAMPLES
            return {name: missing(self.definition[name], reason) for name in self.names}
        above, below = again[again[:, 1] > 0].T
        if len(below):
            found = stats.ratio(above.tolist(), below.tolist(), bounds=PERCENT)
            reemission = from_estimate(found, self.definition[REEMISSION], PERCENT)
        else:
            reemission = missing(self.definition[REEMISSION], NO_EPISODE)
        return {REEMISSION: reemission, LOOPS: share(loops, self.definition[LOOPS])}


def walk(written: Written) -> tuple[int, int, int]:
    """Return the episodes behind which just what they took is written again, all that are followed by anything, and
    the most episodes that ended at one and the same beginning.
    """
    stack: list[int] = []
    same = episodes = 0
    visits: Counter[tuple[int, ...]] = Counter()
    taken: list[int] = []  # by the running episode
    again: list[int] = []  # what is left of it to be written again
    for id, takes in zip(written.ids, written.takes, strict=True):
        if takes is not None:
            again = []
            if takes:
                taken = stack[-takes:] + taken
                del stack[-takes:]
            continue
        if taken:
            episodes += 1
            visits[tuple(stack)] += bool(stack)
            again, taken = taken, []
        if again:
            same += again == [id]
            again = again[1:] if id == again[0] else []
        stack.append(id)
    if taken:
        visits[tuple(stack)] += bool(stack)
    return same, episodes, max(visits.values(), default=0)
