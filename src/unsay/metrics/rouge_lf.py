r"""LLaMA-Factory's ROUGE-1, ROUGE-2 and ROUGE-L on jieba tokens, all digits equal.

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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import LCSseq

from unsay.metrics import PERCENT, Measured, Metric, Parts, Range, averaged, numpy_mean
from unsay.ngrams import LONGEST_NUMBERED, MOST_WORDS, Pair, Remembered, Words, batches, different
from unsay.records import MetricValue, Sample

NAMES = ("rouge_1_lf", "rouge_2_lf", "rouge_l_lf")
COUNTED = ("different words in both", "different pairs of words in both", "words in common, in order")

PIECES = re.compile(r"([\u4E00-\u9FD5a-zA-Z0-9+#&\._%\-]+)")
"""jieba cuts each match by itself, and the characters between matches one by one: so a piece can be remembered."""
PLAIN = re.compile(r"(?!.*(?:[cC]\+\+|[cC]#|AT&T))[a-zA-Z0-9+#&._%\-]+")
"""A piece in which jieba's dictionary knows no word: it has five without a Chinese character."""
PLAIN_TOKENS = re.compile(r"([a-zA-Z0-9]+(?:\.[0-9]+)?%?)")
"""How jieba cuts such a piece: each match is a token, and so is what stands between two."""
BETWEEN = re.compile(r"[\t\n !\"$'()*,/:;<=>?@\[\\\]^`{|}~]+")
"""Plain characters that are in no piece: jieba cuts them one by one."""
SENTENCE_END = re.compile(r"[。！？?]")
SIX_DOTS = "......"
BLANK_LINE = re.compile(r"[\n。！？?][^\S\n]*\n")
SENTENCE_ENDS = (
    (re.compile(r"([。！？\?])([^”’])"), r"\1\n\2"),
    (re.compile(r"(\.{6})([^”’])"), r"\1\n\2"),
    (re.compile(r"(\…{2})([^”’])"), r"\1\n\2"),
    (re.compile(r"([。！？\?][”’])([^，。！？\?])"), r"\1\n\2"),
)
BLANK = "\n"
"""Stands for the empty token: no word contains a line break."""


@dataclass(frozen=True)
class RougeLF(Metric):
    """Mean ROUGE-1, ROUGE-2 and ROUGE-L f-scores as LLaMA-Factory computes them (jieba, rouge-chinese)."""

    names: ClassVar[tuple[str, ...]] = NAMES
    higher_is_better: ClassVar[Mapping[str, bool | None]] = dict.fromkeys(NAMES, True)
    range: ClassVar[Mapping[str, Range]] = dict.fromkeys(NAMES, PERCENT)
    definition: ClassVar[Mapping[str, str]] = {
        name: f"LLaMA-Factory predict_{peer} v1 (jieba, rouge-chinese f, 4 digits per item)"
        for name, peer in zip(NAMES, ("rouge-1", "rouge-2", "rouge-l"), strict=True)
    }

    def measure(self, samples: Sequence[Sample]) -> Measured:
        scores = rouge([(sample.predict, sample.label) for sample in samples])
        return {name: scores[:, column] for column, name in enumerate(NAMES)}

    def summarise(self, measured: Measured) -> dict[str, MetricValue]:
        return {name: numpy_mean(measured[name], averaged(measured[name], self.definition[name])) for name in NAMES}

    def explain(self, sample: Sample) -> dict[str, Parts]:
        counts = _counts([(sample.predict, sample.label)])[0].tolist()
        return {
            name: {words: common, "of the answer's": hypothesis, "of the reference's": reference}
            for name, words, (hypothesis, reference, common) in zip(NAMES, COUNTED, counts, strict=True)
        }


def rouge(pairs: Sequence[Pair]) -> NDArray[np.float64]:
    """Score (hypothesis, reference) pairs, (n, 3): ROUGE-1, -2, -L, 0-100, 4 digits; 0 where either side is blank."""
    counted = [_counts(batch) for batch in batches(pairs)]
    if not counted:
        return np.zeros((0, len(NAMES)))
    counts = np.concatenate(counted).reshape(-1, 3).tolist()
    return np.array([f_score(*three) for three in counts]).reshape(-1, len(NAMES))


def longest_common(hypothesis: Sequence[str], reference: Sequence[str]) -> int:
    """Length of the longest common subsequence of two lists of words, or of two strings with one character a word."""
    return int(LCSseq.similarity(hypothesis, reference))


