"""Every weight adapts: what `unsay.train.lora` does for an adapter, done for a whole model.

A control token's row lies inside the embedding matrix here. It is held to the same rules as LoRA's: no weight decay,
and a learning rate of its own where there is one. The optimiser knows whole matrices only, so `step` corrects the rows
after it.

    model = attach(model, training, token_ids)
    save(model, folder)          # a model folder like any other, in float32
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch

from unsay.loading import Quiet
from unsay.settings import Training
from unsay.store import write
from unsay.train import lora
from unsay.train.group import ALONE, Group, rows_here

rows_in_use = lora.rows_in_use


def attach(model: Any, training: Training, token_ids: Collection[int]) -> Any:
    """Return the model with every weight under training, in float32."""
    model.float()
    model.requires_grad_(True)
    return model


def parameter_groups(model: Any, training: Training) -> list[dict[str, Any]]:
    """Return what the optimiser trains: weight decay on matrices, not on norms and biases."""
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
    groups = [
        {"params": matrices, "weight_decay": training.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def step(model: Any, optimizer: torch.optim.Optimizer, training: Training, ids: Sequence[int]) -> None:
    """Take the optimiser's step, the rows of `ids` without weight decay and at their own rate."""
    matrices = _embeddings(model) if ids else []
    here = [rows_here(matrix, ids) for matrix in matrices]
    before = [local[at].clone() for local, at in here]
    optimizer.step()
    ratio = 1.0 if training.row_learning_rate is None else training.row_learning_rate / training.learning_rate
    for matrix, (local, at), old in zip(matrices, here, before, strict=True):
        group = next(group for group in optimizer.param_groups if any(matrix is each for each in group["params"]))
        # AdamW shrinks a weight first and then adds its update, which does not depend on the shrinking.
        update = local[at] - old * (1 - group["lr"] * group["weight_decay"])
        local[at] = old + ratio * update


def trained_rows(model: Any, ids: Sequence[int]) -> dict[str, torch.Tensor]:
    """Return copies of the rows under training, (tokens, width): `input` and, where it is not the same, `output`."""
    if not ids:
        return {}
    rows = rows_in_use(model, ids)
    return rows if len(_embeddings(model)) == 2 else {"input": rows["input"]}


def save(model: Any, folder: Path, group: Group = ALONE) -> None:
    """Write the model: safetensors and its config. All processes of a group call this; the first one writes."""
    tensors = group.collect(model.state_dict(keep_vars=True)) if group.sharded else None
    if not group.first:
        return
    with Quiet(), write.filling(folder) as beside:
        model.save_pretrained(str(beside), state_dict=tensors)


def _embeddings(model: Any) -> list[torch.nn.Parameter]:
    embeddings, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    return [embeddings] if head is embeddings else [embeddings, head]
