"""What a model does behind a mistake that was put into its answer, and behind its clean twin.

Of answers that were made to begin so (`decode: {plant: …}`; `Written.beginning` says where the mistake begins). The
first run of control tokens that takes something back and begins within w tokens behind the beginning is the reaction;
h is the height it ends at, p the place of the mistake.

    planted_detection  = P(a reaction)                   planted_exact = P(a reaction with h = p)
    planted_over       = P(a reaction with h < p)        planted_under = P(a reaction with h > p)
    planted_false_undo = P(a reaction | clean twin)      undo_chance   = 100 · p(any control token right behind)

exact + over + under = detection; under counts, too, what ends before any of the mistake is gone. `undo_chance` is the
model's own probability, before bias and bans; over a planted experiment and its twin it gives the AUROC
(`unsay.stats.auroc`). Recovery, P(right answer | planted), is the exact match of the planted experiment itself. A
decision to retract, judged by AUROC: ReVISE (arXiv 2502.14565); its false alarms against a bias on the token: [RESET]
(Zhang et al. 2025, arXiv 2409.14586).

    >>> from unsay.records import Beginning, Sample, Written
    >>> written = Written(("a", "x", "<", "b"), (1, 2, 9, 3), (None, None, 1, None), Beginning(2, 1), 0.75)
    >>> values = Planted().summarise(Planted().measure([Sample("0", "", "", "", "eos", None, written)]))
    >>> [values[name].value for name in ("planted_detection", "planted_exact", "undo_chance")]
    [100.0, 100.0, 75.0]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from unsay.metrics import NO_SAMPLES, PERCENT, Measured, Metric, Parts, Range, averaged, missing, share
from unsay.records import MetricValue, Sample, Written

DETECTION, EXACT, OVER, UNDER = "planted_detection", "planted_exact", "planted_over", "planted_under"
FALSE_UNDO, CHANCE = "planted_false_undo", "undo_chance"
_REACTIONS = (DETECTION, EXACT, OVER, UNDER)
NOTHING: Mapping[str, str] = {
    **dict.fromkeys(_REACTIONS, "no answer begins with a planted mistake"),
    FALSE_UNDO: "no answer begins as the clean twin of a planted mistake",
    CHANCE: "no answer was given its beginning",
}


@dataclass(frozen=True)
class Planted(Metric):
    """Reactions to planted mistakes. `window`: tokens behind the beginning in which a reaction counts."""

    window: int = 8

    names: ClassVar[tuple[str, ...]] = (*_REACTIONS, FALSE_UNDO, CHANCE)
    higher_is_better: ClassVar[Mapping[str, bool | None]] = {
        DETECTION: True,
        EXACT: True,
        OVER: False,
        UNDER: False,
        FALSE_UNDO: False,
        CHANCE: None,
    }
    range: ClassVar[Mapping[str, Range]] = dict.fromkeys(names, PERCENT)

    @property
    def definition(self) -> dict[str, str]:
        within = f"within {self.window} tokens"
        return {
            DETECTION: f"unsay undo v1: % of planted mistakes with an undo {within} behind",
            EXACT: f"unsay undo v1: % of planted mistakes that an undo {within} behind takes back exactly",
            OVER: f"unsay undo v1: % of planted mistakes with an undo {within} behind that takes back too much",
            UNDER: f"unsay undo v1: % of planted mistakes with an undo {within} behind that takes back too little",
            FALSE_UNDO: f"unsay undo v1: % of clean twins of planted mistakes with an undo {within} behind",
            CHANCE: "unsay undo v1: % of probability on control tokens right behind what an answer was given",
        }

    def measure(self, samples: Sequence[Sample]) -> Measured:
        columns = {name: np.full(len(samples), np.nan) for name in self.names}
        for at, sample in enumerate(samples):
            written = sample.written
            if written is None or written.beginning is None:
                continue
            if written.undo_chance is not None:
                columns[CHANCE][at] = 100.0 * min(1.0, written.undo_chance)
            height, place = reaction(written, self.window), written.beginning.place
            if written.beginning.twin:
                columns[FALSE_UNDO][at] = 100.0 * (height is not None)
                continue
            columns[DETECTION][at] = 100.0 * (height is not None)
            columns[EXACT][at] = 100.0 * (height == place)
            columns[OVER][at] = 100.0 * (height is not None and height < place)
            columns[UNDER][at] = 100.0 * (height is not None and height > place)
        return columns

    def explain(self, sample: Sample) -> dict[str, Parts]:
        written = sample.written
        if written is None or written.beginning is None:
            return {}
        beginning, height = written.beginning, reaction(written, self.window)
        parts: Parts = {
            "tokens given": beginning.given,
            "right up to token": beginning.given if beginning.twin else beginning.place,
            "taken back": "nothing" if height is None else f"down to token {height}",
        }
        return dict.fromkeys((*_REACTIONS, FALSE_UNDO), parts)

    def summarise(self, measured: Measured) -> dict[str, MetricValue]:
        values = {}
        for name in self.names:
            column, definition = measured[name], self.definition[name]
            if len(column) == 0 or np.isnan(column).all():
                values[name] = missing(definition, NOTHING[name] if len(column) else NO_SAMPLES)
            else:
                values[name] = averaged(column, definition) if name == CHANCE else share(column, definition)
        return values


def reaction(written: Written, window: int) -> int | None:
    """Return the height at which the first episode that begins within the window ends; None without one."""
    assert written.beginning is not None
    given, height = written.beginning.given, 0
    running = False
    for at, takes in enumerate(written.takes):
        if takes is None:
            if running:
                return height
            height += 1
        else:
            height -= takes
            running = running or (takes > 0 and given <= at)
        if not running and at >= given + window - 1:
            return None
    return height if running else None
