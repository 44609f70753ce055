"""What an experiment will want from a real machine: GPU memory, hours, disk. Arithmetic on a model's shape, no more.

    estimate(shape, settings, Load(train_rows=7473, row_tokens=250, …)).memory["train"]

What it assumes stands in `ASSUMPTIONS`, in the order of the formulas. It errs on the side of more: every answer is as
long as it may be, every micro-batch as long as the longest row seen. The disk it counts is the run's own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unsay.models import Shape
from unsay.planning import optimiser_steps
from unsay.settings import Settings, Training

GIB = 1024**3
HALF, SINGLE = 2, 4  # bytes of bf16 and of float32
ADAM = 4 * SINGLE  # a trained weight in float32, its gradient and two moments
OVERHEAD = GIB  # the CUDA context and what the allocator cannot use
BATCH = 32  # answers generated at a time, where the run leaves that open
LAUNCH = 0.9e-3  # seconds plain PyTorch needs to start the kernels of one layer, whatever they compute
LAUNCH_TRAIN = 4.0e-3  # the same for forward and backward with adapters
BUSY = 0.35  # share of a GPU's dense bf16 rate that training and prefill reach
READ = 0.6  # share of its memory bandwidth that generation reaches


@dataclass(frozen=True)
class Gpu:
    """What the hours are for; dense bf16 operations and bytes per second."""

    name: str
    rate: float
    bandwidth: float
    memory: int


GPU = Gpu("A100 80 GB", 312e12, 2.0e12, 80 * GIB)

ASSUMPTIONS = (
    "weights: 2 bytes each (bf16); trained ones 16 (float32, gradient, two Adam moments)",
    "trained rows of control tokens: three copies of the embedding matrix while a step runs (PEFT's)",
    "activations per token and layer: 20 bytes x hidden + 4 x attention (6 where queries and keys have norms of their "
    "own) + 8 x intermediate, times micro-batch x longest row, of two layers where they are recomputed; logits 12 "
    "bytes x vocabulary per supervised token",
    "cache: 4 bytes x layers x key/value heads x head size per token (bf16 keys and values), times batch x (longest "
    "prompt + max_new_tokens); beside it the larger of the logits, 12 bytes x vocabulary x batch, and one layer's "
    "prefill, 2 bytes x (4 hidden + 2 attention + 3 intermediate) per token of the prompts; 1 GiB for CUDA itself",
    f"training: 2 operations per weight and token forward, 2 backward (4 where every weight is trained), 2 more with "
    f"recomputation, plus attention; {BUSY:.0%} of the GPU's dense bf16 rate, and at least {1000 * LAUNCH_TRAIN:g} ms "
    "per layer and micro-batch",
    f"generation: every answer has max_new_tokens tokens; a step reads weights and cache once, at {READ:.0%} of the "
    f"memory bandwidth, and takes at least {1000 * LAUNCH:g} ms per layer; rewinds are not counted",
    "disk: a checkpoint is 3 x the trained weights in float32 and there are two for a moment; the check after training "
    "writes the merged model once and deletes it; results as many bytes per answer and token as in the rehearsal",
)


@dataclass(frozen=True)
class Load:
    """How much there is to do. Tokens are whole numbers of ids; None where nobody knows."""

    items: int | None
    prompt_tokens: int
    longest_prompt: int
    batch_size: int
    train_rows: int | None = None
    row_tokens: int = 0
    longest_row: int = 0
    answer_tokens: int = 0
    """Mean supervised tokens of a row."""
    control_tokens: int = 0
    answer_bytes: float = 0.0
    """What one answer of no length takes on disk, all files together."""
    token_bytes: float = 0.0
    """What one sampled token takes on disk."""
    row_bytes: float = 0.0
    download: int = 0


@dataclass(frozen=True)
class Estimate:
    """Bytes on the GPU and hours per stage, at most; bytes on disk by what they are for. Missing: not known."""

    parameters: int
    memory: Mapping[str, int]
    hours: Mapping[str, float]
    disk: Mapping[str, int]
    least_to_train: int = 0
    """What training falls back to by itself: recomputed activations, one row at a time."""
    gpu: Gpu = GPU

    @property
    def least(self) -> int:
        """The least memory every stage works with."""
        return max(self.least_to_train, self.memory["evaluate"])

    def to_json(self) -> dict[str, Any]:
        return {
            "parameters": self.parameters,
            "gpu_memory_bytes": dict(self.memory),
            "least_gpu_memory_to_train_bytes": self.least_to_train or None,
            "hours_at_most": {stage: round(hours, 4) for stage, hours in self.hours.items()},
            "disk_bytes": dict(self.disk),
            "gpu": self.gpu.name,
        }


def parameters(shape: Shape) -> int:
    """Count a model's weights; a tied output layer counts once."""
    return shape.layers * (_linear(shape) + _norms(shape)) + shape.hidden + _embedding(shape) * (2 - shape.tied)


