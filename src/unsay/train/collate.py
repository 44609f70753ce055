"""Training rows as ids with one target and one loss weight per position, grouped by length and padded.

What a weight is comes from `unsay.undo.loss_weights`; nothing here looks for undo tokens. Knows no model.

    examples = [supervise(row, "errors") for row in rows]
    for indices in order([len(e.ids) for e in examples], size=32, seed=0, epoch=0): ...
    batch = collate([examples[i] for i in indices])
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from unsay.records import Row
from unsay.undo import Mask, loss_weights

# How many effective batches are sorted by length together: enough to save the padding, few enough to stay random.
POOL = 16


@dataclass(frozen=True)
class Supervised:
    """What the model sees, and at each position what it should say next and how much that counts."""

    id: str
    ids: tuple[int, ...]
    targets: tuple[int, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True)
class Batch:
    """Padded ids and, for the supervised positions only, their targets and weights in row-major order."""

    input_ids: torch.Tensor  # (batch, time)
    attention_mask: torch.Tensor  # (batch, time)
    chosen: torch.Tensor  # (batch, time), true where a loss is taken
    targets: torch.Tensor  # (chosen,)
    weights: torch.Tensor  # (chosen,)

    def to(self, device: str) -> Batch:
        return Batch(
            self.input_ids.to(device),
            self.attention_mask.to(device),
            self.chosen.to(device),
            self.targets.to(device),
            self.weights.to(device),
        )


def supervise(row: Row, mask: Mask) -> Supervised:
    """Return a row whose retracted tokens stay in the context: no loss on the prompt, the rest by provenance."""
    ids = row.prompt_ids + row.ids
    weights = [0.0] * len(row.prompt_ids) + loss_weights(row.provenance, mask)
    return Supervised(row.id, ids[:-1], ids[1:], tuple(weights[1:]))


def order(lengths: Sequence[int], *, size: int, seed: int, epoch: int) -> list[list[int]]:
    """Return the effective batches of one epoch as indices: shuffled, rows of similar length together.

    Depends on nothing but the arguments. Inside a batch the longest row comes first, so that too little memory shows
    early and slices of a batch are of similar length.
    """
    rng = random.Random(f"{seed}/{epoch}")
    shuffled = list(range(len(lengths)))
    rng.shuffle(shuffled)
    batches: list[list[int]] = []
    for start in range(0, len(shuffled), size * POOL):
        pool = sorted(shuffled[start : start + size * POOL], key=lambda index: -lengths[index])
        batches += [pool[first : first + size] for first in range(0, len(pool), size)]
    rng.shuffle(batches)
    return batches


def collate(examples: Sequence[Supervised]) -> Batch:
    """Pad on the right. A padded position is never attended to and never supervised, so its id does not matter."""
    longest = max(len(example.ids) for example in examples)
    ids = torch.zeros(len(examples), longest, dtype=torch.long)
    mask = torch.zeros(len(examples), longest, dtype=torch.long)
    targets = torch.zeros(len(examples), longest, dtype=torch.long)
    weights = torch.zeros(len(examples), longest, dtype=torch.float32)
    for index, example in enumerate(examples):
        length = len(example.ids)
        ids[index, :length] = torch.tensor(example.ids)
        mask[index, :length] = 1
        targets[index, :length] = torch.tensor(example.targets)
        weights[index, :length] = torch.tensor(example.weights)
    chosen = weights != 0
    return Batch(ids, mask, chosen, targets[chosen], weights[chosen])
