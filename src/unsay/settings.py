"""The settings of one experiment as frozen dataclasses: what can change its numbers, with the complete defaults.

Names are transformers' and PEFT's where those have one, LLaMA-Factory's where they do not. Knows nothing about YAML
(`unsay.config` reads it) or about how a setting takes effect.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Prompting:
    """How an evaluation prompt is built from a dataset's task."""

    num_fewshot: int = 0
    apply_chat_template: bool = True
    """Use the model's chat template where there is one; without one the prompt is plain text."""
    fewshot_as_multiturn: bool = False
    """False folds all shots into the one user turn."""
    fewshot_seed: int = 1234
    enable_thinking: bool = False


@dataclass(frozen=True)
class Decode:
    """How an answer is generated."""

    undo_context: Literal["keep", "rewind"] = "keep"
    """keep: retracted tokens stay in the model's context; rewind: the context holds the survivors only."""
    undo: Literal["allow", "ban"] = "allow"
    """ban: the control tokens can never be sampled (the counterfactual run)."""
    max_new_tokens: int = 512
    """Sampled tokens per answer, retracted ones and undos included."""
    do_sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_survivors: int | None = None
    max_undos: int | None = None
    max_visits: int = 4
    """Rewinds to one and the same position before the answer ends (rewind only)."""
    undo_bias: float = 0.0
    """Added to the logits of the control tokens before a token is chosen."""
    stop: tuple[str, ...] | None = None
    """Stop strings; None takes the task's own."""
    stop_on: Literal["survivors", "raw"] = "survivors"
    """Where stop strings are looked for: in what survives, or, as other tools do, in all that was sampled."""
    plant: str | None = None
    """A strategy: every answer begins with the gold one up to and with one mistake of its kind, and goes on freely."""
    plant_twin: bool = False
    """Begin with the right tokens in the place of the mistake instead: the clean twin of a planted mistake."""


@dataclass(frozen=True)
class UndoData:
    """How training answers get mistakes and the tokens that take them back."""

    strategy: str = "random_tokens"
    options: dict[str, Any] = field(default_factory=dict)
    """Fields of the strategy's dataclass that differ from its defaults."""
    clean_share: float = 0.0
    """Share of rows left without any mistake."""
    mask: Literal["errors", "repeats", "before_undo", "none"] = "errors"
    """errors: no loss on what will be taken back; repeats: the same, and the undos that repeat a run's first one weigh
    as much as one token together; before_undo: as errors, and no loss before the first undo; none: loss on all."""
    init: Literal["description", "mean", "words"] = "description"
    """How the control token's embedding row starts."""
    context: Literal["keep", "rewind"] = "keep"
    """What the model sees of a retracted token during training."""
    say: Literal["tokens", "words"] = "tokens"
    """tokens: undo tokens take a mistake back; words: the same rows say in words that it was wrong, and go on."""


@dataclass(frozen=True)
class Training:
    """Fine-tuning."""

    finetuning_type: Literal["lora", "full"] = "lora"
    """lora: low-rank adapters on frozen weights; full: every weight, in float32."""
    quantization_bit: Literal[4] | None = None
    """4: the frozen weights in four bits (QLoRA), by bitsandbytes."""
    lora_rank: int = 8
    lora_alpha: int = 16
    lora_dropout: float = 0.0
    lora_target: str | tuple[str, ...] = "all"
    """`all`: every linear layer but the output head; or module names."""
    learning_rate: float = 1.0e-4
    row_learning_rate: float | None = None
    """That of the control tokens' rows; None: the same."""
    lr_scheduler_type: str = "cosine"
    warmup_ratio: float = 0.1
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    num_train_epochs: float = 3.0
    max_steps: int = -1
    """Optimiser steps; a positive number overrides `num_train_epochs`."""
    per_device_train_batch_size: int = 4
    gradient_accumulation_steps: int = 8
    auto_find_batch_size: bool = False
    """Start with the whole effective batch at a time; it is halved until it fits into memory."""
    gradient_checkpointing: bool = False
    """Compute activations again on the way back instead of keeping them."""
    curriculum: Literal["none", "depth"] = "none"
    """depth: in the first epoch rows come in the order of how much is taken back at once."""
    cutoff_len: int = 2048
    """Longest row in tokens, prompt and answer together; longer rows are refused, not cut."""
    max_samples: int | None = None
    """Use only the first so many training examples."""
    bf16: bool | None = None
    """None: where the device has it."""
    logging_steps: int = 10
    save_steps: int = 0
    """Optimiser steps between checkpoints; 0 saves once per epoch."""
    val_size: float = 0.0
    """Share of the training rows held out to measure the loss on; never rows of an evaluation split."""
    eval_steps: int = 0
    """Optimiser steps between those measurements; 0 measures once per epoch."""
    load_best_model_at_end: bool = False
    """Keep the weights with the lowest loss on the held-out rows instead of the last ones."""
    report_to: str = "none"
    """transformers' integrations that get the log too, comma-separated."""


@dataclass(frozen=True)
class Settings:
    """Everything that decides an experiment's numbers besides model, dataset and seed."""

    prompting: Prompting
    decode: Decode
    training: Training | None = None
    undo: UndoData | None = None
