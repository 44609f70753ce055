"""How likely given texts are: continuations scored behind their contexts, with the control tokens masked out.

A control token is no text: wherever it takes probability, that is spread over the other tokens, and said. Texts are
read through the same slots as answers are written in: without padding, a common context once.

    scores = likelihoods(model, [(context_ids, continuation_ids)], controls=table.actions)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from unsay.engine.memory import out_of_memory
from unsay.engine.slots import CannotTakeOverError, Chunk, Slots, Step, taken_over
from unsay.errors import EvaluationError

SLOTS = {"cpu": 8, "cuda": 64}
"""Texts read at a time where nothing else is asked for."""
HELD = {"cpu": 1 << 14, "cuda": 1 << 17}
"""Tokens that all slots together hold at most, unless a single text is longer."""
CHUNK = 1024
"""Tokens read in one step."""
ROWS = 256
"""Positions whose logits are worked on together in float32."""

Text = tuple[tuple[int, ...], tuple[int, ...]]
"""A context, at least one token, and its continuation, at least one token."""


@dataclass(frozen=True)
class Likelihood:
    """What a continuation is worth. `logprob` is the sum of the natural logarithms over its tokens."""

    logprob: float
    is_greedy: bool
    """Whether every token is the likeliest at its place, control tokens left out."""
    masses: tuple[float, ...]
    """Probability of all control tokens together at each place, before they were masked out."""


def likelihoods(
    model: Any, texts: Sequence[Text], *, controls: Collection[int] = (), slots: int | None = None
) -> Iterator[tuple[int, Likelihood]]:
    """Yield every text's place in `texts` and its likelihood, in the order they are finished.

    `model` is a transformers causal LM in eval mode that can see the longest text less its last token. Raises
    EvaluationError for logits that are no numbers, for an empty part, and when one text alone is too much for memory.
    """
    for context, continuation in texts:
        if not context or not continuation:
            raise EvaluationError(
                "expected a context and a continuation of at least one token each, got "
                f"{len(context)} and {len(continuation)}; look at the task's choices and its target_delimiter"
            )
    reading = _Reading(model, texts, sorted(controls), slots)
    try:
        with taken_over(model, max(map(len, reading.ids), default=1)) as plain:
            yield from reading.run(plain)
    except CannotTakeOverError:
        yield from reading.one_by_one()


@dataclass
class _Slot:
    """What a slot holds, whose texts it reads, and how far it is with the first of them."""

    held: list[int] = field(default_factory=list)
    texts: deque[int] = field(default_factory=deque)
    start: int | None = None
    found: list[tuple[float, bool, float]] = field(default_factory=list)


class _Reading:
    """All texts, by context, and what was found so far."""

    def __init__(self, model: Any, texts: Sequence[Text], controls: Sequence[int], slots: int | None) -> None:
        self.model = model
        self.texts = texts
        self.ids = [(*context, *continuation[:-1]) for context, continuation in texts]
        self.controls = torch.tensor(controls, dtype=torch.long, device=model.device)
        kind = "cuda" if model.device.type == "cuda" else "cpu"
        longest = max(map(len, self.ids), default=1)
        self.count = max(1, min(slots or SLOTS[kind], HELD[kind] // longest))
        self.chunk = CHUNK
        self.done: set[int] = set()

    def run(self, model: Any) -> Iterator[tuple[int, Likelihood]]:
        while len(self.done) < len(self.texts):
            try:
                for at, found in self._read(model):
                    self.done.add(at)
                    yield at, found
            except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                if self.count == 1 and self.chunk <= ROWS:
                    raise EvaluationError(
                        f"expected one text to fit into the memory of {self.model.device}, got: {error}; "
                        "take a smaller model, or shorter texts (max_length)"
                    ) from error
                self.chunk = self.chunk if self.count > 1 else self.chunk // 2
                self.count = max(1, self.count // 2)

    def one_by_one(self) -> Iterator[tuple[int, Likelihood]]:
        """Read each text by itself, for models whose attention cannot be taken over."""
        for at, ids in enumerate(self.ids):
            if at not in self.done:
                with torch.inference_mode():
                    output = self.model(input_ids=torch.tensor([ids], device=self.model.device), use_cache=False)
                    wanted = len(self.texts[at][1])
                    yield at, _together(self._scores(output.logits[0, -wanted:], self.texts[at][1]))

    def _groups(self) -> deque[deque[int]]:
        """Return the texts still to be read, those with one context together; the longest first."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for at, (context, _) in enumerate(self.texts):
            if at not in self.done:
                groups.setdefault(context, []).append(at)
        ordered = sorted(groups.values(), key=lambda group: -max(len(self.ids[at]) for at in group))
        return deque(deque(sorted(group, key=lambda at: self.ids[at])) for group in ordered)

    def _read(self, model: Any) -> Iterator[tuple[int, Likelihood]]:
        groups = self._groups()
        longest = max(len(self.ids[at]) for group in groups for at in group)
        slots = [_Slot() for _ in range(min(self.count, len(groups)))]
        memory = Slots(model, len(slots), longest)
        while True:
            chunks, budget = [], self.chunk
            for place, slot in enumerate(slots):
                if not slot.texts:
                    if not groups:
                        continue
                    slot.texts = groups.popleft()
                if not budget:
                    break
                ids, wanted = self.ids[slot.texts[0]], len(self.texts[slot.texts[0]][1])
                if slot.start is None:  # what the slot holds of it already, up to what has to be scored
                    slot.start = min(_common(slot.held, ids), len(ids) - wanted)
                piece = ids[slot.start : slot.start + budget]
                budget -= len(piece)
                scored = slot.start + len(piece) - (len(ids) - wanted)
                chunks.append(Chunk(place, slot.start, piece, max(1, min(scored, len(piece)))))
            if not chunks:
                return
            logits = memory.forward(Step(chunks=chunks))
            row = 0
            for chunk in chunks:
                yield from self._take(slots[chunk.slot], chunk, logits[row : row + chunk.wanted])
                row += chunk.wanted

    def _take(self, slot: _Slot, chunk: Chunk, logits: torch.Tensor) -> Iterator[tuple[int, Likelihood]]:
        """Score what a chunk gave, (positions, vocabulary), and go on with the slot's next text where it is whole."""
        at = slot.texts[0]
        ids, continuation = self.ids[at], self.texts[at][1]
        slot.held[chunk.start :] = chunk.ids
        slot.start = chunk.end
        if chunk.end > len(ids) - len(continuation):
            first = len(slot.found)
            slot.found += self._scores(logits, continuation[first : first + len(logits)])
        if chunk.end == len(ids):
            yield at, _together(slot.found)
            slot.texts.popleft()
            slot.start, slot.found = None, []

    @torch.inference_mode()
    def _scores(self, logits: torch.Tensor, tokens: Sequence[int]) -> list[tuple[float, bool, float]]:
        """Return log-probability, whether it is the likeliest, and the mass of the control tokens, of each token."""
        found: list[tuple[float, bool, float]] = []
        for start in range(0, len(tokens), ROWS):
            rows = logits[start : start + ROWS].float()  # (rows, vocabulary)
            target = torch.tensor(tokens[start : start + ROWS], device=rows.device)
            total = torch.logsumexp(rows, dim=-1)
            mass = torch.zeros_like(total)
            if len(self.controls):
                mass = (torch.logsumexp(rows[:, self.controls], dim=-1) - total).exp()
                rows = rows.index_fill(1, self.controls, float("-inf"))
                total = torch.logsumexp(rows, dim=-1)
            logprob = rows.gather(1, target[:, None])[:, 0] - total
            if not bool(torch.isfinite(total).all()):
                raise EvaluationError(
                    "the model's logits are not numbers (NaN or infinite). Expected finite logits; check the weights, "
                    "or run with dtype=float32."
                )
            greedy = rows.argmax(dim=-1) == target
            found += zip(logprob.tolist(), greedy.tolist(), mass.tolist(), strict=True)
        return found


def _together(found: Sequence[tuple[float, bool, float]]) -> Likelihood:
    return Likelihood(
        sum(logprob for logprob, _, _ in found),
        all(greedy for _, greedy, _ in found),
        tuple(mass for _, _, mass in found),
    )


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    return next(
        (at for at, (left, right) in enumerate(zip(one, other, strict=False)) if left != right),
        min(len(one), len(other)),
    )
