"""What Numba compiles for `unsay.engine.kernel`, kept on disk for the next process. Needs Numba."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "arcp", "nsz"}, error_model="numpy")  # type: ignore[untyped-decorator]
def attend_slots(
    query: Any,
    keys: Any,
    values: Any,
    result: Any,
    sums: Any,
    slots: Any,
    begins: Any,
    ends: Any,
    scale: Any,
    first: int,
    last: int,
) -> None:
    """Softmax attention of the queries `first` to `last`; see `unsay.engine.kernel.attend` for the shapes."""
    heads, group, width = query.shape[1], query.shape[2], query.shape[3]
    depth = values.shape[3]
    room = 0
    for at in range(first, last):
        room = max(room, ends[at] - begins[at])
    scores = np.empty((group, room), np.float32)
    total = np.empty((group, depth), np.float32)
    for at in range(first, last):
        begin, end = begins[at], ends[at]
        for head in range(heads):
            asked = query[at, head]
            key = keys[slots[at], head, begin:end]
            value = values[slots[at], head, begin:end]
            seen = end - begin
            for place in range(seen):
                for row in range(group):
                    product = np.float32(0)
                    for number in range(width):
                        product += asked[row, number] * key[place, number]
                    scores[row, place] = product * scale
            for row in range(group):
                score = scores[row, :seen]
                highest = score[0]
                for place in range(seen):
                    highest = max(highest, score[place])
                whole = np.float32(0)
                for place in range(seen):
                    weight = np.exp(score[place] - highest)
                    score[place] = weight
                    whole += weight
                sums[at, head, row] = highest + np.log(whole)
                share = np.float32(1) / whole
                for place in range(seen):
                    score[place] *= share
                for number in range(depth):
                    total[row, number] = 0
            for place in range(seen):
                for row in range(group):
                    weight = scores[row, place]
                    for number in range(depth):
                        total[row, number] += weight * value[place, number]
            for row in range(group):
                for number in range(depth):
                    result[at, head, row, number] = total[row, number]
