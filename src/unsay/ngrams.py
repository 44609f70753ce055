"""Counting what two texts share, for many pairs at once: n-grams, and words that are numbered first.

Texts are strings, and their elements are characters. To count words, give each word a character of its own (`Words`)
and count in the strings that come out. Knows nothing about scores, samples or how a text is cut into words.

    clipped_matches([("abcd", "abce")])        # [[3, 2, 1, 0]]
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

ORDERS = 4
PAIRS_AT_ONCE = 256
CHARACTERS_AT_ONCE = 1 << 18
MOST_WORDS = 1 << 17
"""Words after which a numbering should start again, between two batches."""
LONGEST_NUMBERED = 1 << 19
"""Characters of a pair whose words can surely be numbered, beside as many as `MOST_WORDS` and a batch have."""
REMEMBERED = 1 << 16
LONGEST_REMEMBERED = 64
FIRST_SURROGATE, SURROGATES = 0xD800, 0x800
PAD = ORDERS - 1
"""Places of no character after a text: no n-gram reaches over them."""

Pair = tuple[str, str]
"""A hypothesis and its reference."""


class Words(dict[str, str]):
    """One character per word, given out in the order of first use; never NUL or one that cannot be encoded.

    There are 1.1 million.
    """

    def __missing__(self, word: str) -> str:
        number = len(self) + 1
        self[word] = code = chr(number if number < FIRST_SURROGATE else number + SURROGATES)
        return code


class Remembered(dict[str, Any]):
    """What a function makes of a short text, kept for the next time; starts again when full."""

    def __init__(self, make: Callable[[str], Any]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, text: str) -> Any:
        made = self._make(text)
        if len(text) <= LONGEST_REMEMBERED:
            if len(self) >= REMEMBERED:
                self.clear()
            self[text] = made
        return made


def batches(pairs: Iterable[Pair]) -> Iterator[list[Pair]]:
    """Cut pairs into batches that are counted together: enough for numpy, little enough for the processor's cache.

    A pair of more than `CHARACTERS_AT_ONCE` is a batch of its own.
    """
    batch: list[Pair] = []
    size = 0
    for pair in pairs:
        here = len(pair[0]) + len(pair[1])
        if batch and (len(batch) == PAIRS_AT_ONCE or size + here > CHARACTERS_AT_ONCE):
            yield batch
            batch, size = [], 0
        batch.append(pair)
        size += here
    if batch:
        yield batch


def clipped_matches(pairs: list[Pair]) -> NDArray[np.int64]:
    """Count per pair, for n-grams of 1 to 4, the sum of min(count in hypothesis, count in reference): (pairs, 4).

    One sort for all pairs and orders together: the 4-gram that starts at a character is packed into one 64-bit key with
    its pair above and its side below, so n-grams of every order lie side by side. Where that does not fit, halve the
    batch; one pair of more than 32,767 different characters is counted plainly.
    """
    texts = [text for pair in pairs for text in pair]
    ids, bits = _dense_ids(texts)
    pair_bits = (len(pairs) - 1).bit_length()
    if pair_bits + ORDERS * bits + 1 > 64:
        if len(pairs) == 1:
            return np.array([_plain_matches(*pairs[0])])
        middle = len(pairs) // 2
        return np.concatenate([clipped_matches(pairs[:middle]), clipped_matches(pairs[middle:])])
    return _clipped(_sorted_keys(ids, [len(text) + PAD for text in texts], bits), bits, len(pairs))


def different(texts: list[str]) -> NDArray[np.int64]:
    """Count the different characters, and pairs of neighbours, of hypotheses, references and both: (pairs, 2, 3).

    `texts` alternate hypothesis and reference and hold no NUL. One sort for all: the key of a character is its pair of
    texts, itself, the one after it (0: none) and its side, from the top.
    """
    codes = np.frombuffer("\0".join([*texts, ""]).encode("utf-32-le"), dtype="<u4").astype(np.uint64)
    sides = np.repeat(np.arange(len(texts), dtype=np.uint64), [len(text) + 1 for text in texts])
    keys = (((sides >> 1) << 21 | codes) << 21) << 1 | (sides & 1)
    keys[:-1] |= codes[1:] << 1
    keys = np.sort(keys[codes != 0])
    found = np.zeros((len(texts) // 2, 2, 3), dtype=np.int64)
    if len(keys) == 0:
        return found
    changes = np.concatenate(([np.uint64(1 << 63)], keys[1:] ^ keys[:-1]))
    starts = np.flatnonzero(changes >= 2)
    ends = np.append(starts[1:], len(keys)) - 1
    firsts = keys[starts]
    neighbours = np.stack([firsts & 1 == 0, keys[ends] & 1 == 1], axis=1)  # of equal keys, side 0 comes first
    single_starts = np.flatnonzero(changes[starts] >= 1 << 22)
    singles = np.logical_or.reduceat(neighbours, single_starts)
    neighbours &= ((firsts >> 1) & ((1 << 21) - 1) != 0)[:, None]
    owners = (firsts >> 43).astype(np.int64)
    for order, (owner, has) in enumerate(((owners[single_starts], singles), (owners, neighbours))):
        for column, counted in enumerate((has[:, 0], has[:, 1], has.all(axis=1))):
            found[:, order, column] = np.bincount(owner[counted], minlength=len(found))
    return found


def _sorted_keys(ids: NDArray[np.uint64], lengths: list[int], bits: int) -> NDArray[np.uint64]:
    """One key per character, from the top: pair, the 4-gram from here on (0 past the end of its text), side."""
    sides = np.repeat(np.arange(len(lengths), dtype=np.uint64), lengths)  # 2 · pair, + 1 for the reference
    keys = sides >> 1
    for ahead in range(ORDERS):
        keys <<= bits
        keys[: len(ids) - ahead] |= ids[ahead:]
    keys <<= 1
    keys |= sides & 1
    present: NDArray[np.uint64] = keys[ids != 0]
    present.sort()
    return present


def _clipped(keys: NDArray[np.uint64], bits: int, pairs: int) -> NDArray[np.int64]:
    counts = np.zeros((pairs, ORDERS), dtype=np.int64)
    if len(keys) == 0:
        return counts
    references_before = np.concatenate(([0], np.cumsum(keys & 1, dtype=np.int64)))
    changes = np.concatenate(([np.uint64((1 << 64) - 1)], keys[1:] ^ keys[:-1]))
    starts = np.arange(len(keys))
    for order in range(ORDERS, 0, -1):  # where a shorter n-gram changes, so does a longer one
        below = 1 + (ORDERS - order) * bits
        starts = starts[changes[starts] >= (1 << below)]
        ends = np.append(starts[1:], len(keys))
        references = references_before[ends] - references_before[starts]
        grams = keys[starts] >> below
        matched = np.minimum(references, ends - starts - references)
        matched[grams & ((1 << bits) - 1) == 0] = 0  # the text ends within the n-gram
        owners = (grams >> (order * bits)).astype(np.int64)
        counts[:, order - 1] = np.bincount(owners, weights=matched, minlength=pairs)
    return counts


def _dense_ids(texts: list[str]) -> tuple[NDArray[np.uint64], int]:
    """Number the different characters from 1, with 0 in the pads; also give the bits one number takes."""
    pad = "\0" * PAD
    codes = np.frombuffer(pad.join([*texts, ""]).encode("utf-32-le", "surrogatepass"), dtype="<u4")
    ends = np.cumsum([len(text) + PAD for text in texts])
    inside = np.ones(len(codes), dtype=bool)
    inside[(ends[:, None] - np.arange(1, PAD + 1)).ravel()] = False
    present = np.zeros(int(codes.max(initial=0)) + 1, dtype=np.uint64)
    present[codes[inside]] = 1
    numbers = np.cumsum(present)
    ids: NDArray[np.uint64] = numbers[codes] * inside
    return ids, max(1, int(numbers[-1]).bit_length())


def _plain_matches(hypothesis: str, reference: str) -> list[int]:
    counts = []
    for order in range(1, ORDERS + 1):
        both = [
            Counter(zip(*(text[start:] for start in range(order)), strict=False)) for text in (hypothesis, reference)
        ]
        counts.append((both[0] & both[1]).total())
    return counts