def lora_parameters(shape: Shape, training: Training) -> int:
    """Count the weights of an adapter on the linear layers that `lora_target` names."""
    sizes = _matrices(shape)
    target = training.lora_target
    names = [name.strip() for name in target.split(",")] if isinstance(target, str) else list(target)
    chosen = sizes if names == ["all"] else {name: size for name, size in sizes.items() if name in names}
    return shape.layers * training.lora_rank * sum(inside + outside for inside, outside in chosen.values())


def estimate(shape: Shape, settings: Settings, load: Load) -> Estimate:
    """Return what an experiment with these settings takes, at most."""
    memory = {"evaluate": _memory_evaluate(shape, settings, load)}
    hours: dict[str, float] = {}
    least = 0
    disk = {"download": load.download}
    if settings.training is not None:
        training = settings.training
        rows = training.per_device_train_batch_size
        memory["train"] = _memory_train(shape, training, load, rows, recomputes=_recomputes(training))
        least = _memory_train(shape, training, load, 1, recomputes=True)
        trained = _trained(shape, training, load)
        disk["adapter or weights"] = trained * SINGLE
        disk["checkpoints"] = 2 * 3 * trained * SINGLE
        disk["merged for the check"] = parameters(shape) * HALF
        if load.train_rows is not None:
            hours["train"] = _seconds_train(shape, training, load, load.train_rows) / 3600
            disk["training rows"] = round(load.train_rows * load.row_bytes)
    if load.items is not None:
        hours["evaluate"] = _seconds_evaluate(shape, settings, load, load.items) / 3600
        tokens = settings.decode.max_new_tokens
        disk["results"] = round(load.items * (load.answer_bytes + tokens * load.token_bytes))
    return Estimate(parameters(shape), memory, hours, disk, least)


# -- weights ------------------------------------------------------------------------------------------------------


def _matrices(shape: Shape) -> dict[str, tuple[int, int]]:
    """Return the linear layers of one block, by the names most models give them: width in, width out."""
    query, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    return {
        "q_proj": (shape.hidden, query),
        "k_proj": (shape.hidden, keys),
        "v_proj": (shape.hidden, keys),
        "o_proj": (query, shape.hidden),
        "gate_proj": (shape.hidden, shape.intermediate),
        "up_proj": (shape.hidden, shape.intermediate),
        "down_proj": (shape.intermediate, shape.hidden),
    }


def _linear(shape: Shape) -> int:
    biases = (shape.heads + 2 * shape.kv_heads) * shape.head_dim if shape.qkv_bias else 0
    return sum(inside * outside for inside, outside in _matrices(shape).values()) + biases


def _norms(shape: Shape) -> int:
    return 2 * shape.hidden + (2 * shape.head_dim if shape.qk_norm else 0)


def _embedding(shape: Shape) -> int:
    return shape.vocabulary * shape.hidden


def _is_full(training: Training) -> bool:
    return getattr(training, "finetuning_type", "lora") == "full"


def _bits(training: Training) -> int | None:
    bits: int | None = getattr(training, "quantization_bit", None)
    return bits


def _recomputes(training: Training) -> bool:
    return bool(getattr(training, "gradient_checkpointing", False))


