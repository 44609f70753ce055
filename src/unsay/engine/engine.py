"""Generate answers in batches, undo included: prompt ids in, finished sequences out, each as soon as it ends.

A batch is prefilled with left padding and decoded until its last row leaves. A row leaves when its answer ends, and in
`rewind` mode also when a run of undos ends: it then waits for the next batch, where the prompt and the survivors are
encoded afresh. That is slower than cutting the cache and needs nothing from it, so it holds for every architecture.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

from unsay.engine.sampling import Choice, choose, filters
from unsay.engine.sequence import Finished, Request, Rules, WritingSequence
from unsay.errors import EvaluationError
from unsay.settings import Decode
from unsay.undo import UndoTable


@dataclass(frozen=True)
class Options:
    """How to generate. `text_of` decodes survivors; `batch_size` changes speed and memory, not the meaning."""

    decode: Decode
    table: UndoTable
    end_ids: frozenset[int]
    text_of: Callable[[Sequence[int]], str]
    pad_id: int = 0
    batch_size: int = 32


def generate(model: Any, requests: Iterable[Request], options: Options) -> Iterator[Finished]:
    """Yield every request's answer in the order the answers end.

    `model` is a transformers causal LM in eval mode. Raises EvaluationError when the model's logits are not numbers.
    """
    rules = Rules(options.decode, options.table, options.end_ids, options.text_of, _max_context(model))
    waiting = [WritingSequence(request, rules) for request in requests]
    for sequence in waiting:
        if sequence.finish_reason is not None:
            yield sequence.finished()
    waiting = [sequence for sequence in waiting if sequence.finish_reason is None]
    while waiting:
        # Similar lengths share a batch; the longest first, so that running out of memory shows at once.
        waiting.sort(key=lambda sequence: -len(sequence.context))
        batch, waiting = waiting[: options.batch_size], waiting[options.batch_size :]
        yield from _Batch(model, options).run(batch)
        waiting.extend(sequence for sequence in batch if sequence.finish_reason is None)


class _Batch:
    """One left-padded batch from its prefill until its last row has left."""

    def __init__(self, model: Any, options: Options) -> None:
        self.model = model
        self.options = options
        self.chain = filters(options.decode)

    @torch.inference_mode()
    def run(self, sequences: list[WritingSequence]) -> Iterator[Finished]:
        # rows[i] is None once the sequence in row i has left; its row is fed padding until the batch is compacted.
        rows: list[WritingSequence | None] = list(sequences)
        logits = self._prefill(sequences)
        while True:
            for row, choice in enumerate(self._choose(rows, logits)):
                sequence = rows[row]
                if sequence is None:
                    continue
                self._advance(sequence, choice)
                if sequence.finish_reason is not None:
                    yield sequence.finished()
                if sequence.finish_reason is not None or sequence.needs_prefill:
                    rows[row] = None
            living = [row for row, sequence in enumerate(rows) if sequence is not None]
            if not living:
                return
            if len(living) <= len(rows) // 2:
                rows = [rows[row] for row in living]
                self._keep(living)
            logits = self._step([sequence.context[-1] if sequence else self.options.pad_id for sequence in rows])

    def _advance(self, sequence: WritingSequence, choice: Choice | None) -> None:
        if choice is None:
            sequence.finish_reason = "banned"
        elif sequence.wants_rewind(choice.token):
            sequence.rewind()
        else:
            sequence.append(choice.token, choice.logprob)

    def _choose(self, rows: list[WritingSequence | None], logits: torch.Tensor) -> list[Choice | None]:
        if not torch.isfinite(logits).any(dim=-1).all():
            raise EvaluationError(
                "the model's logits are not numbers (NaN or infinite). Expected finite logits; check the weights, or "
                "run with --dtype float32."
            )
        banned = [sequence.banned() if sequence else set() for sequence in rows]
        generators = [_generator(sequence) for sequence in rows] if self.options.decode.do_sample else None
        return choose(logits, banned, self.options.table.actions.keys(), self.chain, generators)

    def _prefill(self, sequences: list[WritingSequence]) -> torch.Tensor:
        width = max(len(sequence.context) for sequence in sequences)
        ids = torch.full((len(sequences), width), self.options.pad_id)
        mask = torch.zeros((len(sequences), width), dtype=torch.long)
        for row, sequence in enumerate(sequences):
            ids[row, width - len(sequence.context) :] = torch.tensor(sequence.context)
            mask[row, width - len(sequence.context) :] = 1
            sequence.needs_prefill = False
        device = self.model.device
        self.mask = mask.to(device)  # (rows, width)
        self.cache = DynamicCache(config=self.model.config)
        return self._forward(ids.to(device), (self.mask.cumsum(-1) - 1).clamp(min=0))

    def _step(self, tokens: list[int]) -> torch.Tensor:
        positions = self.mask.sum(-1, keepdim=True)  # (rows, 1)
        self.mask = torch.cat([self.mask, torch.ones_like(positions)], dim=-1)
        return self._forward(torch.tensor(tokens, device=self.mask.device)[:, None], positions)

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        output = self.model(
            input_ids=ids,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1]  # type: ignore[no-any-return]  # (rows, vocabulary)

    def _keep(self, rows: list[int]) -> None:
        index = torch.tensor(rows, device=self.mask.device)
        self.cache.batch_select_indices(index)
        self.mask = self.mask[index]


def _generator(sequence: WritingSequence | None) -> torch.Generator:
    """Return the generator of one answer's next token: a function of its seed and its length alone."""
    generator = torch.Generator()
    if sequence is not None:
        digest = hashlib.sha256(f"{sequence.request.seed},{len(sequence.ids)}".encode()).digest()
        generator.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return generator


def _max_context(model: Any) -> int:
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(limit) if limit else 2**31
