"""A slow, obvious generator with undo: no batch, no cache, the whole context through the model for every token.

The engine must give exactly what this gives.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch

from unsay.settings import Decode
from unsay.undo import UndoTable, resolve


@torch.inference_mode()
def generate(
    model: Any, prompt: Sequence[int], decode: Decode, table: UndoTable, end_ids: Collection[int] = ()
) -> tuple[list[int], str]:
    """Return (trace, finish reason) of one greedy answer; budgets on steps, undos and visits only."""
    trace: list[int] = []
    logprobs: list[float] = []
    bans: list[tuple[int, tuple[int, ...], int]] = []  # (height of its node, survivors when it applies, token)
    visits: dict[int, int] = {}
    run = False  # inside a run of undos whose tokens the model still sees
    context = list(prompt)
    while True:
        resolution = resolve(trace, table)
        survivors = resolution.visible_ids
        forbidden = set(table.actions) if decode.undo == "ban" or not survivors else set()
        if not run:
            forbidden |= {token for _, path, token in bans if path == survivors}
        logits = model(torch.tensor([context])).logits[0, -1].float()
        allowed = logits.clone()
        allowed[sorted(forbidden)] = float("-inf")
        if all(not torch.isfinite(allowed[id]) for id in range(len(allowed)) if id not in table.actions):
            return trace, "banned"
        token = int(allowed.argmax())
        if run and token not in table.actions:
            run = False
            context = [*prompt, *survivors]
            visits[len(survivors)] = visits.get(len(survivors), 0) + 1
            if visits[len(survivors)] > decode.max_visits:
                return trace, "max_visits"
            continue
        trace.append(token)
        logprobs.append(float(torch.log_softmax(logits, -1)[token]))
        context.append(token)
        if token in end_ids:
            return trace, "eos"
        if token in table.actions:
            after = resolve(trace, table).visible_ids
            removed = resolution.positions[len(after) :]
            if removed and decode.undo_context == "rewind":
                run = True
                height = len(after)
                bans = [ban for ban in bans if ban[0] <= height]
                visits = {at: count for at, count in visits.items() if at <= height}
                worst = min(removed, key=lambda index: logprobs[index])
                path = after + tuple(trace[index] for index in removed if index < worst)
                bans.append((height, path, trace[worst]))
        if len(trace) >= decode.max_new_tokens:
            return trace, "max_steps"
        if decode.max_undos is not None and sum(id in table.actions for id in trace) >= decode.max_undos:
            return trace, "max_undos"
