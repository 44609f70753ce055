"""Keys and values of many sequences, one slot each, and the attention that reads them.

All tokens of a step lie one behind the other in a single row, whichever sequences they belong to: matrix products see
no padding, and several prompts are read while others are written. Attention is taken over here, registered with
transformers under the name `unsay`: it stores the new keys and values in their slots and lets every token see its own
sequence. To take tokens back, a sequence writes on at an earlier place of its slot. What all sequences begin with is
stored once, as the trunk, and read once for all of them.

    memory = Slots(model, count=32, capacity=640)
    logits = memory.forward(Step(decoding=[(0, 17, token)], chunks=[Chunk(slot=1, start=0, ids=prompt)]))
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from unsay.engine import kernel
from unsay.errors import EvaluationError

NAME = "unsay"
WORTH = 200_000
"""Bytes that reading a slot to its own end must save, on a processor, to be worth a call for each slot."""
_CURRENT: ContextVar[_Forward] = ContextVar("unsay_forward")


class CannotTakeOverError(Exception):
    """A model's attention cannot be taken over; the text says why."""


@dataclass(frozen=True)
class Chunk:
    """Tokens that a slot reads at once; it holds `start` tokens of the same sequence already, the trunk left out.

    The logits after the last `wanted` of them are computed.
    """

    slot: int
    start: int
    ids: Sequence[int]
    wanted: int = 1

    @property
    def end(self) -> int:
        return self.start + len(self.ids)


@dataclass(frozen=True)
class Step:
    """What one forward pass computes: at most one token of each decoding slot, and chunks of others.

    `decoding` is (slot, start, token), in the order of the slots.
    """

    decoding: Sequence[tuple[int, int, int]] = ()
    chunks: Sequence[Chunk] = ()


