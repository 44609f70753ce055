"""LLaMA-Factory's ROUGE-1, ROUGE-2 and ROUGE-L on jieba tokens, all digits equal.

Its formulas are rouge-chinese 1.0.3's f-scores of the space-joined jieba tokens, times 100, rounded to 4 digits per
sample. Two of its habits matter: ROUGE-1/2 count *different* n-grams, and a line that holds only blanks becomes one
empty token. rouge-chinese's "summary level" ROUGE-L is the plain longest common subsequence of all words.

    >>> from unsay.records import Sample
    >>> RougeLF().items([Sample("0", "", "She has 18 eggs.", "She has 8 eggs.")])
    {'rouge_1_lf': [80.0], 'rouge_2_lf': [50.0], 'rouge_l_lf': [80.0]}
"""

from __future__ import annotations

import importlib
import logging
import re
import warnings
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from rapidfuzz.distance import LCSseq

from unsay.metrics import PERCENT, Items, Range, averaged, same_mean
from unsay.records import MetricValue, Sample

NAMES = ("rouge_1_lf", "rouge_2_lf", "rouge_l_lf")
REMEMBERED_PIECES = 1 << 16
LONGEST_REMEMBERED = 64

PIECES = re.compile(r"([\u4E00-\u9FD5a-zA-Z0-9+#&\._%\-]+)")
"""jieba cuts each match by itself, and the characters between matches one by one: so a piece can be remembered."""
MARKS = re.compile(r"[。！？?…\n]|\.{6}")
"""Without one of these a text is one sentence."""
SENTENCE_ENDS = (
    (re.compile(r"([。！？\?])([^”’])"), r"\1\n\2"),
    (re.compile(r"(\.{6})([^”’])"), r"\1\n\2"),
    (re.compile(r"(\…{2})([^”’])"), r"\1\n\2"),
    (re.compile(r"([。！？\?][”’])([^，。！？\?])"), r"\1\n\2"),
)
BLANK = "\n"
"""Stands for the empty token: no word contains a line break, and rapidfuzz takes "" and NUL for the same."""


@dataclass(frozen=True)
class RougeLF:
    """Mean ROUGE-1, ROUGE-2 and ROUGE-L f-scores as LLaMA-Factory computes them (jieba, rouge-chinese)."""

    names: ClassVar[tuple[str, ...]] = NAMES
    higher_is_better: ClassVar[Mapping[str, bool | None]] = dict.fromkeys(NAMES, True)
    range: ClassVar[Mapping[str, Range]] = dict.fromkeys(NAMES, PERCENT)
    definition: ClassVar[Mapping[str, str]] = {
        name: f"LLaMA-Factory predict_{peer} v1 (jieba, rouge-chinese f, 4 digits per item)"
        for name, peer in zip(NAMES, ("rouge-1", "rouge-2", "rouge-l"), strict=True)
    }

    def items(self, samples: Sequence[Sample]) -> Items:
        scored = [rouge(sample.predict, sample.label) for sample in samples]
        return {name: [scores[column] for scores in scored] for column, name in enumerate(NAMES)}

    def summarise(self, samples: Sequence[Sample], items: Items | None = None) -> dict[str, MetricValue]:
        scored = self.items(samples) if items is None else items
        values = {}
        for name in NAMES:
            scores = [s for s in scored[name] if s is not None]
            value = averaged(scored[name], self.definition[name])
            values[name] = same_mean(value, float(np.mean(scores))) if scores else value
        return values


def rouge(predict: str, label: str) -> tuple[float, float, float]:
    """Score one pair: ROUGE-1, ROUGE-2, ROUGE-L, 0-100, rounded to 4 digits; 0 where either side is blank."""
    hypothesis, reference = words(predict), words(label)
    if not hypothesis or not reference:
        return 0.0, 0.0, 0.0
    common = LCSseq.similarity(hypothesis, reference)
    return (
        _overlap(set(hypothesis), set(reference)),
        _overlap(set(pairwise(hypothesis)), set(pairwise(reference))),
        _f_score(len(hypothesis), len(reference), common),
    )


def words(text: str) -> list[str]:
    """Cut a text into the words rouge-chinese sees; none where it is blank."""
    remembered = _pieces()
    joined = " ".join([remembered[piece] for piece in PIECES.split(text) if piece])
    if not MARKS.search(joined):
        return joined.split()
    if not joined.strip():
        return []
    for pattern, replacement in SENTENCE_ENDS:
        joined = pattern.sub(replacement, joined)
    found: list[str] = []
    for line in joined.rstrip().split("\n"):
        if line:
            found.extend(line.split() or [BLANK])
    return found


def _overlap(hypothesis: Set[object], reference: Set[object]) -> float:
    return _f_score(len(hypothesis), len(reference), len(hypothesis & reference))


def _f_score(hypothesis: int, reference: int, common: int) -> float:
    precision = common / hypothesis if hypothesis else 0.0
    recall = common / reference if reference else 0.0
    return round(2.0 * ((precision * recall) / (precision + recall + 1e-8)) * 100, 4)


class _Pieces(dict[str, str]):
    """The jieba tokens of a piece of text, joined with spaces; short pieces are remembered.

    Loads the dictionary (about a second). The tokenizer is our own: words that somebody adds to jieba's shared one do
    not change a score.
    """

    def __init__(self) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # jieba's sources have invalid escapes, reported when first compiled
            jieba: Any = importlib.import_module("jieba")
        level = jieba.default_logger.level
        jieba.default_logger.setLevel(logging.WARNING)  # it reports loading on standard error
        try:
            self._tokenizer = jieba.Tokenizer()
            self._tokenizer.initialize()
        finally:
            jieba.default_logger.setLevel(level)

    def __missing__(self, piece: str) -> str:
        tokens = " ".join(self._tokenizer.cut(piece))
        if len(piece) <= LONGEST_REMEMBERED:
            if len(self) >= REMEMBERED_PIECES:
                self.clear()
            self[piece] = tokens
        return tokens


@cache
def _pieces() -> _Pieces:
    return _Pieces()
