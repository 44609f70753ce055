"""What one training counts: answers, each of one row or of several, and which of them are held out."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from unsay.errors import TrainingError
from unsay.train.collate import Supervised


@dataclass(frozen=True)
class Trace:
    """One training answer: one row, or several where the context is rewound and rows are split.

    The steps count traces: whether rows are packed or split, the same traces share an effective batch.
    """

    examples: tuple[Supervised, ...]
    prompt: tuple[int, ...]
    """What several traces of one question have in common."""
    length: int
    """Tokens of prompt and answer."""
    answer: int
    """Tokens of the answer, whether they have a loss or not."""
    depth: int = 0
    """The most undos in a row."""

    @property
    def weight(self) -> float:
        return sum(example.weight for example in self.examples)

    @property
    def labels(self) -> int:
        """Tokens with a loss."""
        return sum(len(example.labels()) for example in self.examples)

    @property
    def tokens(self) -> int:
        """Tokens the model computes."""
        return sum(len(example.ids) for example in self.examples)

    def asks_for(self, id: int) -> bool:
        return any(id == label for example in self.examples for _, label, _ in example.labels())


def hold_out(traces: Sequence[Trace], share: float, seed: int) -> tuple[list[Trace], list[Trace]]:
    """Return what is trained on and what the loss is measured on; depends on nothing but the arguments.

    Traces of one prompt stay together: a loss on questions that were trained on would fall whatever was learnt.
    """
    if not share:
        return list(traces), []
    count = max(1, round(share * len(traces)))
    prompts: dict[tuple[int, ...], list[int]] = {}
    for place, trace in enumerate(traces):
        prompts.setdefault(trace.prompt, []).append(place)
    together = list(prompts.values())
    random.Random(f"{seed}/val_size").shuffle(together)
    held: set[int] = set()
    for places in together:
        if len(held) < count:
            held.update(places)
    if len(held) >= len(traces):
        raise TrainingError(
            f"val_size: expected to leave rows to train on, got {share:g} of {len(traces)} rows of "
            f"{len(together)} questions; lower it"
        )
    kept = [trace for place, trace in enumerate(traces) if place not in held]
    return kept, [traces[place] for place in sorted(held)]
