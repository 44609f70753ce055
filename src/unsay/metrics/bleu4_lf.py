"""LLaMA-Factory's BLEU-4: mean sentence BLEU over characters, all digits equal.

Its formula is nltk's `sentence_bleu([list(label)], list(predict), smoothing_function=method3)` times 100, rounded to 4
digits per sample. It follows accuracy badly; it is here for continuity with pages that show it.

    >>> from unsay.records import Sample
    >>> Bleu4LF().items([Sample("0", "", "3: Business", "3: Business"), Sample("1", "", "3: Business", "4: Sci/Tech")])
    {'bleu4_lf': [100.0, 8.9138]}
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from unsay.metrics import PERCENT, Measured, Metric, Parts, Range, averaged, numpy_mean
from unsay.ngrams import Pair, batches, clipped_matches
from unsay.records import MetricValue, Sample

NAME = "bleu4_lf"


@dataclass(frozen=True)
class Bleu4LF(Metric):
    """Mean character-level sentence BLEU-4 as LLaMA-Factory computes it (nltk, smoothing method 3)."""

    names: ClassVar[tuple[str, ...]] = (NAME,)
    higher_is_better: ClassVar[Mapping[str, bool | None]] = {NAME: True}
    range: ClassVar[Mapping[str, Range]] = {NAME: PERCENT}
    definition: ClassVar[Mapping[str, str]] = {
        NAME: "LLaMA-Factory predict_bleu-4 v1 (characters, nltk sentence_bleu method3, 4 digits per item)"
    }

    def measure(self, samples: Sequence[Sample]) -> Measured:
        return {NAME: np.array(sentence_bleu([(sample.predict, sample.label) for sample in samples]), dtype=np.float64)}

    def summarise(self, measured: Measured) -> dict[str, MetricValue]:
        return {NAME: numpy_mean(measured[NAME], averaged(measured[NAME], self.definition[NAME]))}

    def explain(self, sample: Sample) -> dict[str, Parts]:
        hypothesis, reference = len(sample.predict), len(sample.label)
        (matches,) = clipped_matches([(sample.predict, sample.label)]).tolist()
        parts: dict[str, str | float] = {
            f"runs of {order} characters" if order > 1 else "characters": f"{count} of {max(1, hypothesis - order + 1)}"
            for order, count in enumerate(matches, 1)
        }
        if hypothesis:
            parts["brevity penalty"] = round(_penalty(hypothesis, reference), 4)
        return {NAME: parts | {"answer and reference": f"{hypothesis} and {reference} characters"}}


def sentence_bleu(pairs: Sequence[Pair]) -> list[float]:
    """Score (hypothesis, reference) pairs, 0-100, rounded to 4 digits."""
    scores = []
    for batch in batches(pairs):
        for (hypothesis, reference), matches in zip(batch, clipped_matches(batch).tolist(), strict=True):
            scores.append(round(_bleu(matches, len(hypothesis), len(reference)) * 100, 4))
    return scores


def _bleu(matches: Sequence[int], hypothesis: int, reference: int) -> float:
    """nltk's score from clipped matches per order and the two lengths."""
    if matches[0] == 0:
        return 0.0
    logs, halvings = [], 0
    for order, count in enumerate(matches, 1):
        total = max(1, hypothesis - order + 1)
        if count == 0:
            halvings += 1
            logs.append(0.25 * math.log(1 / (2**halvings * total)))
        else:
            logs.append(0.25 * math.log(count / total))
    return _penalty(hypothesis, reference) * math.exp(math.fsum(logs))


def _penalty(hypothesis: int, reference: int) -> float:
    """nltk's brevity penalty of a hypothesis that is not empty."""
    return 1.0 if hypothesis > reference else math.exp(1 - reference / hypothesis)
