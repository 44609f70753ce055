r"""Exact match of the extracted answer, strict and flexible, item by item equal to lm-eval 0.4.13's gsm8k task.

The answer is cut out of the prediction with a pattern (strict: first match, flexible: last match, "[invalid]" without
one); then the ignored patterns are removed from prediction and gold answer, and the rest must be equal. The defaults
are gsm8k's; another dataset states its own. Knows nothing about datasets or lm-eval.

    >>> from unsay.records import Sample
    >>> label = "2 + 2 = <<2+2=4>>4\n#### 4"
    >>> predictions = "#### 4", "It is 4.", "#### 5"
    >>> samples = [Sample(predict, "", label, predict) for predict in predictions]
    >>> ExactMatch().items(samples)
    {'exact_match_strict': [100.0, 0.0, 0.0], 'exact_match_flexible': [100.0, 100.0, 0.0]}
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from unsay.metrics import PERCENT, Measured, Metric, Parts, Range, missing, share
from unsay.records import MetricValue, Sample

INVALID = "[invalid]"
STRICT, FLEXIBLE = "exact_match_strict", "exact_match_flexible"
GSM8K_STRICT = r"#### (\-?[0-9\.\,]+)"
GSM8K_FLEXIBLE = r"(-?[$0-9.,]{2,})|(-?[0-9]+)"
MARKER, UP_TO_MARKER = "#### ", r"(?s).*#### "
GSM8K_IGNORED = (",", r"\$", UP_TO_MARKER, r"\.$")


@dataclass(frozen=True)
class ExactMatch(Metric):
    """Share of answers whose extracted final answer equals the gold one (lm-eval's strict and flexible filters).

    `strict`, `flexible`: patterns, None where the dataset defines none. `ignored`: patterns removed from both sides, in
    this order. `gold`: pattern that cuts the final answer out of the gold answer, None takes it whole. `source`: what
    the patterns are, for the definition.
    """

    strict: str | None = GSM8K_STRICT
    flexible: str | None = GSM8K_FLEXIBLE
    ignored: tuple[str, ...] = GSM8K_IGNORED
    ignore_case: bool = True
    gold: str | None = None
    source: str = "lm-eval gsm8k v3"

    names: ClassVar[tuple[str, ...]] = (STRICT, FLEXIBLE)
    higher_is_better: ClassVar[Mapping[str, bool | None]] = {STRICT: True, FLEXIBLE: True}
    range: ClassVar[Mapping[str, Range]] = {STRICT: PERCENT, FLEXIBLE: PERCENT}

    @property
    def definition(self) -> dict[str, str]:
        own = "" if self._is_gsm8k() else f" ({self.strict!r}, {self.flexible!r}, ignoring {list(self.ignored)!r})"
        own += "" if self.ignore_case else " case-sensitive"
        return {STRICT: f"{self.source} strict-match{own}", FLEXIBLE: f"{self.source} flexible-extract{own}"}

    def measure(self, samples: Sequence[Sample]) -> Measured:
        golds = [self._normalised(self._cut(sample.label)) for sample in samples]
        return {
            STRICT: self._matches(samples, golds, self.strict, 0),
            FLEXIBLE: self._matches(samples, golds, self.flexible, -1),
        }

    def summarise(self, measured: Measured) -> dict[str, MetricValue]:
        values = {}
        for name, pattern in ((STRICT, self.strict), (FLEXIBLE, self.flexible)):
            definition = self.definition[name]
            if pattern is None:
                values[name] = missing(definition, "the dataset defines no pattern for it")
            else:
                values[name] = share(measured[name], definition)
        return values

    def explain(self, sample: Sample) -> dict[str, Parts]:
        compared = self.compared(sample.label, sample.predict)
        return {name: {"found": found, "expected": gold} for name, (found, gold) in compared.items()}

    def compared(self, label: str, predict: str) -> dict[str, tuple[str, str]]:
        """Return what is compared of one item, per name: the answer found in the prediction, and the gold one."""
        gold = self._normalised(self._cut(label))
        patterns = ((STRICT, self.strict, 0), (FLEXIBLE, self.flexible, -1))
        return {
            name: (self._normalised(_extract(re.compile(pattern), predict, which)), gold)
            for name, pattern, which in patterns
            if pattern is not None
        }

    def _cut(self, label: str) -> str:
        return label if self.gold is None else _extract(re.compile(self.gold), label, 0)

    def _matches(
        self, samples: Sequence[Sample], golds: list[str], pattern: str | None, which: int
    ) -> NDArray[np.float64]:
        if pattern is None:
            return np.full(len(samples), np.nan)
        compiled = re.compile(pattern)
        found = (self._normalised(_extract(compiled, sample.predict, which)) for sample in samples)
        return np.array([100.0 * (answer == gold) for answer, gold in zip(found, golds, strict=True)])

    def _normalised(self, text: str) -> str:
        # lm-eval keeps the strings in numpy arrays, which drop trailing NULs and never grow when lower-cased
        for pattern in self.ignored:
            text = _without(pattern, text).rstrip("\0")
        text = text.rstrip("\0")
        return text.lower()[: max(1, len(text))].rstrip("\0") if self.ignore_case else text

    def _is_gsm8k(self) -> bool:
        return (self.strict, self.flexible, self.ignored) == (GSM8K_STRICT, GSM8K_FLEXIBLE, GSM8K_IGNORED)


def _without(pattern: str, text: str) -> str:
    if pattern == UP_TO_MARKER:  # the same, where re needs time quadratic in the length
        return text.rpartition(MARKER)[2]
    return re.sub(pattern, "", text)


def _extract(pattern: re.Pattern[str], text: str, which: int) -> str:
    """The match lm-eval's regex filter picks: of several groups the first that is not empty."""
    matches = pattern.findall(text)
    if not matches:
        return INVALID
    match = matches[which]
    if isinstance(match, tuple):
        match = next((group for group in match if group), INVALID)
    return str(match).strip()
