"""Attention of each sequence's newest token on a processor, compiled with Numba where that is installed.

The query heads that share keys are few, so that a library's matrix products, made for wide matrices, read keys and
values at a fraction of the memory's speed. Here every key and value is read once, by the thread that needs it.

    kernel.attend(query, keys, values, slots, begins, ends, scale)      # what they see, and log-sum-exp of the scores
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch

_WORTH = 2**17
"""Numbers each thread must have to read."""


def name(model: Any) -> str:
    """Say what computes a model's attention to its slots."""
    compiled_for = model.device.type == "cpu" and model.dtype == torch.float32 and compiled() is not None
    return "numba" if compiled_for else "scaled_dot_product_attention"


def fits(query: torch.Tensor, keys: torch.Tensor) -> bool:
    """Say whether `attend` can be called: with float32 in ordinary memory, and Numba."""
    plain = query.device.type == "cpu" and query.dtype == keys.dtype == torch.float32
    return plain and compiled() is not None


@cache
def compiled() -> Callable[..., None] | None:
    """Return the compiled function; None where Numba is not installed or does not run here."""
    try:
        from unsay.engine._kernel import attend_slots
    except Exception:  # no Numba, or one that does not fit to its neighbours: it says so in many ways
        return None
    run: Callable[..., None] = attend_slots
    return run


def attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    slots: np.ndarray[Any, Any],
    begins: np.ndarray[Any, Any],
    ends: np.ndarray[Any, Any],
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend from `query`, (n, key/value heads, group, dimension), to places `begins` to `ends` of each one's slot.

    `keys` and `values` are (slots, key/value heads, capacity, dimension), `slots`, `begins` and `ends` (n,) integers;
    at least one place is seen. Returns the result, shaped like `query` with the dimension of the values, and the
    logarithm of the sum of the exponentials of the scores, (n, key/value heads, group).
    """
    run = compiled()
    assert run is not None
    query = query.contiguous()
    n, heads, group, _ = query.shape
    result = query.new_empty(n, heads, group, values.shape[3])
    sums = query.new_empty(n, heads, group)
    arrays = [each.numpy() for each in (query, keys, values, result, sums)]
    seen = np.cumsum(ends - begins)
    work = int(seen[-1]) * heads * (keys.shape[3] + values.shape[3])
    threads = max(1, min(torch.get_num_threads(), n, work // _WORTH))
    cuts = [0, *np.searchsorted(seen, seen[-1] * np.arange(1, threads) / threads).tolist(), n]
    parts = [(*arrays, slots, begins, ends, np.float32(scale), *cut) for cut in pairwise(cuts)]
    others = [_pool(os.getpid()).submit(run, *part) for part in parts[1:]]
    run(*parts[0])
    for other in others:
        other.result()
    return result, sums


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """Return this process's threads; one that was forked has none of its parent's."""
    return ThreadPoolExecutor(max(1, torch.get_num_threads() - 1), thread_name_prefix="attention")
