"""The compiled attention gives what torch's own gives, and the engine does without it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from unsay import engine
from unsay.engine import kernel
from unsay.loading import load_model
from unsay.records import Key
from unsay.settings import Decode
from unsay.undo import EMPTY


@settings(max_examples=60, deadline=None)
@given(
    heads=st.integers(1, 3),
    group=st.integers(1, 4),
    width=st.sampled_from([1, 8, 20, 64]),
    spans=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 40)), min_size=1, max_size=9),
    seed=st.integers(0, 2**32 - 1),
    threads=st.sampled_from([1, 3]),
)
def test_what_each_slot_sees(
    heads: int, group: int, width: int, spans: list[tuple[int, int]], seed: int, threads: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    count = len(spans) + 2
    query = torch.randn(len(spans), heads, group, width, generator=generator) * 3
    keys = torch.randn(count, heads, 80, width, generator=generator)
    values = torch.randn(count, heads, 80, width + 1, generator=generator)
    slots = torch.randperm(count, generator=generator)[: len(spans)].numpy()
    begins, ends = np.array([begin for begin, _ in spans]), np.array([begin + seen for begin, seen in spans])
    before, worth = torch.get_num_threads(), kernel._WORTH
    try:
        torch.set_num_threads(threads)
        kernel._WORTH = 1
        got, sums = kernel.attend(query, keys, values, slots, begins, ends, 0.3)
    finally:
        kernel._WORTH = worth
        torch.set_num_threads(before)
    for row, (slot, begin, end) in enumerate(zip(slots, begins, ends, strict=True)):
        seen = keys[slot, :, begin:end].double(), values[slot, :, begin:end].double()
        expected = scaled_dot_product_attention(query[row].double(), *seen, scale=0.3)
        torch.testing.assert_close(got[row].double(), expected, atol=2e-6, rtol=2e-5)
        scores = query[row].double() @ seen[0].transpose(-1, -2) * 0.3
        torch.testing.assert_close(sums[row].double(), scores.logsumexp(-1), atol=1e-5, rtol=1e-5)


def test_numbers_that_are_none_stay_so() -> None:
    keys = torch.zeros(1, 1, 4, 8)
    keys[0, 0, 1] = torch.nan
    ends = np.array([4])
    got, _ = kernel.attend(torch.ones(1, 1, 1, 8), keys, torch.ones(1, 1, 4, 8), ends - 4, ends - 4, ends, 1.0)
    assert torch.isnan(got).all()


@pytest.mark.parametrize("family", ["qwen3", "mistral"])
def test_the_same_answers_without_numba(
    tiny_models: Callable[..., Path], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(str(tiny_models(family)), None, dtype="float32")
    common = [5 + at % 50 for at in range(70)]
    requests = [engine.Request(Key("t", at), tuple(common + [7 + at] * (1 + at % 5))) for at in range(9)]
    options = engine.Options(Decode(max_new_tokens=24), EMPTY, frozenset(), str, slots=4)

    def answers() -> tuple[dict[Key, tuple[int, ...]], str]:
        each = engine.Engine(model, options)
        return {done.request.key: done.ids for done in each.generate(requests)}, each.facts["attention"]

    with_numba, name = answers()
    assert name == "numba"
    kernel.compiled.cache_clear()
    monkeypatch.setitem(sys.modules, "unsay.engine._kernel", None)
    try:
        without, name = answers()
    finally:
        kernel.compiled.cache_clear()
    assert name == "scaled_dot_product_attention"
    assert without == with_numba
