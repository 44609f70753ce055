"""Training rows as ids with targets and loss weights, grouped by length and padded.

What a weight is comes from `unsay.undo.loss_weights`; nothing here looks for undo tokens. Knows no model.

    examples = [supervise(row, "errors") for row in rows]
    for indices in order([len(e.ids) for e in examples], size=32, seed=0, epoch=0): ...
    batch = collate([examples[i] for i in indices])
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from unsay.records import Row
from unsay.undo import Mask, loss_weights

# How many effective batches are sorted by length together: enough to save the padding, few enough to stay random.
POOL = 16


@dataclass(frozen=True)
class Supervised:
    """What the model sees, and at each position what it should say next and how much that counts.

    A row whose tokens do not all see each other (`unsay.train.rewind`) says more: the `positions` the model counts
    with, for each token the index of the one `below` it (it sees that one and whatever that one sees), and the labels a
    place has beyond its first one, as place, target and weight.
    """

    id: str
    ids: tuple[int, ...]
    targets: tuple[int, ...]
    weights: tuple[float, ...]
    positions: tuple[int, ...] | None = None
    below: tuple[int, ...] | None = None
    more: tuple[tuple[int, int, float], ...] = ()

    @property
    def weight(self) -> float:
        """The weight of all its labels."""
        return sum(self.weights) + sum(weight for _, _, weight in self.more)

    def labels(self) -> list[tuple[int, int, float]]:
        """Return every label that counts: its place, its target and its weight."""
        first = zip(range(len(self.ids)), self.targets, self.weights, strict=True)
        return [label for label in (*first, *self.more) if label[2]]


@dataclass(frozen=True)
class Batch:
    """Padded ids and, for the supervised positions only, their labels.

    Padding is on the right, where causal attention never looks: without `sees` the model needs no mask.
    """

    input_ids: torch.Tensor  # (batch, time)
    chosen: torch.Tensor  # (batch, time), true where a loss is taken
    targets: torch.Tensor  # (labels,)
    weights: torch.Tensor  # (labels,)
    places: torch.Tensor | None = None  # (labels,), which chosen position a label is for; None: one for each, in order
    positions: torch.Tensor | None = None  # (batch, time)
    sees: torch.Tensor | None = None  # (batch, 1, time, time), true where a query may look at a key

    def to(self, device: str) -> Batch:
        moved: dict[str, Any] = {
            name: value if value is None else value.to(device) for name, value in vars(self).items()
        }
        return Batch(**moved)

    def at_labels(self, chosen: torch.Tensor) -> torch.Tensor:
        """Return, for every label, the row of its position in `chosen` (chosen, …)."""
        return chosen if self.places is None else chosen[self.places]


def supervise(row: Row, mask: Mask) -> Supervised:
    """Return a row whose retracted tokens stay in the context: no loss on the prompt, the rest by provenance."""
    ids = row.prompt_ids + row.ids
    weights = [0.0] * len(row.prompt_ids) + loss_weights(row.provenance, mask)
    return Supervised(row.id, ids[:-1], ids[1:], tuple(weights[1:]))


def order(
    lengths: Sequence[int], *, size: int, seed: int, epoch: int, depths: Sequence[int] | None = None
) -> list[list[int]]:
    """Return the effective batches of one epoch as indices: shuffled, rows of similar length together.

    Depends on nothing but the arguments. Inside a batch the longest row comes first, so that too little memory shows
    early and slices of a batch are of similar length. With `depths` no batch has a row that is less deep than a row of
    an earlier batch, the pools that are sorted by length aside.
    """
    rng = random.Random(f"{seed}/{epoch}")
    shuffled = list(range(len(lengths)))
    rng.shuffle(shuffled)
    if depths is not None:
        shuffled.sort(key=lambda index: depths[index])
    batches: list[list[int]] = []
    for start in range(0, len(shuffled), size * POOL):
        pool = sorted(shuffled[start : start + size * POOL], key=lambda index: -lengths[index])
        slices = [pool[first : first + size] for first in range(0, len(pool), size)]
        if depths is not None:
            rng.shuffle(slices)
        batches += slices
    if depths is None:
        rng.shuffle(batches)
    return batches


def collate(examples: Sequence[Supervised]) -> Batch:
    """Pad on the right. A padded position is never looked at and never supervised, so its id does not matter."""
    longest = max(len(example.ids) for example in examples)
    ids = torch.zeros(len(examples), longest, dtype=torch.long)
    chosen = torch.zeros(len(examples), longest, dtype=torch.bool)
    labels: list[tuple[int, int, float]] = []  # index in the flattened batch, target, weight
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
        labels += [(row * longest + at, id, weight) for at, id, weight in example.labels()]
    flat = torch.tensor([at for at, _, _ in labels], dtype=torch.long)
    chosen.view(-1)[flat] = True
    batch = Batch(
        input_ids=ids,
        chosen=chosen,
        targets=torch.tensor([id for _, id, _ in labels], dtype=torch.long),
        weights=torch.tensor([weight for _, _, weight in labels], dtype=torch.float32),
    )
    if any(example.more for example in examples):
        batch = replace(batch, places=(chosen.view(-1).cumsum(0) - 1)[flat])
    if all(example.below is None for example in examples):
        return batch
    positions = torch.arange(longest).repeat(len(examples), 1)
    sees = torch.ones(longest, longest, dtype=torch.bool).tril().repeat(len(examples), 1, 1, 1)
    for row, example in enumerate(examples):
        if example.below is not None and example.positions is not None:
            positions[row, : len(example.ids)] = torch.tensor(example.positions)
            _restrict(sees[row, 0], example.below)
    return replace(batch, positions=positions, sees=sees)


def _restrict(sees: torch.Tensor, below: Sequence[int]) -> None:
    """Let each token see itself, the token below it and whatever that one sees."""
    for at, under in enumerate(below):
        if under != at - 1:
            sees[at] = sees[under]
            sees[at, at] = True
        elif at:
            # The row before may itself have lost sight of something.
            sees[at, :at] = sees[under, :at]