class Slots:
    """Keys and values of `count` sequences of at most `capacity` tokens each, behind a common `trunk`.

    Memory is taken with the first forward pass, when the shapes of the layers are known. Only the model, the slots and
    the attention live here; who is in which slot is the caller's business.
    """

    def __init__(self, model: Any, count: int, capacity: int, trunk: Slots | None = None) -> None:
        self.model = model
        self.count = count
        self.capacity = capacity
        self.trunk = trunk
        self.keys: dict[int, torch.Tensor] = {}  # layer -> (slots, key/value heads, capacity, head dimension)
        self.values: dict[int, torch.Tensor] = {}
        self.windows: dict[int, int | None] = {}
        """How far each layer says that it sees, once it has been called."""
        self.held = 0
        """Tokens a trunk holds; see `as_trunk`."""

    @property
    def offset(self) -> int:
        """Tokens of the trunk."""
        return self.trunk.held if self.trunk is not None else 0

    @classmethod
    def as_trunk(cls, model: Any, ids: Sequence[int], chunk: int) -> Slots:
        """Read `ids`, at most `chunk` at a time, to be what other sequences begin with."""
        memory = cls(model, 1, len(ids))
        for start in range(0, len(ids), chunk):
            memory.forward(Step(chunks=[Chunk(0, start, ids[start : start + chunk])]))
        memory.held = len(ids)
        return memory

    @torch.inference_mode()
    def forward(self, step: Step) -> torch.Tensor:
        """Compute a step; return the logits after each decoding token and what each chunk wants, (rows, vocabulary)."""
        device = self.model.device
        ids = [token for _, _, token in step.decoding]
        places = [start for _, start, _ in step.decoding]
        last = list(range(len(ids)))
        for chunk in step.chunks:
            ids += chunk.ids
            places += range(chunk.start, chunk.end)
            last += range(len(ids) - chunk.wanted, len(ids))
        forward = _Forward(self, step, device)
        token = _CURRENT.set(forward)
        try:
            output = self.model(
                input_ids=torch.tensor([ids], device=device),
                position_ids=torch.tensor([places], device=device) + self.offset,
                use_cache=False,
                logits_to_keep=torch.tensor(last, device=device) if step.chunks else 0,
            )
        finally:
            _CURRENT.reset(token)
        return output.logits[0]  # type: ignore[no-any-return]

    @torch.inference_mode()
    def copy(self, source: int, target: int, tokens: int) -> None:
        """Give a slot the first `tokens` tokens of another."""
        for store in (self.keys, self.values):
            for layer in store.values():
                layer[target, :, :tokens] = layer[source, :, :tokens]

    @torch.inference_mode()
    def grow(self, capacity: int) -> None:
        """Make room for `capacity` tokens in every slot; what they hold stays."""
        for store in (self.keys, self.values):
            for index, layer in store.items():
                wider = layer.new_zeros(*layer.shape[:2], capacity, layer.shape[3])
                wider[:, :, : self.capacity] = layer
                store[index] = wider
        self.capacity = capacity

    def layer(self, index: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a layer's memory, (slots, heads, capacity, dimension) each; `key` and `value` give its shape."""
        if index not in self.keys:
            for store, like in ((self.keys, key), (self.values, value)):
                shape = (self.count, like.shape[1], self.capacity, like.shape[3])
                # Zeros, as a place that nobody may see still counts as zero times what it holds.
                store[index] = torch.zeros(shape, dtype=like.dtype, device=like.device)
        return self.keys[index], self.values[index]

    @property
    def bytes_per_token(self) -> int:
        """Bytes one token takes over all layers; 0 before the first forward pass."""
        layers = [*self.keys.values(), *self.values.values()]
        return sum(layer.shape[1] * layer.shape[3] * layer.element_size() for layer in layers)


class _Forward:
    """One forward pass as the attention of every layer needs it."""

    def __init__(self, memory: Slots, step: Step, device: torch.device) -> None:
        self.memory = memory
        self.step = step
        self.device = device
        self.decoding = len(step.decoding)
        slots = [slot for slot, _, _ in step.decoding]
        starts = [start for _, start, _ in step.decoding]
        self.rows = torch.tensor(slots, device=device)
        self.places = torch.tensor(starts, device=device)
        self.dense = slots == list(range(len(slots)))
        self.top = max(slots, default=-1) + 1
        self.reach = max(starts, default=-1) + 1
        self.nearest = min(starts, default=0)
        self.ends = [(slot, start + 1) for slot, start, _ in step.decoding]
        self.spare = self.reach - sum(end for _, end in self.ends) / max(self.top, 1)
        """Tokens beyond its own end that a slot's attention reads on average."""
        self._masks: dict[tuple[int | None, torch.dtype], torch.Tensor] = {}
        self._read_masks: dict[tuple[int, int, int | None, torch.dtype], torch.Tensor] = {}

    @cached_property
    def lengths(self) -> torch.Tensor:
        """Tokens each of the first `top` slots holds, the new one included; 1 in slots that do not decode."""
        lengths = torch.ones(self.top, dtype=torch.long, device=self.device)
        lengths[self.rows] = self.places + 1
        return lengths

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        scale: float,
        window: int | None,
        softcap: float | None,
        sinks: torch.Tensor | None,
    ) -> torch.Tensor:
        """Store keys and values, (1, heads, tokens, width); return what the tokens see, (1, tokens, heads, width)."""
        keys, values = self.memory.layer(layer, key, value)
        n = self.decoding
        parts = []
        if n:
            keys[self.rows, :, self.places] = key[0, :, :n].transpose(0, 1)
            values[self.rows, :, self.places] = value[0, :, :n].transpose(0, 1)
            parts.append(self._decode(layer, query[0, :, :n], keys, values, scale, window, softcap, sinks))
        at = n
        for chunk in self.step.chunks:
            here = slice(at, at + len(chunk.ids))
            at = here.stop
            keys[chunk.slot, :, chunk.start : chunk.end] = key[0, :, here]
            values[chunk.slot, :, chunk.start : chunk.end] = value[0, :, here]
            seen = [(keys[chunk.slot, :, : chunk.end], values[chunk.slot, :, : chunk.end])]
            if self.memory.trunk is not None:
                trunk = self.memory.trunk
                seen.insert(0, (trunk.keys[layer][0], trunk.values[layer][0]))
            mask = self._read_mask(len(chunk.ids), sum(side.shape[1] for side, _ in seen), window, query.dtype)
            parts.append(_read(query[0, :, here], seen, scale, mask, softcap, sinks))
        return (parts[0] if len(parts) == 1 else torch.cat(parts))[None]

    def _decode(
        self,
        layer: int,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        scale: float,
        window: int | None,
        softcap: float | None,
        sinks: torch.Tensor | None,
    ) -> torch.Tensor:
        """Attention of one token per slot; `query` is (heads, n, dimension), the result (n, heads, dimension)."""
        heads, n, width = query.shape
        shared = keys.shape[1]
        # Heads that share keys and values become rows of one product: nothing is repeated.
        grouped = query.transpose(0, 1).reshape(n, shared, heads // shared, width)
        plain = softcap is None and sinks is None and (self.memory.trunk is None or window is None)
        if plain and kernel.fits(query, keys):
            return self._compiled(layer, grouped, keys, values, scale, window).reshape(n, heads, -1)
        if not self.dense:
            spread = grouped.new_zeros(self.top, *grouped.shape[1:])
            spread[self.rows] = grouped
            grouped = spread
        first = max(0, self.nearest + 1 - window) if window is not None else 0
        keys, values = keys[: self.top, :, first : self.reach], values[: self.top, :, first : self.reach]
        trunk = self.memory.trunk
        sees_trunk = trunk is not None and (window is None or self.nearest + 1 < window)
        if sees_trunk or softcap is not None or sinks is not None:
            scores = torch.matmul(grouped * scale, keys.transpose(-1, -2)).float()
            if sees_trunk:
                assert trunk is not None
                flat = (grouped * scale).transpose(0, 1).reshape(shared, -1, width)
                ahead = torch.matmul(flat, trunk.keys[layer][0].transpose(-1, -2)).float()
                ahead = ahead.view(shared, self.top, heads // shared, -1).transpose(0, 1)
                scores = torch.cat([ahead, scores], dim=-1)
            if softcap is not None:
                scores = torch.tanh(scores / softcap) * softcap
            mask = self._mask(window, first, grouped.dtype)
            if sees_trunk:
                scores[..., self.memory.offset :] += mask
                if window is not None:
                    scores[..., : self.memory.offset] += self._trunk_mask(window, grouped.dtype)
            else:
                scores += mask
            weights = _softmax(scores, None if sinks is None else sinks.view(1, shared, heads // shared))
            weights = weights.to(values.dtype)
            own = weights[..., self.memory.offset :] if sees_trunk else weights
            result = torch.matmul(own, values)
            if sees_trunk:
                assert trunk is not None
                flat = weights[..., : self.memory.offset].transpose(0, 1).reshape(shared, -1, self.memory.offset)
                ahead = torch.matmul(flat, trunk.values[layer][0])
                result += ahead.view(shared, self.top, heads // shared, -1).transpose(0, 1)
        elif self.dense and self.device.type == "cpu" and self.spare * _bytes(keys, values) > WORTH:
            each = []
            for slot, end in self.ends:
                seen = slice(max(0, end - first - (window or end)), end - first)
                own, seen_values = keys[slot, None, :, seen], values[slot, None, :, seen]
                each.append(scaled_dot_product_attention(grouped[slot, None], own, seen_values, scale=scale))
            result = torch.cat(each)
        else:
            mask = self._mask(window, first, grouped.dtype)
            result = scaled_dot_product_attention(grouped, keys, values, attn_mask=mask, scale=scale)
        if not self.dense:
            result = result[self.rows]
        return result.reshape(n, heads, -1)

    def _compiled(
        self,
        layer: int,
        grouped: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        scale: float,
        window: int | None,
    ) -> torch.Tensor:
        """The same by the compiled function, which reads every slot to its own end; (n, heads, group, dimension)."""
        slots, ends = self.compiled_ends
        begins = np.maximum(ends - window, 0) if window is not None else np.zeros_like(ends)
        result, sums = kernel.attend(grouped, keys, values, slots, begins, ends, scale)
        trunk = self.memory.trunk
        if trunk is None:
            return result
        n, shared, group, width = grouped.shape
        flat = (grouped * scale).transpose(0, 1).reshape(shared, -1, width)
        scores = torch.matmul(flat, trunk.keys[layer][0].transpose(-1, -2))
        ahead = torch.matmul(torch.softmax(scores, dim=-1), trunk.values[layer][0])
        ahead = ahead.view(shared, n, group, -1).transpose(0, 1)
        # Each part is a mean of its own; their shares are those of the exponentials they sum up.
        share = torch.sigmoid(sums - torch.logsumexp(scores, dim=-1).view(shared, n, group).transpose(0, 1))
        return torch.lerp(ahead, result, share[..., None])

    @cached_property
    def compiled_ends(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """The slots that decode, and the tokens each holds, the new one included."""
        slots, ends = zip(*((slot, start + 1) for slot, start, _ in self.step.decoding), strict=True)
        return np.array(slots), np.array(ends)

    def _mask(self, window: int | None, first: int, dtype: torch.dtype) -> torch.Tensor:
        """What the slots' newest tokens do not see, as -inf: (slots, 1, 1, reach - first)."""
        if (window, dtype) not in self._masks:
            places = torch.arange(first, self.reach, device=self.device)
            hidden = places >= self.lengths[:, None]
            if window is not None:
                hidden |= places < self.lengths[:, None] - window
            mask = torch.zeros(hidden.shape, dtype=dtype, device=self.device).masked_fill_(hidden, float("-inf"))
            self._masks[window, dtype] = mask[:, None, None]
        return self._masks[window, dtype]

    def _read_mask(self, n: int, total: int, window: int | None, dtype: torch.dtype) -> torch.Tensor | None:
        """What the last `n` of `total` tokens do not see, as -inf: (n, total); None where it is what comes later."""
        if n == total and (window is None or window >= total):
            return None
        key = n, total, window, dtype
        if key not in self._read_masks:
            places, own = torch.arange(total, device=self.device), torch.arange(total - n, total, device=self.device)
            hidden = places > own[:, None]
            if window is not None:
                hidden |= places <= own[:, None] - window
            mask = torch.zeros(hidden.shape, dtype=dtype, device=self.device)
            self._read_masks[key] = mask.masked_fill_(hidden, float("-inf"))
        return self._read_masks[key]

    def _trunk_mask(self, window: int, dtype: torch.dtype) -> torch.Tensor:
        offset = self.memory.offset
        hidden = torch.arange(offset, device=self.device) < self.lengths[:, None] + offset - window
        mask = torch.zeros(hidden.shape, dtype=dtype, device=self.device).masked_fill_(hidden, float("-inf"))
        return mask[:, None, None]


def _read(
    query: torch.Tensor,
    seen: Sequence[tuple[torch.Tensor, torch.Tensor]],
    scale: float,
    mask: torch.Tensor | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """Causal attention of one sequence's newest tokens, (heads, n, dimension); the result is (n, heads, dimension).

    `seen` are keys and values, (key/value heads, tokens, dimension) each, one behind the other; the query's own tokens
    are the last ones. `mask` is (n, tokens); None: each of the query's tokens sees those before it, and there are no
    others.
    """
    heads, n, width = query.shape
    keys, values = seen[0] if len(seen) == 1 else (torch.cat(side, dim=1) for side in zip(*seen, strict=True))
    shared, total = keys.shape[0], keys.shape[1]
    grouped = query.view(shared, heads // shared, n, width)
    if softcap is None and sinks is None:
        group = (shared, heads // shared, total, -1)
        result = scaled_dot_product_attention(
            grouped,
            keys[:, None].expand(group),
            values[:, None].expand(group),
            attn_mask=mask,
            is_causal=mask is None and n > 1,
            scale=scale,
        )
    else:
        scores = torch.matmul(grouped * scale, keys[:, None].transpose(-1, -2)).float()
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        if mask is None:
            mask = torch.full((n, n), float("-inf"), dtype=query.dtype, device=query.device).triu(1)
        weights = _softmax(scores + mask, None if sinks is None else sinks.view(shared, heads // shared, 1))
        result = torch.matmul(weights.to(values.dtype), values[:, None])
    return result.reshape(heads, n, -1).transpose(0, 1)


def _bytes(keys: torch.Tensor, values: torch.Tensor) -> int:
    """Bytes one token takes in one layer."""
    return sum(side.shape[1] * side.shape[3] * side.element_size() for side in (keys, values))


def _softmax(scores: torch.Tensor, sinks: torch.Tensor | None) -> torch.Tensor:
    """Softmax over the last dimension; `sinks` take a share for themselves."""
    if sinks is None:
        return torch.softmax(scores, dim=-1)
    with_sinks = torch.cat([scores, sinks[..., None].to(scores.dtype).expand(*scores.shape[:-1], 1)], dim=-1)
    return torch.softmax(with_sinks, dim=-1)[..., :-1]


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    position_bias: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface."""
    if position_bias is not None or attention_mask is not None:
        raise CannotTakeOverError("its attention has a bias or a mask of its own")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    forward = _CURRENT.get(None)
    if forward is None:
        raise EvaluationError(
            "expected a generation to end before its model is used for something else; close it first"
        )
    forward.memory.windows[module.layer_idx] = sliding_window
    result = forward.attend(
        module.layer_idx, query, key, value, scale=scale, window=sliding_window, softcap=softcap, sinks=s_aux
    )
    return result, None


AttentionInterface.register(NAME, _attention)


@contextmanager
def taken_over(model: Any, longest: int) -> Iterator[Any]:
    """Let a model attend through slots while the block runs; gives the model to call.

    `longest` is how many tokens a sequence may have.

    Raises CannotTakeOverError where its architecture does not allow it.
    """
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    before = plain.config._attn_implementation
    refused = why_not(model, longest)
    if refused is not None:
        raise CannotTakeOverError(refused)
    expected = _reference(plain)
    plain.set_attn_implementation(NAME)
    try:
        _check(plain, expected)
        yield plain
    finally:
        plain.set_attn_implementation(before)


def why_not(model: Any, longest: int) -> str | None:
    """Say why a model's keys and values cannot be kept in slots; None where its configuration speaks for it."""
    config = model.config.get_text_config()
    adapter = getattr(model, "active_peft_config", None)
    if adapter is not None and adapter.is_prompt_learning:
        return "its adapter is a learned prompt"
    if adapter is not None:
        model = model.get_base_model()
    if longest > steady_positions(config):
        return (
            f"{type(model).__name__} turns positions otherwise in texts of more than {steady_positions(config)} tokens"
        )
    if not model._can_set_attn_implementation():
        return f"{type(model).__name__} has its own attention code"
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if kinds:
        return f"{type(model).__name__} has layers of another kind ({', '.join(sorted(kinds))})"
    if getattr(config, "is_encoder_decoder", False):
        return f"{type(model).__name__} has an encoder"
    return None


def steady_positions(config: Any) -> int:
    """Return how long a text may get before the positions of all its tokens are encoded anew; 2**31 for most models.

    Where LongRoPE takes its other factors, what a cache holds is no longer what the whole text would give, and texts
    that are computed together do not have the same factors as alone.
    """
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    each = [rope, *(value for value in rope.values() if isinstance(value, dict))]
    if not any(one.get("rope_type", one.get("type")) == "longrope" for one in each):
        return 2**31
    found = [one.get("original_max_position_embeddings") for one in each]
    own = getattr(config, "original_max_position_embeddings", None)
    return min([int(one) for one in (*found, own) if one], default=0)


_PROBE = 12
"""Tokens of the trial that every model has to pass."""


@torch.inference_mode()
def _reference(model: Any) -> torch.Tensor:
    """The last logits of two short sequences as the model computes them by itself, (2, vocabulary)."""
    ids = _probe_ids(model)
    return torch.stack([model(input_ids=ids[None, start:], use_cache=False).logits[0, -1] for start in (0, 5)])


def _probe_ids(model: Any) -> torch.Tensor:
    size = model.get_input_embeddings().weight.shape[0]
    ids: torch.Tensor = (torch.arange(_PROBE, device=model.device) * 7919 + 11) % size
    return ids


def _check(model: Any, expected: torch.Tensor) -> None:
    """Raise CannotTakeOverError unless slots give the logits that the model gives by itself."""
    ids = _probe_ids(model).tolist()
    memory = Slots(model, 2, _PROBE)
    try:
        memory.forward(Step(chunks=[Chunk(0, 0, ids[:4]), Chunk(1, 0, ids[5:-1])]))
        memory.forward(Step(chunks=[Chunk(0, 4, ids[4:-1])]))
        got = memory.forward(Step(decoding=[(0, _PROBE - 1, ids[-1]), (1, _PROBE - 6, ids[-1])]))
    except (TypeError, RuntimeError, AttributeError, IndexError, LookupError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise CannotTakeOverError(
            f"{type(model).__name__} does not run with attention from outside: {error}"
        ) from error
    config = model.config.get_text_config()
    kinds, windows = getattr(config, "layer_types", None), memory.windows
    slides = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    if kinds is not None and len(kinds) == len(windows):
        silent = any(kind == "sliding_attention" and windows[at] is None for at, kind in enumerate(kinds))
    else:
        silent = not any(windows.values())
    if slides and silent and not all(kind == "full_attention" for kind in kinds or [""]):
        raise CannotTakeOverError(f"{type(model).__name__} has a sliding window that its attention is not told of")
    if not torch.isfinite(expected).all():
        return  # the first step says so
    difference = float((got.float() - expected.float()).abs().max() / expected.float().abs().max().clamp(min=1e-6))
    if difference > (1e-3 if expected.dtype == torch.float32 else 6e-2):
        raise CannotTakeOverError(
            f"{type(model).__name__} gives other logits with attention from outside (off by {difference:.1e} of the "
            "largest)"
        )
