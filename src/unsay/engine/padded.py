"""Generate for models whose keys and values cannot be kept in slots: left-padded batches through the model's own cache.

A batch is decoded until its last row leaves. A row leaves when its answer ends, and in `rewind` mode also when a run
of undos ends: it then waits for the next batch, where the prompt and the survivors are encoded afresh. That is slower
than cutting the cache and needs nothing from it. A model that counts padding as text gets one sequence at a time, and
one whose cache does not work like this reads the whole context for every token.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal

import torch
from transformers import DynamicCache

from unsay.engine.memory import out_of_memory, release, too_little_memory
from unsay.engine.options import Options
from unsay.engine.sampling import Sampler
from unsay.engine.sequence import Finished, WritingSequence
from unsay.engine.slots import steady_positions

Way = Literal["padded", "single", "uncached"]


def generate(
    model: Any, sequences: Iterable[WritingSequence], options: Options, way: Way, facts: dict[str, Any]
) -> Iterator[Finished]:
    """Yield the answers in the order they end, `facts["slots"]` at a time, fewer where the memory is too small.

    Raises EvaluationError when one answer alone is too much for the memory.
    """
    waiting = list(sequences)
    while waiting:
        # Similar lengths share a batch; the longest first, so that running out of memory shows at once.
        waiting.sort(key=lambda sequence: -len(sequence.context))
        batch, waiting = waiting[: facts["slots"]], waiting[facts["slots"] :]
        failure = None
        try:
            yield from _Batch(model, options, way != "uncached").run(batch)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            failure = str(error)
        # Outside the handler, so that the failed step's tensors are gone.
        waiting.extend(sequence for sequence in batch if sequence.finish_reason is None)
        if failure is not None:
            if facts["slots"] == 1:
                raise too_little_memory(model, len(batch[0].context), failure)
            facts["slots"] //= 2
            facts["out_of_memory"] = facts.get("out_of_memory", 0) + 1
            release(model.device)


@torch.inference_mode()
def way_of(model: Any, longest: int) -> Way:
    """Find out how a model gives, token by token, the logits that it gives for the whole text of `longest` tokens."""
    if longest > steady_positions(model.config.get_text_config()):
        return "uncached"
    ids = torch.arange(9, device=model.device) * 7919 % model.get_input_embeddings().weight.shape[0]
    texts = [ids.tolist(), ids.tolist()[4:]]
    expected = [model(input_ids=torch.tensor([text], device=model.device)).logits[0, -1].float() for text in texts]
    for way, together in (("padded", texts), ("single", texts[1:])):
        try:
            cached = _Cached(model, 0)
            cached.read([text[:-1] for text in together])
            got = cached.write([text[-1] for text in together])
        except (TypeError, ValueError, RuntimeError, AttributeError, IndexError):
            continue
        wanted = torch.stack(expected[-len(together) :])
        difference = float((got.float() - wanted).abs().max() / wanted.abs().max().clamp(min=1e-6))
        if difference < (1e-3 if model.dtype == torch.float32 else 6e-2):
            return way  # type: ignore[return-value]
    return "uncached"


class _Cached:
    """A left-padded batch in the model's own cache."""

    def __init__(self, model: Any, pad_id: int) -> None:
        self.model = model
        self.pad_id = pad_id

    def read(self, contexts: list[list[int]]) -> torch.Tensor:
        """Read the contexts; return the logits after each, (rows, vocabulary)."""
        width = max(map(len, contexts))
        ids = torch.full((len(contexts), width), self.pad_id)
        mask = torch.zeros((len(contexts), width), dtype=torch.long)
        for row, context in enumerate(contexts):
            ids[row, width - len(context) :] = torch.tensor(context)
            mask[row, width - len(context) :] = 1
        self.mask = mask.to(self.model.device)  # (rows, width)
        self.cache = DynamicCache(config=self.model.config)
        return self._forward(ids.to(self.model.device), (self.mask.cumsum(-1) - 1).clamp(min=0))

    def write(self, tokens: list[int]) -> torch.Tensor:
        """Add one token to each row; return the logits after it."""
        positions = self.mask.sum(-1, keepdim=True)  # (rows, 1)
        self.mask = torch.cat([self.mask, torch.ones_like(positions)], dim=-1)
        return self._forward(torch.tensor(tokens, device=self.mask.device)[:, None], positions)

    def keep(self, rows: list[int]) -> None:
        """Let go of all other rows."""
        index = torch.tensor(rows, device=self.mask.device)
        self.cache.batch_select_indices(index)
        self.mask = self.mask[index]

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        output = self.model(
            input_ids=ids,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1]  # type: ignore[no-any-return]


class _Uncached:
    """The same for a single text, read from its beginning every time."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def read(self, contexts: list[list[int]]) -> torch.Tensor:
        self.text = list(contexts[0])
        return self.write([])

    def write(self, tokens: list[int]) -> torch.Tensor:
        self.text += tokens
        ids = torch.tensor([self.text], device=self.model.device)
        return self.model(input_ids=ids, use_cache=False).logits[:, -1]  # type: ignore[no-any-return]

    def keep(self, rows: list[int]) -> None:
        """There is one row."""


class _Batch:
    """One batch from reading its contexts until its last row has left."""

    def __init__(self, model: Any, options: Options, cached: bool) -> None:
        self.pad_id = options.pad_id
        self.memory = _Cached(model, options.pad_id) if cached else _Uncached(model)
        self.sampler = Sampler(options)

    @torch.inference_mode()
    def run(self, sequences: list[WritingSequence]) -> Iterator[Finished]:
        # rows[i] is None once the sequence in row i has left; its row is fed padding until the batch is compacted.
        rows: list[WritingSequence | None] = list(sequences)
        for each in sequences:
            each.needs_prefill = False
        logits = self.memory.read([each.context for each in sequences])
        while True:
            for row, (sequence, choice) in enumerate(zip(rows, self.sampler.choose(logits, rows), strict=True)):
                if sequence is None:
                    continue
                sequence.take(choice)
                if sequence.finish_reason is not None:
                    yield sequence.finished()
                if sequence.finish_reason is not None or sequence.needs_prefill:
                    rows[row] = None
            living = [row for row, sequence in enumerate(rows) if sequence is not None]
            if not living:
                return
            if len(living) <= len(rows) // 2:
                rows = [rows[row] for row in living]
                self.memory.keep(living)
            logits = self.memory.write([sequence.context[-1] if sequence else self.pad_id for sequence in rows])
