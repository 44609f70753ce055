"""Which weights adapt: LoRA on the linear layers, and whole rows for the control tokens.

The rows need their own treatment. Where the vocabulary has spare rows nothing is resized, so nothing tells PEFT to
save them; a plain list of token indices leaves the output row of an untied model behind; saving whole embeddings unties
a tied one. The dictionary form below, with the embeddings left out of the file, is right for tied and untied models.

    model = attach(model, training, token_ids)
    save(model, folder)
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch

from unsay.errors import TrainingError
from unsay.settings import Training
from unsay.store import write
from unsay.train.group import ALONE, Group, opened, trainable, whole

ADAPTER = "default"  # PEFT's name for the only adapter there is


def attach(model: Any, training: Training, token_ids: Collection[int]) -> Any:
    """Return the model with a fresh adapter on it; everything else is frozen, what adapts is float32."""
    from peft import LoraConfig, get_peft_model

    embeddings, head = _name(model, model.get_input_embeddings()), _name(model, model.get_output_embeddings())
    rows = sorted(token_ids)
    if rows and getattr(model.get_output_embeddings(), "bias", None) is not None:
        raise TrainingError(
            "expected an output layer without bias, as PEFT drops it when it trains single rows, got one with; "
            "train this model without undo, or choose another"
        )
    target = training.lora_target
    names = [name.strip() for name in target.split(",")] if isinstance(target, str) else list(target)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=training.lora_rank,
        lora_alpha=training.lora_alpha,
        lora_dropout=training.lora_dropout,
        target_modules="all-linear" if names == ["all"] else names,
        trainable_token_indices={embeddings: rows, head: rows} if rows else None,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            adapted = get_peft_model(model, config)
        except ValueError as error:
            raise TrainingError(
                f"lora_target: expected `all` or names of linear layers of this model, got {target!r}: {error}"
            ) from error
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return adapted


def parameter_groups(model: Any, training: Training) -> list[dict[str, Any]]:
    """Return what the optimiser trains: LoRA's matrices, and the tokens' rows, at their own rate and never decayed."""
    matrices: list[torch.nn.Parameter] = []
    rows: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (rows if "trainable_tokens" in name else matrices).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": training.weight_decay},
        {"params": rows, "weight_decay": 0.0},
    ]
    if training.row_learning_rate is not None:
        groups[1]["lr"] = training.row_learning_rate
    return [group for group in groups if group["params"]]


def step(model: Any, optimizer: torch.optim.Optimizer, training: Training, ids: Sequence[int]) -> None:
    """Take the optimiser's step: its groups say all there is to say about the rows."""
    optimizer.step()


def trained_rows(model: Any, ids: Sequence[int]) -> dict[str, torch.Tensor]:
    """Return copies of the rows under training, (tokens, width): `input` and, where it is not the same, `output`."""
    rows: dict[str, torch.Tensor] = {}
    for side, module in (("input", model.get_input_embeddings()), ("output", model.get_output_embeddings())):
        layer = getattr(module, "token_adapter", None)
        if layer is not None and layer.tied_adapter is None:
            rows[side] = whole(layer.trainable_tokens_delta[ADAPTER].detach()).float().cpu().clone()
    return rows


def rows_in_use(model: Any, ids: Sequence[int]) -> dict[str, torch.Tensor]:
    """Return copies of the rows the model computes with, (tokens, width), whether adapted, merged or plain."""
    index = torch.tensor(list(ids), dtype=torch.long)
    sides = {"input": model.get_input_embeddings(), "output": model.get_output_embeddings()}
    with opened(model):
        return {
            side: module.weight.detach()[index.to(module.weight.device)].float().cpu().clone()
            for side, module in sides.items()
        }


def save(model: Any, folder: Path, group: Group = ALONE) -> None:
    """Write the adapter: safetensors and its settings. All processes of a group call this; the first one writes."""
    tensors = group.collect(trainable(model)) if group.sharded else None
    if not group.first:
        return
    with warnings.catch_warnings(), write.filling(folder) as beside:
        warnings.simplefilter("ignore")
        model.save_pretrained(str(beside), save_embedding_layers=False, state_dict=tensors)


def _name(model: Any, module: Any) -> str:
    """Return the full name of a module, as model families spell them differently."""
    found: str | None = next((name for name, item in model.named_modules() if item is module), None)
    if module is None or found is None:
        raise TrainingError(
            "expected a causal language model with input and output embeddings, got one without; choose another model"
        )
    return found
