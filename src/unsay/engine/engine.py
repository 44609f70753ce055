"""Generate answers, undo included: prompt ids in, finished sequences out, each as soon as it ends.

Every sequence being written has a slot; a slot whose answer has ended takes the next prompt at once. One step reads a
piece of the new prompts and writes one token of every other sequence. What all prompts begin with is read once; a
prompt that begins like another one in the slots takes over what that one has computed. A rewind goes back in its slot
and feeds the last survivor again. A model that cannot work so is run in padded batches instead, and `facts` says why.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from unsay.engine import kernel, padded
from unsay.engine.memory import free_memory, out_of_memory, release, too_little_memory
from unsay.engine.options import Options
from unsay.engine.sampling import Sampler
from unsay.engine.sequence import Choice, Finished, Request, Rules, WritingSequence
from unsay.engine.slots import CannotTakeOverError, Chunk, Slots, Step, taken_over
from unsay.errors import EvaluationError

SLOTS = {"cpu": 64, "cuda": 256}
"""Answers at a time where nothing else is asked for."""
PADDED = 32
"""The same in padded batches, whose rows wait for each other."""
TRUNK = 64
"""A beginning of at least so many tokens is kept once for all prompts."""
SHARED = 16
"""A prompt takes over at least so many tokens from another slot."""
ROOM = 256
"""Answer tokens a slot has room for at first; slots grow when a longer answer comes."""
MEMORY = 0.6
"""Share of the free memory that slots may take."""


class Engine:
    """A model and how it generates. `facts` says, once generation has begun, what it runs with."""

    def __init__(self, model: Any, options: Options) -> None:
        self.model = model
        self.options = options
        self.rules = Rules(
            options.decode, options.table, options.end_ids, options.text_of, _max_context(model), options.observe
        )
        self.facts: dict[str, Any] = {
            "device": str(model.device),
            "dtype": str(model.dtype).removeprefix("torch."),
            "threads": torch.get_num_threads(),
        }

    def generate(self, requests: Iterable[Request]) -> Iterator[Finished]:
        """Yield every request's answer in the order the answers end.

        Raises EvaluationError when the model's logits are not numbers, or when one answer alone is too much for the
        memory.
        """
        asked = list(requests)
        for request in asked:
            if not request.prompt_ids:
                raise EvaluationError(
                    f"expected prompts of at least one token, got an empty one ({request.key}); begin it with the "
                    "tokenizer's beginning or end token"
                )
        possible = [request for request in asked if len(request.prompt_ids) < self.rules.max_context]
        for request in asked:
            if len(request.prompt_ids) >= self.rules.max_context:
                yield WritingSequence(request, self.rules).finished()
        if not possible:
            return
        # Similar lengths beside each other, the longest first, so that running out of memory shows at once; and prompts
        # that begin alike.
        possible.sort(key=lambda request: (-len(request.prompt_ids), request.prompt_ids))
        budget = self.options.decode.max_new_tokens
        longest = min(len(possible[0].prompt_ids) + budget, self.rules.max_context)
        try:
            with taken_over(self.model, longest) as model:
                yield from _Schedule(model, possible, self).run()
            return
        except CannotTakeOverError as error:
            way = padded.way_of(self.model, longest)
            slots = min(len(possible), self.options.slots or PADDED) if way == "padded" else 1
            self.facts |= {"engine": way, "why": str(error), "slots": slots}
        sequences = [WritingSequence(request, self.rules) for request in possible]
        yield from padded.generate(self.model, sequences, self.options, way, self.facts)


class _Schedule:
    """Who is in which slot, and what the next step computes."""

    def __init__(self, model: Any, requests: Sequence[Request], engine: Engine) -> None:
        self.model = model
        self.engine = engine
        self.waiting: deque[Request | WritingSequence] = deque(requests)
        self.sampler = Sampler(engine.options)
        self.chunk = engine.options.chunk
        self.longest = min(len(requests[0].prompt_ids) + engine.options.decode.max_new_tokens, engine.rules.max_context)
        self.trunk = self._common(requests)
        self.memory = self._slots(self._count(len(requests)))
        self.sequences: list[WritingSequence | None] = [None] * self.memory.count
        self.held: list[list[int]] = [[] for _ in self.sequences]
        """What each slot's memory holds behind the trunk, valid after its sequence has left, too."""
        self.facts = engine.facts
        self.facts |= {
            "engine": "slots",
            "slots": self.memory.count,
            "chunk": self.chunk,
            "shared_prefix": len(self.trunk),
            "attention": kernel.name(model),
            "steps": 0,
            "read": len(self.trunk),
            "taken_over": 0,
        }

    def run(self) -> Iterator[Finished]:
        while True:
            try:
                self._admit()
                step, ready = self._plan()
                if not step.decoding and not step.chunks:
                    return
                logits = self.memory.forward(step)
                choices = self._choose(ready, logits)
            except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                failure = str(error)
            else:
                self.facts["steps"] += 1
                self.facts["read"] += sum(len(chunk.ids) for chunk in step.chunks)
                for slot, start, token in step.decoding:
                    self.held[slot][start:] = [token]
                for chunk in step.chunks:
                    self.held[chunk.slot][chunk.start :] = chunk.ids
                yield from self._write(ready, choices)
                continue
            self._take_less(failure)

    # 1. -- what a step computes -----------------------------------------------------------------------------------

    def _plan(self) -> tuple[Step, list[tuple[int, int]]]:
        """Return the next step and, of the sequences that then write a token, (row of the logits, slot)."""
        decoding: list[tuple[int, int, int]] = []
        reading: list[Chunk] = []
        whole: list[bool] = []
        budget = self.chunk
        for slot, sequence in enumerate(self.sequences):
            if sequence is None:
                continue
            start = len(self.held[slot])
            rest = sequence.context[len(self.trunk) + start :]
            if len(rest) == 1:
                decoding.append((slot, start, rest[0]))
            elif budget:
                reading.append(Chunk(slot, start, rest[:budget]))
                whole.append(len(rest) <= budget)
                budget -= min(len(rest), budget)
        ready = [(row, slot) for row, (slot, _, _) in enumerate(decoding)]
        ready += [
            (len(decoding) + at, chunk.slot)
            for at, (chunk, done) in enumerate(zip(reading, whole, strict=True))
            if done
        ]
        self._make_room(decoding, reading)
        return Step(decoding, reading), ready

    def _choose(self, ready: Sequence[tuple[int, int]], logits: torch.Tensor) -> list[Choice | None]:
        """Choose the next token of every sequence that is ready."""
        if not ready:
            return []
        if len(ready) < len(logits):
            logits = logits[[row for row, _ in ready]]
        return self.sampler.choose(logits, [self.sequences[slot] for _, slot in ready])

    def _write(self, ready: Sequence[tuple[int, int]], choices: Sequence[Choice | None]) -> Iterator[Finished]:
        """Let the sequences that are ready go on; yield the answers that end with it."""
        for (_, slot), choice in zip(ready, choices, strict=True):
            sequence = self.sequences[slot]
            assert sequence is not None
            sequence.take(choice)
            if sequence.needs_prefill:  # a rewind: the last survivor is fed again
                sequence.needs_prefill = False
                del self.held[slot][len(sequence.context) - 1 - len(self.trunk) :]
            if sequence.finish_reason is not None:
                self.sequences[slot] = None
                yield sequence.finished()
        if not self.waiting:
            self._close_ranks()

    def _close_ranks(self) -> None:
        """Move sequences from the last slots into free ones, so that attention is over the first slots only."""
        free = deque(slot for slot, sequence in enumerate(self.sequences) if sequence is None)
        for slot in range(len(self.sequences) - 1, -1, -1):
            if not free or free[0] >= slot:
                return
            if self.sequences[slot] is not None:
                target = free.popleft()
                self.memory.copy(slot, target, len(self.held[slot]))
                self.held[target] = list(self.held[slot])
                self.sequences[target], self.sequences[slot] = self.sequences[slot], None

    # 2. -- who gets a slot ----------------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Give free slots to waiting sequences, as far as the step's reading goes."""
        reading = sum(
            len(sequence.context) - len(self.trunk) - len(self.held[slot]) - 1
            for slot, sequence in enumerate(self.sequences)
            if sequence is not None
        )
        admitted: list[list[int]] = []
        for slot, sequence in enumerate(self.sequences):
            if sequence is not None:
                continue
            if not self.waiting or reading >= self.chunk:
                return
            following = self._next()
            context = following.context[len(self.trunk) :]
            source, shared = self._most_shared(context)
            if any(_common_length(context, other) >= shared + SHARED for other in admitted):
                self.waiting.appendleft(following)  # what it begins with is about to be read
                return
            following.needs_prefill = False
            self.sequences[slot] = following
            prefix, self.held[slot] = self.held[source][:shared], []
            if source != slot and shared:
                self.memory.copy(source, slot, shared)
            self.held[slot] = prefix
            self.facts["taken_over"] += shared
            reading += len(context) - shared
            admitted.append(context)

    def _next(self) -> WritingSequence:
        following = self.waiting.popleft()
        return following if isinstance(following, WritingSequence) else WritingSequence(following, self.engine.rules)

    def _most_shared(self, context: list[int]) -> tuple[int, int]:
        """Return the slot whose memory begins most like `context`, and how many tokens of it can be used."""
        best, most = 0, 0
        for slot, held in enumerate(self.held):
            if len(held) > most and held[: most + 1] == context[: most + 1]:
                best, most = slot, _common_length(held, context)
        most = min(most, len(context) - 1)  # the last token's logits are needed
        return (best, most) if most >= SHARED else (best, 0)

    # 3. -- memory -------------------------------------------------------------------------------------------------

    def _common(self, requests: Sequence[Request]) -> list[int]:
        """Return what all prompts begin with, if that is worth keeping once; each keeps a token of its own."""
        if len(requests) < 2:
            return []
        first, last = min(each.prompt_ids for each in requests), max(each.prompt_ids for each in requests)
        shared = min(_common_length(first, last), len(requests[-1].prompt_ids) - 1)
        return list(first[:shared]) if shared >= TRUNK else []

    def _count(self, most: int) -> int:
        options = self.engine.options
        if options.slots is not None:
            return min(options.slots, most)
        trial = Slots(self.model, 1, 1)
        trial.forward(Step(chunks=[Chunk(0, 0, [0])]))
        needed = trial.bytes_per_token * (self.longest - len(self.trunk))
        fitting = int(MEMORY * free_memory(self.model.device) // needed)
        return max(1, min(SLOTS["cuda" if self.model.device.type == "cuda" else "cpu"], most, fitting))

    def _slots(self, count: int) -> Slots:
        trunk = None
        while self.trunk and trunk is None:
            try:
                trunk = Slots.as_trunk(self.model, self.trunk, self.chunk)
            except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or self.chunk <= TRUNK:
                    raise
            if trunk is None:
                self.chunk //= 2
        room = min(self.engine.options.decode.max_new_tokens, ROOM)
        return Slots(self.model, count, min(self.longest, self.longest_context() + room) - len(self.trunk), trunk)

    def longest_context(self) -> int:
        return max(len(each.context if isinstance(each, WritingSequence) else each.prompt_ids) for each in self.waiting)

    def _make_room(self, decoding: Sequence[tuple[int, int, int]], reading: Sequence[Chunk]) -> None:
        ends = [start + 1 for _, start, _ in decoding] + [chunk.end for chunk in reading]
        self._reserve(max(ends, default=0))

    def _reserve(self, tokens: int) -> None:
        if tokens > self.memory.capacity:
            most = self.longest - len(self.trunk)
            self.memory.grow(max(tokens, min(most, self.memory.capacity + ROOM)))

    def _take_less(self, failure: str) -> None:
        """Go on with half the slots, or with shorter pieces of prompts; what was held is read again."""
        if self.memory.count == 1 and self.chunk <= TRUNK:
            raise too_little_memory(self.model, self.longest, failure)
        unfinished = [sequence for sequence in self.sequences if sequence is not None]
        self.waiting.extendleft(reversed(unfinished))
        count = max(1, self.memory.count // 2)
        if self.memory.count == 1:
            self.chunk //= 2
        del self.memory
        release(self.model.device)
        self.memory = self._slots(count)
        self.sequences = [None] * count
        self.held = [[] for _ in self.sequences]
        self.facts |= {"slots": count, "chunk": self.chunk}
        self.facts["out_of_memory"] = self.facts.get("out_of_memory", 0) + 1


def generate(model: Any, requests: Iterable[Request], options: Options) -> Iterator[Finished]:
    """Yield every request's answer in the order the answers end; see `Engine.generate`.

    `model` is a transformers causal LM in eval mode.
    """
    return Engine(model, options).generate(requests)


def _common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many tokens two sequences begin with in common."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _max_context(model: Any) -> int:
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(limit) if limit else 2**31
