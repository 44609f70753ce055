"""ROUGE-L as the rouge-score library defines it: F1 of the longest common subsequence of words.

Words are runs of a-z and 0-9 after lower-casing, no stemming: text in other scripts has no words and scores 0.

    >>> from unsay.records import Sample
    >>> RougeL().items([Sample("0", "", "She has 18 eggs.", "she has 8 eggs"), Sample("1", "", "", "eggs")])
    {'rouge_l': [75.0, 0.0]}
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from rapidfuzz.distance import LCSseq

from unsay.metrics import PERCENT, Measured, Metric, Parts, Range, averaged
from unsay.records import MetricValue, Sample

NAME = "rouge_l"
WORD = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True)
class RougeL(Metric):
    """Mean ROUGE-L F1 over lower-cased words, as in Google's rouge-score without stemming."""

    names: ClassVar[tuple[str, ...]] = (NAME,)
    higher_is_better: ClassVar[Mapping[str, bool | None]] = {NAME: True}
    range: ClassVar[Mapping[str, Range]] = {NAME: PERCENT}
    definition: ClassVar[Mapping[str, str]] = {NAME: "rouge-score 0.1.2 rougeL fmeasure, use_stemmer=False"}

    def measure(self, samples: Sequence[Sample]) -> Measured:
        scores = (rouge_l(sample.predict, sample.label) for sample in samples)
        return {NAME: np.fromiter(scores, dtype=np.float64, count=len(samples))}

    def summarise(self, measured: Measured) -> dict[str, MetricValue]:
        return {NAME: averaged(measured[NAME], self.definition[NAME])}

    def explain(self, sample: Sample) -> dict[str, Parts]:
        hypothesis, reference, common = _counts(sample.predict, sample.label)
        parts: Parts = {
            "words in common, in order": common,
            "of the answer's": hypothesis,
            "of the reference's": reference,
        }
        return {NAME: parts}


def rouge_l(predict: str, label: str) -> float:
    """Score one pair, 0-100; 0 where either side has no word."""
    hypothesis, reference, common = _counts(predict, label)
    if common == 0:
        return 0.0
    precision, recall = common / hypothesis, common / reference
    return 2 * precision * recall / (precision + recall) * 100


def _counts(predict: str, label: str) -> tuple[int, int, int]:
    """Count the words of both sides, and of their longest common subsequence."""
    hypothesis, reference = WORD.findall(predict.lower()), WORD.findall(label.lower())
    return len(hypothesis), len(reference), int(LCSseq.similarity(hypothesis, reference))