def _trained(shape: Shape, training: Training, load: Load) -> int:
    if _is_full(training):
        return parameters(shape)
    return lora_parameters(shape, training) + load.control_tokens * shape.hidden * (2 - shape.tied)


# -- memory -------------------------------------------------------------------------------------------------------


def _cache(shape: Shape) -> int:
    """Return the bytes of one token's keys and values in all layers."""
    return 2 * HALF * shape.layers * shape.kv_heads * shape.head_dim


def _activations(shape: Shape) -> int:
    """Return the bytes one layer keeps of one token until the way back, under autocast with adapters."""
    attention = (2 * shape.heads + 2 * shape.kv_heads) * shape.head_dim
    return 20 * shape.hidden + (6 if shape.qk_norm else 4) * attention + 8 * shape.intermediate


def _passing(shape: Shape) -> int:
    """Return the bytes of one token in one layer while nothing is kept."""
    attention = (2 * shape.heads + 2 * shape.kv_heads) * shape.head_dim
    return HALF * (4 * shape.hidden + 2 * attention + 3 * shape.intermediate)


def _memory_evaluate(shape: Shape, settings: Settings, load: Load) -> int:
    weights = parameters(shape) * HALF
    cached = _cache(shape) * load.batch_size * (load.longest_prompt + settings.decode.max_new_tokens)
    logits = 3 * SINGLE * shape.vocabulary * load.batch_size
    prefill = _passing(shape) * load.batch_size * load.longest_prompt
    return weights + cached + max(logits, prefill) + OVERHEAD


def _memory_train(shape: Shape, training: Training, load: Load, rows: int, *, recomputes: bool) -> int:
    weights = parameters(shape) * HALF
    if _is_full(training):
        weights = 0  # they are the trained ones
    elif bits := _bits(training):
        weights = shape.layers * _linear(shape) * bits // 8 + _embedding(shape) * (2 - shape.tied) * HALF
    tokens = rows * load.longest_row
    supervised = rows * min(load.longest_row, 2 * load.answer_tokens)
    layers = 2 if recomputes else shape.layers
    kept = _activations(shape) * tokens * layers + HALF * shape.hidden * tokens * shape.layers
    copies = 3 * HALF * _embedding(shape) if load.control_tokens and not _is_full(training) else 0
    logits = 3 * SINGLE * shape.vocabulary * supervised
    return weights + ADAM * _trained(shape, training, load) + kept + copies + logits + OVERHEAD


# -- time ---------------------------------------------------------------------------------------------------------


def _attention(shape: Shape, tokens: float) -> float:
    """Return the operations of one token's attention to so many, in all layers, forward."""
    return 4 * shape.layers * shape.heads * shape.head_dim * tokens


def _seconds_train(shape: Shape, training: Training, load: Load, rows: int) -> float:
    per_step = training.per_device_train_batch_size * training.gradient_accumulation_steps
    steps = optimiser_steps(training, rows)
    passes = 3 if _is_full(training) else 2
    passes += 1 if _recomputes(training) else 0
    per_token = passes * (2 * shape.layers * _linear(shape) + _attention(shape, load.row_tokens))
    per_row = load.row_tokens * per_token + passes * 2 * load.answer_tokens * _embedding(shape)
    working = steps * per_step * per_row / (BUSY * GPU.rate)
    starting = steps * training.gradient_accumulation_steps * shape.layers * LAUNCH_TRAIN
    return max(working, starting)


def _seconds_evaluate(shape: Shape, settings: Settings, load: Load, items: int) -> float:
    new = settings.decode.max_new_tokens
    weights = 2 * shape.layers * _linear(shape)
    prefill = items * load.prompt_tokens * (weights + _attention(shape, load.prompt_tokens)) / (BUSY * GPU.rate)
    batch = min(load.batch_size, items)
    read = parameters(shape) * HALF + _cache(shape) * batch * (load.prompt_tokens + new / 2)
    step = max(read / (READ * GPU.bandwidth), shape.layers * LAUNCH)
    return prefill + math.ceil(items / load.batch_size) * new * step
