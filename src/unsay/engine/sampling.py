"""Logits to token: greedy, or temperature / top-k / top-p with one generator per sequence.

The filters are transformers' own. Knows nothing about sequences beyond the ids that are banned for each.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from unsay.settings import Decode


@dataclass(frozen=True)
class Choice:
    """One sampled token; `logprob` is the model's own, before bans, temperature and filters."""

    token: int
    logprob: float


def filters(decode: Decode) -> LogitsProcessorList:
    """Return transformers' logits filters for the settings, in the order its own `generate` applies them."""
    chain = LogitsProcessorList()
    if decode.do_sample:
        if decode.temperature != 1.0:
            chain.append(TemperatureLogitsWarper(decode.temperature))
        if decode.top_k > 0:
            chain.append(TopKLogitsWarper(decode.top_k))
        if decode.top_p < 1.0:
            chain.append(TopPLogitsWarper(decode.top_p))
    return chain


def choose(
    logits: torch.Tensor,
    banned: Sequence[set[int]],
    controls: Collection[int],
    chain: LogitsProcessorList,
    generators: Sequence[torch.Generator] | None,
) -> list[Choice | None]:
    """Choose one token per row.

    `logits` is (rows, vocabulary) in any float type. `generators` is None for greedy decoding. A row that has nothing
    left to choose but the `controls` gives None.
    """
    logits = logits.float()
    model_logprobs = torch.log_softmax(logits, dim=-1)  # (rows, vocabulary)
    allowed = logits
    if any(banned):
        allowed = logits.clone()
        for row, ids in enumerate(banned):
            if ids:
                allowed[row, sorted(ids)] = float("-inf")
    if generators is None:
        tokens = allowed.argmax(dim=-1)
    else:
        probabilities = torch.softmax(chain(None, allowed), dim=-1).nan_to_num(0.0).cpu()
        probabilities[probabilities.sum(dim=-1) == 0, 0] = 1.0  # nothing left: such a row becomes None below
        tokens = torch.stack(
            [torch.multinomial(row, 1, generator=each)[0] for row, each in zip(probabilities, generators, strict=True)]
        ).to(logits.device)
    emitting = torch.ones(logits.shape[-1], dtype=torch.bool, device=logits.device)
    emitting[sorted(controls)] = False
    possible = torch.isfinite(allowed[:, emitting]).any(dim=-1).tolist()
    picked = model_logprobs.gather(1, tokens[:, None])[:, 0].tolist()
    return [
        Choice(token, logprob) if ok else None
        for token, logprob, ok in zip(tokens.tolist(), picked, possible, strict=True)
    ]
