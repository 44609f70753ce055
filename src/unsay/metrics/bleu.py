"""sacreBLEU's corpus BLEU, with a seeded bootstrap over items for its error.

A corpus statistic: it is computed from n-gram counts summed over all answers, so an item has no score of its own. What
each item adds is in `counts`; `corpus_bleu` makes BLEU of any sums of them (a resample, or two systems side by side).

    >>> from unsay.records import Sample
    >>> label, predict = "She has 18 eggs left in all today .", "She has 18 eggs left in all ."
    >>> value = Bleu().summarise(Bleu().measure([Sample("0", "", label, predict)]))["bleu"]
    >>> round(value.value, 2), value.stderr, value.n
    (76.73, None, 1)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from unsay import stats
from unsay.errors import ConfigError
from unsay.metrics import PERCENT, Measured, Metric, Range, from_estimate
from unsay.ngrams import LONGEST_NUMBERED, MOST_WORDS, ORDERS, Pair, Remembered, Words, batches, clipped_matches
from unsay.records import MetricValue, Sample

NAME = "bleu"
JOINING = ("-\n", "<skipped>")
"""What tokenizer 13a drops, joining what stands around it; apart from that it cuts what blanks separate one by one."""
LOG_OF_ZERO = -9999999999.0
"""sacreBLEU's logarithm of a precision of 0."""


@dataclass(frozen=True)
class Bleu(Metric):
    """Corpus BLEU by sacreBLEU (one reference, 13a tokens, exponential smoothing).

    `tokenize`: a sacreBLEU tokenizer. `resamples`, `seed`: of the bootstrap that gives error and interval.
    """

    tokenize: str = "13a"
    resamples: int = 1000
    seed: int = 0

    names: ClassVar[tuple[str, ...]] = (NAME,)
    higher_is_better: ClassVar[Mapping[str, bool | None]] = {NAME: True}
    range: ClassVar[Mapping[str, Range]] = {NAME: PERCENT}

    @property
    def definition(self) -> dict[str, str]:
        return {NAME: f"sacreBLEU {_signature(self.tokenize)}"}

    def measure(self, samples: Sequence[Sample]) -> Measured:
        return {NAME: self.counts(samples)}

    def summarise(self, measured: Measured) -> dict[str, MetricValue]:
        rows = measured[NAME]
        found = stats.bootstrap(rows, corpus_bleu, resamples=self.resamples, seed=self.seed)
        value = from_estimate(found, self.definition[NAME], PERCENT)
        if found.n:  # sacreBLEU's own arithmetic, so that all digits are its
            value = dataclasses.replace(value, value=_score(rows))
        return {NAME: value}

    def counts(self, samples: Sequence[Sample]) -> NDArray[np.float64]:
        """What each sample adds, (items, 10): length, reference length, matches of order 1-4, n-grams of order 1-4."""
        tokens = _tokens(self.tokenize)
        rows = [np.zeros((0, 2 + 2 * ORDERS))]
        for batch in batches((sample.predict, sample.label) for sample in samples):
            if len(batch) == 1 and sum(map(len, batch[0])) > LONGEST_NUMBERED:
                rows.append(_plain_counts(self.tokenize, *batch[0]))
                continue
            pairs = tokens.numbered(batch)
            lengths = np.array([(len(hypothesis), len(reference)) for hypothesis, reference in pairs], dtype=np.float64)
            grams = np.maximum(lengths[:, :1] - np.arange(ORDERS), 0)
            rows.append(np.concatenate([lengths, clipped_matches(pairs), grams], axis=1))
        return np.concatenate(rows)


def corpus_bleu(totals: NDArray[np.float64]) -> NDArray[np.float64]:
    """BLEU of each row of summed counts, (m, 10) to (m,), 0-100, as sacreBLEU computes it with smoothing `exp`."""
    length, reference = totals[:, 0], totals[:, 1]
    matches, grams = totals[:, 2 : 2 + ORDERS], totals[:, 2 + ORDERS :]
    seen = np.minimum.accumulate(grams > 0, axis=1)  # orders after the first without n-grams count as precision 0
    none = seen & (matches == 0)
    doubled = np.cumsum(none, axis=1)
    numerators = np.where(none, 0.5**doubled, matches)
    with np.errstate(divide="ignore", invalid="ignore"):
        precisions = np.where(seen, 100 * numerators / grams, 0.0)
        logs = np.where(precisions > 0, np.log(precisions), LOG_OF_ZERO)
        penalty = np.where(length < reference, np.exp(1 - reference / length), 1.0)
    penalty = np.where((length == 0) & (reference > 0), 0.0, penalty)
    scores: NDArray[np.float64] = np.where(matches.any(axis=1), penalty * np.exp(logs.mean(axis=1)), 0.0)
    return scores


def _score(rows: NDArray[np.float64]) -> float:
    length, reference, *counts = (int(total) for total in rows.sum(axis=0))
    from sacrebleu.metrics.bleu import BLEU

    found = BLEU.compute_bleu(counts[:ORDERS], counts[ORDERS:], length, reference, smooth_method="exp")
    return float(found.score)


def _plain_counts(tokenize: str, hypothesis: str, reference: str) -> NDArray[np.float64]:
    from sacrebleu.metrics.bleu import BLEU

    found = BLEU(tokenize=tokenize, effective_order=True).sentence_score(hypothesis, [reference])
    return np.array([[found.sys_len, found.ref_len, *found.counts, *found.totals]], dtype=np.float64)


class _Tokens:
    """sacreBLEU's tokens of texts, each token numbered with a character of its own."""

    def __init__(self, tokenize: str) -> None:
        from sacrebleu.metrics.bleu import BLEU

        if tokenize not in BLEU.TOKENIZERS:
            raise ConfigError(f"bleu: sacreBLEU has no tokenizer {tokenize!r}; it has: {', '.join(BLEU.TOKENIZERS)}")
        self._tokenizer: Any = BLEU(tokenize=tokenize).tokenizer
        self._by_chunk = tokenize == "13a"
        self._forget()

    def numbered(self, pairs: list[Pair]) -> list[Pair]:
        if len(self._words) > MOST_WORDS:
            self._forget()
        numbered = [(self._numbered(hypothesis), self._numbered(reference)) for hypothesis, reference in pairs]
        for tokenizer in (self._tokenizer, getattr(self._tokenizer, "_post_tokenizer", None)):
            if clear := getattr(type(tokenizer).__call__, "cache_clear", None):
                clear()  # sacreBLEU keeps the last 65,536 texts
        return numbered

    def _forget(self) -> None:
        self._words = Words()
        self._chunks = Remembered(self._cut)

    def _numbered(self, text: str) -> str:
        line = text.rstrip()
        if self._by_chunk and not any(mark in line for mark in JOINING):
            chunks = self._chunks
            return "".join([chunks[chunk] for chunk in line.split()])
        return self._cut(line)

    def _cut(self, text: str) -> str:
        words = self._words
        return "".join([words[word] for word in self._tokenizer(text).split()])


@cache
def _tokens(tokenize: str) -> _Tokens:
    return _Tokens(tokenize)


@cache
def _signature(tokenize: str) -> str:
    from sacrebleu.metrics.bleu import BLEU

    _tokens(tokenize)  # refuses an unknown tokenizer
    scorer = BLEU(tokenize=tokenize)
    scorer.corpus_score(["a"], [["a"]])  # the number of references is known only after scoring
    return str(scorer.get_signature())
