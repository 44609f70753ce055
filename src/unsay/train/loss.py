"""The loss of a batch, with the output layer only where a label is.

Most models hand on what their output layer gives. There the layer, the softmax and the gradient are computed together,
`CHUNK` labels at a time: the logits of a batch, with a large vocabulary most of the memory and half of the time, never
exist as a whole. Where a model does more to its logits (scaling, capping), or the layer is not a plain matrix
(quantized, adapted, in parts, in bfloat16), the model computes them.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.nn import functional

from unsay.train import rewind
from unsay.train.collate import Batch

CHUNK = 256
"""How many labels' logits exist at once. Smaller ones are slower: the matrix is read once per chunk."""

WEIGHTS = 4
"""With more different weights of labels than this, a chunked sum for each costs more than it saves."""

_hands_on: weakref.WeakKeyDictionary[torch.nn.Module, bool] = weakref.WeakKeyDictionary()


def batch_loss(model: Any, batch: Batch, *, bf16: bool = False) -> torch.Tensor:
    """Return the weighted sum of the losses at the supervised positions, a scalar in float32."""
    head = model.get_output_embeddings()
    weights = set(batch.weights.tolist())
    if bf16 or not 0 < len(weights) <= WEIGHTS or not _is_plain(head) or not hands_on(model):
        return _whole(model, batch, bf16)
    states = batch.at_labels(_states(model, head, batch))
    total = states.new_zeros(())
    for weight in weights:
        here = batch.weights == weight
        total = total + weight * functional.linear_cross_entropy(
            states[here],
            head.weight,
            batch.targets[here],
            linear_bias=head.bias,
            reduction="sum",
            options=torch.nn.LinearCrossEntropyOptions(batch_chunk_size=CHUNK),
        )
    return total


def _whole(model: Any, batch: Batch, bf16: bool) -> torch.Tensor:
    """Let the model compute its logits at the supervised positions."""

    def choose(_: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (inputs[0][batch.chosen].unsqueeze(0), *inputs[1:])

    hook = model.get_output_embeddings().register_forward_pre_hook(choose)
    try:
        with torch.autocast(batch.input_ids.device.type, torch.bfloat16, enabled=bf16):
            logits = model(**rewind.inputs(model, batch)).logits[0]
    finally:
        hook.remove()
    losses = functional.cross_entropy(batch.at_labels(logits).float(), batch.targets, reduction="none")
    return (losses * batch.weights).sum()


def _states(model: Any, head: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Return what the output layer would be given at the supervised positions: (chosen, hidden)."""
    kept: list[torch.Tensor] = []

    def keep(_: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        kept.append(inputs[0][batch.chosen])
        return (inputs[0][:, :0], *inputs[1:])

    hook = head.register_forward_pre_hook(keep)
    try:
        model(**rewind.inputs(model, batch))
    finally:
        hook.remove()
    (states,) = kept
    return states


def _is_plain(head: Any) -> bool:
    """Return whether the layer is a matrix in float32 that nobody has changed. Older torch has no chunked loss."""
    return (
        hasattr(functional, "linear_cross_entropy")
        and type(head) is torch.nn.Linear
        and "forward" not in vars(head)
        and type(head.weight) is torch.nn.Parameter
        and head.weight.dtype == torch.float32
    )


def hands_on(model: Any) -> bool:
    """Return whether the model's logits are its output layer's very output. Asks a model once."""
    if model not in _hands_on:
        given: list[torch.Tensor] = []
        hook = model.get_output_embeddings().register_forward_hook(lambda _, __, output: given.append(output))
        device = model.get_input_embeddings().weight.device
        try:
            # Dropout of the question must not move the dropout of the training.
            with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
                logits = model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=device), use_cache=False).logits
        finally:
            hook.remove()
        _hands_on[model] = len(given) == 1 and logits is given[0]
    return _hands_on[model]
