"""Rows for a model that never sees what it took back: each token is predicted from the survivors of its time.

The trace of a row is a tree of stack heights. Each node is a survivor with exactly the survivors below it as its
context, and carries what was said next there: the token written on top of it, or the undo that took it back. So the
first token after a run of undos is a label of the last survivor, and an undo is nobody's context.

There are two ways to train on that tree, which give the same loss:

    pack    one row with every node, each at the position its height gives it and seeing only the path down to it
    split   one row per path; every label of a node goes to one of the paths through it, so each counts once

    A B U C   gives   prompt A B -> U   and   prompt A -> (B), C

A packed row computes prompt and survivors once, but needs a model that takes such a mask and such positions. `packs`
tries that on a row: models with attention windows shorter than a row, with recurrent layers, with positions of their
own making or with a kernel that only knows causal masks get split rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from unsay.errors import TrainingError
from unsay.records import Row
from unsay.train.collate import Batch, Supervised, collate
from unsay.undo import Mask, UndoStack, UndoTable, loss_weights

Label = tuple[int, float]


@dataclass
class _Node:
    """One survivor. `labels` are what was said next with it on top of the stack."""

    path: tuple[int, ...]
    """The nodes from the one above the prompt up to and including this one."""
    id: int
    labels: list[Label] = field(default_factory=list)


def split(row: Row, table: UndoTable, mask: Mask) -> list[Supervised]:
    """Return the rows that teach this row's trace with the survivors as context."""
    nodes = _tree(row, table, mask)
    rows: list[Supervised] = []
    while True:
        wanting = [node for node in nodes if node.labels]
        if not wanting:
            return rows
        # The deepest first: its path serves its ancestors too, so a plain answer stays one row.
        deepest = max(wanting, key=lambda node: len(node.path))
        rows.append(_path(row, nodes, deepest, len(rows)))


def pack(row: Row, table: UndoTable, mask: Mask) -> Supervised:
    """Return the one row that teaches this row's trace with the survivors as context."""
    tree = _tree(row, table, mask)
    wanted = {0}.union(*((index, *node.path) for index, node in enumerate(tree) if node.labels))
    nodes = [node for index, node in enumerate(tree) if index in wanted]
    prompt = len(row.prompt_ids)
    place = {index: prompt - 1 + number for number, index in enumerate(sorted(wanted))}
    targets = [0] * (prompt + len(nodes) - 1)
    weights = [0.0] * len(targets)
    more: list[tuple[int, int, float]] = []
    for index, node in enumerate(nodes):
        at = prompt - 1 + index
        if node.labels:
            (targets[at], weights[at]), *others = node.labels
            more += [(at, id, weight) for id, weight in others]
    ids = row.prompt_ids + tuple(node.id for node in nodes[1:])
    heights = [*range(prompt), *(prompt - 1 + len(node.path) for node in nodes[1:])]
    below = [*range(-1, prompt - 1), *(place[(0, *node.path)[-2]] for node in nodes[1:])]
    if heights == list(range(len(ids))):  # nothing was taken back
        return Supervised(row.id, ids, tuple(targets), tuple(weights), more=tuple(more))
    return Supervised(row.id, ids, tuple(targets), tuple(weights), tuple(heights), tuple(below), tuple(more))


def packs(model: Any, rows: Sequence[Row], table: UndoTable, tolerance: float) -> bool:
    """Say whether the model gives packed rows the logits it gives split ones; tried on the shortest that differs."""
    packed = [pack(row, table, "none") for row in rows]
    longest = max((len(example.ids) for example in packed), default=0)
    config = model.config.get_text_config()
    windows = [getattr(config, name, None) or longest for name in ("sliding_window", "attention_chunk_size")]
    if min(windows) < longest or getattr(config, "_attn_implementation", None) not in ("eager", "sdpa"):
        return False
    branching = [index for index, example in enumerate(packed) if example.below is not None]
    if not branching:
        return True
    index = min(branching, key=lambda index: len(packed[index].ids))
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            one = _label_logits(model, [packed[index]])
            several = _label_logits(model, split(rows[index], table, "none"))
    except (TypeError, ValueError, RuntimeError):  # it does not take a mask of its own for every token
        return False
    finally:
        model.train(training)
    gap = (one - several).abs().max() / several.abs().max().clamp_min(1e-12)
    return bool(gap <= tolerance)


def inputs(model: Any, batch: Batch) -> dict[str, Any]:
    """Return what the model's forward is called with."""
    given: dict[str, Any] = {"input_ids": batch.input_ids, "use_cache": False}
    if batch.sees is not None:
        sees = batch.sees
        if getattr(model.config.get_text_config(), "_attn_implementation", None) == "eager":  # it adds its mask
            dtype = model.dtype  # not the embeddings': those may be in parts, and put together for the question
            sees = torch.zeros_like(sees, dtype=dtype).masked_fill(~sees, torch.finfo(dtype).min)
        given |= {"attention_mask": sees, "position_ids": batch.positions}
    return given


def _label_logits(model: Any, examples: Sequence[Supervised]) -> torch.Tensor:
    """Return the logits at every label, sorted by the survivors the label is for: the order of no row matters."""
    batch = collate(examples).to(model.get_input_embeddings().weight.device)
    logits: torch.Tensor = batch.at_labels(model(**inputs(model, batch)).logits[batch.chosen])
    contexts: list[tuple[tuple[int, ...], int]] = []
    for example in examples:
        contexts += [(context(example, at), id) for at, id, _ in example.labels()]
    order = sorted(range(len(contexts)), key=contexts.__getitem__)
    return logits[torch.tensor(order, device=logits.device)].float()  # (labels, vocabulary)


def context(example: Supervised, at: int) -> tuple[int, ...]:
    """Return the ids a token sees, itself included, lowest first."""
    if example.below is None:
        return example.ids[: at + 1]
    seen = []
    while at >= 0:
        seen.append(example.ids[at])
        at = example.below[at]
    return tuple(reversed(seen))


def _tree(row: Row, table: UndoTable, mask: Mask) -> list[_Node]:
    root = _Node((), row.prompt_ids[-1] if row.prompt_ids else -1)
    nodes = [root]
    stack = UndoStack(table)
    alive = [root]
    for id, weight in zip(row.ids, loss_weights(row.provenance, mask), strict=True):
        if weight:
            alive[-1].labels.append((id, weight))
        popped = stack.push(id)
        if popped:
            del alive[-popped:]
        if not table.is_control(id):
            nodes.append(_Node((*alive[-1].path, len(nodes)), id))
            alive.append(nodes[-1])
    if root.labels and not row.prompt_ids:
        raise TrainingError(f"row {row.id}: expected a prompt before the answer, got none; build the data again")
    return nodes


def _path(row: Row, nodes: list[_Node], end: _Node, number: int) -> Supervised:
    """Take one label from each node on the way to `end`."""
    prompt = len(row.prompt_ids)
    on_path = [nodes[0], *(nodes[index] for index in end.path)]
    targets = [0] * (prompt + len(end.path))
    weights = [0.0] * len(targets)
    for height, node in enumerate(on_path):
        if node.labels:
            targets[prompt - 1 + height], weights[prompt - 1 + height] = node.labels.pop(0)
    ids = row.prompt_ids + tuple(node.id for node in on_path[1:])
    return Supervised(f"{row.id}#{number}" if number else row.id, ids, tuple(targets), tuple(weights))