def f_score(hypothesis: int, reference: int, common: int) -> float:
    """rouge-chinese's f-score of counts, 0-100, rounded to 4 digits."""
    precision = common / hypothesis if hypothesis else 0.0
    recall = common / reference if reference else 0.0
    return round(2.0 * ((precision * recall) / (precision + recall + 1e-8)) * 100, 4)


def forget() -> None:
    """Forget how texts were cut before."""
    _dictionary().forget()


def words(text: str) -> list[str]:
    """Cut a text into the words rouge-chinese sees; none where it is blank."""
    pieces = _dictionary().pieces
    return joined_words(" ".join([token for piece in PIECES.split(text) if piece for token in pieces[piece]]))


def joined_words(joined: str) -> list[str]:
    """Cut space-joined tokens into words as rouge-chinese does: sentence by sentence, a blank one being a word too."""
    if SIX_DOTS not in joined and not BLANK_LINE.search(joined) and not joined[:1].isspace():
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


def _counts(pairs: list[Pair]) -> NDArray[np.int64]:
    """Per pair and ROUGE: what the hypothesis has, what the reference has, what both have; (n, 3, 3)."""
    if len(pairs) == 1 and sum(map(len, pairs[0])) > LONGEST_NUMBERED:
        return _plain_counts(words(pairs[0][0]), words(pairs[0][1]))
    dictionary = _dictionary()
    if len(dictionary.words) >= MOST_WORDS:
        dictionary.forget()
    texts = [dictionary.numbered(text) for pair in pairs for text in pair]
    counts = np.zeros((len(pairs), 3, 3), dtype=np.int64)
    counts[:, :2] = different(texts)
    counts[:, 2, 0] = [len(text) for text in texts[::2]]
    counts[:, 2, 1] = [len(text) for text in texts[1::2]]
    counts[:, 2, 2] = [longest_common(*sides) for sides in zip(texts[::2], texts[1::2], strict=True)]
    return counts


def _plain_counts(hypothesis: list[str], reference: list[str]) -> NDArray[np.int64]:
    rows = []
    for of in (set, lambda words: set(pairwise(words))):
        ours, theirs = of(hypothesis), of(reference)
        rows.append((len(ours), len(theirs), len(ours & theirs)))
    return np.array([[*rows, (len(hypothesis), len(reference), longest_common(hypothesis, reference))]])


class _Dictionary:
    """jieba's cuts, each made once."""

    def __init__(self) -> None:
        self.forget()

    @cached_property
    def _tokenizer(self) -> Any:
        """Load the dictionary (about a second), for text that needs it.

        The tokenizer is our own: words that somebody adds to jieba's shared one do not change a score.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # jieba's sources have invalid escapes, reported when first compiled
            jieba: Any = importlib.import_module("jieba")
        level = jieba.default_logger.level
        jieba.default_logger.setLevel(logging.WARNING)  # it reports loading on standard error
        try:
            tokenizer = jieba.Tokenizer()
            tokenizer.initialize()
        finally:
            jieba.default_logger.setLevel(level)
        return tokenizer

    def forget(self) -> None:
        """Start numbering again: numbers given out before mean nothing from here on."""
        self.words = Words()
        self.pieces = Remembered(self._cut)
        self._chunks = Remembered(self._numbered_chunk)

    def numbered(self, text: str) -> str:
        """Cut a text as `words` does, and give each word as the character that stands for it."""
        if SIX_DOTS in text:
            return "".join([self.words[word] for word in words(text)])
        chunks = self._chunks
        if not BLANK_LINE.search(text) and not text[:1].isspace():
            return "".join([chunks[chunk] for chunk in text.split()])
        found = []
        for at, line in enumerate(SENTENCE_END.sub(r"\g<0>\n", text).rstrip().split("\n")):
            here = line.split()
            if here:
                found += [chunks[chunk] for chunk in here]
            elif line or at:  # jieba's tokens are joined with spaces: only a break at the very start leaves nothing
                found.append(self.words[BLANK])
        return "".join(found)

    def _numbered_chunk(self, chunk: str) -> str:
        words, pieces = self.words, self.pieces
        return "".join([words[word] for piece in PIECES.split(chunk) if piece for word in pieces[piece]])

    def _cut(self, piece: str) -> list[str]:
        if PLAIN.fullmatch(piece):
            return [token for token in PLAIN_TOKENS.split(piece) if token]
        if BETWEEN.fullmatch(piece):
            return list(piece)
        return list(self._tokenizer.cut(piece))


@cache
def _dictionary() -> _Dictionary:
    return _Dictionary()
