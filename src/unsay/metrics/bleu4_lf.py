"""LLaMA-Factory's BLEU-4: mean sentence BLEU over characters, all digits equal.

Its formula is nltk's `sentence_bleu([list(label)], list(predict), smoothing_function=method3)` times 100, rounded to 4
digits per sample. It follows accuracy badly; it is here for continuity with pages that show it.

    >>> from unsay.records import Sample
    >>> Bleu4LF().items([Sample("0", "", "3: Business", "3: Business"), Sample("1", "", "3: Business", "4: Sci/Tech")])
    {'bleu4_lf': [100.0, 8.9138]}
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from unsay.metrics import PERCENT, Items, Range, averaged, same_mean
from unsay.records import MetricValue, Sample

NAME = "bleu4_lf"
ORDERS = 4
PAIRS_AT_ONCE = 256
CHARACTERS_AT_ONCE = 1 << 18

Pair = tuple[str, str]


@dataclass(frozen=True)
class Bleu4LF:
    """Mean character-level sentence BLEU-4 as LLaMA-Factory computes it (nltk, smoothing method 3)."""

    names: ClassVar[tuple[str, ...]] = (NAME,)
    higher_is_better: ClassVar[Mapping[str, bool | None]] = {NAME: True}
    range: ClassVar[Mapping[str, Range]] = {NAME: PERCENT}
    definition: ClassVar[Mapping[str, str]] = {
        NAME: "LLaMA-Factory predict_bleu-4 v1 (characters, nltk sentence_bleu method3, 4 digits per item)"
    }

    def items(self, samples: Sequence[Sample]) -> Items:
        return {NAME: list(sentence_bleu([(sample.predict, sample.label) for sample in samples]))}

    def summarise(self, samples: Sequence[Sample], items: Items | None = None) -> dict[str, MetricValue]:
        scores = (self.items(samples) if items is None else items)[NAME]
        value = averaged(scores, self.definition[NAME])
        return {NAME: same_mean(value, float(np.mean([s for s in scores if s is not None]))) if scores else value}


def sentence_bleu(pairs: Sequence[Pair]) -> list[float]:
    """Score (hypothesis, reference) pairs, 0-100, rounded to 4 digits."""
    scores = []
    for batch in _batches(pairs):
        for (hypothesis, reference), matches in zip(batch, _matches(batch), strict=True):
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
    penalty = 1.0 if hypothesis > reference else math.exp(1 - reference / hypothesis)
    return penalty * math.exp(math.fsum(logs))


def _batches(pairs: Sequence[Pair]) -> Iterator[list[Pair]]:
    batch: list[Pair] = []
    size = 0
    for pair in pairs:
        batch.append(pair)
        size += len(pair[0]) + len(pair[1])
        if len(batch) == PAIRS_AT_ONCE or size >= CHARACTERS_AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _matches(pairs: list[Pair]) -> list[list[int]]:
    """Clipped n-gram matches of each pair, orders 1 to 4.

    One sort for all pairs and orders together: the 4-gram that starts at a character is packed into one 64-bit key with
    its pair above and its side below, so n-grams of every order lie side by side. Where that does not fit, halve the
    batch; one pair of more than 32,767 different characters is counted plainly.
    """
    ids, bits = _dense_ids("".join(hypothesis + reference for hypothesis, reference in pairs))
    pair_bits = (len(pairs) - 1).bit_length()
    if pair_bits + ORDERS * bits + 1 > 64:
        if len(pairs) == 1:
            return [_plain_matches(*pairs[0])]
        middle = len(pairs) // 2
        return _matches(pairs[:middle]) + _matches(pairs[middle:])
    if len(ids) == 0:
        return [[0] * ORDERS for _ in pairs]
    keys = _sorted_keys(ids, [len(text) for pair in pairs for text in pair], bits)
    counts = np.stack([_clipped(keys, order, bits, len(pairs)) for order in range(1, ORDERS + 1)], axis=1)
    rows: list[list[int]] = counts.tolist()
    return rows


def _sorted_keys(ids: NDArray[np.uint64], lengths: list[int], bits: int) -> NDArray[np.uint64]:
    """One key per character, from the top: pair, the 4-gram from here on (0 past the end of its text), side."""
    sides = np.repeat(np.arange(len(lengths), dtype=np.uint64), lengths)  # 2 · pair, + 1 for the reference
    keys = sides >> np.uint64(1)
    for ahead in range(ORDERS):
        keys <<= np.uint64(bits)
        inside = max(0, len(ids) - ahead)
        keys[:inside] |= np.where(sides[:inside] == sides[ahead:], ids[ahead:], np.uint64(0))
    keys = (keys << np.uint64(1)) | (sides & np.uint64(1))
    keys.sort()
    return keys


def _clipped(keys: NDArray[np.uint64], order: int, bits: int, pairs: int) -> NDArray[np.int64]:
    """Per pair, sum over its n-grams of min(count in hypothesis, count in reference)."""
    grams = keys >> np.uint64(1 + (ORDERS - order) * bits)
    starts = np.flatnonzero(np.concatenate(([True], grams[1:] != grams[:-1])))
    sizes = np.diff(starts, append=len(keys))
    references = np.add.reduceat((keys & np.uint64(1)).astype(np.int64), starts)
    firsts = grams[starts]
    whole = (firsts & np.uint64((1 << bits) - 1)) != 0  # the text does not end within the n-gram
    matched = np.minimum(references, sizes - references) * whole
    owners = (firsts >> np.uint64(order * bits)).astype(np.int64)
    return np.bincount(owners, weights=matched, minlength=pairs).astype(np.int64)


def _dense_ids(text: str) -> tuple[NDArray[np.uint64], int]:
    """Number the different characters from 1; also give the bits one number takes."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    if len(codes) == 0:
        return np.zeros(0, dtype=np.uint64), 1
    present = np.zeros(int(codes.max()) + 1, dtype=bool)
    present[codes] = True
    numbers = np.cumsum(present)
    return numbers[codes].astype(np.uint64), int(numbers[-1]).bit_length()


def _plain_matches(hypothesis: str, reference: str) -> list[int]:
    counts = []
    for order in range(1, ORDERS + 1):
        both = [
            Counter(zip(*(text[start:] for start in range(order)), strict=False)) for text in (hypothesis, reference)
        ]
        counts.append((both[0] & both[1]).total())
    return counts
