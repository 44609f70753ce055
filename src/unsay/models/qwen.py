"""Qwen 2, 2.5 and 3, dense and mixture of experts: ChatML, vocabulary rows to spare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from unsay.models import Shape, StandIn

# LLaMA-Factory's qwen3_nothink: every message as it is, no default system prompt, no empty thinking block.
QWEN3_NOTHINK = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)

# As long as the models' own: an empty thinking block opens an answer when thinking is off.
STAND_IN = QWEN3_NOTHINK + (
    "{%- if add_generation_prompt and not enable_thinking -%}{{- '<think>\\n\\n</think>\\n\\n' -}}{%- endif -%}"
)
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")


def _shape(layers: int, hidden: int, heads: int, intermediate: int) -> Shape:
    """Return a Qwen3 that ties its embedding, as the small ones do."""
    return Shape(
        "qwen3", layers, hidden, heads, kv_heads=8, head_dim=128, intermediate=intermediate, vocabulary=151_936,
        tied=True, max_length=40_960, qk_norm=True,
    )  # fmt: skip


@dataclass(frozen=True)
class Qwen:
    """Every layer attends to a plain key/value cache, so it can rewind."""

    model_types: tuple[str, ...] = ("qwen2", "qwen2_moe", "qwen3", "qwen3_moe")
    undo_tokens: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: {
            "pop": ("<|BACKTRACK|>",),
            "pop_line": ("<|BACKTRACK_LINE|>",),
            "pop_all": ("<|RESET|>",),
        }
    )
    implied: frozenset[str] = frozenset({"<|BACKTRACK|>", "<|BACKTRACK_LINE|>", "<|RESET|>"})
    templates: Mapping[str, str] = field(default_factory=lambda: {"qwen3_nothink": QWEN3_NOTHINK})
    shapes: Mapping[str, Shape] = field(
        default_factory=lambda: {
            "Qwen/Qwen3-0.6B": _shape(layers=28, hidden=1024, heads=16, intermediate=3072),
            "Qwen/Qwen3-4B": _shape(layers=36, hidden=2560, heads=32, intermediate=9728),
        }
    )
    stand_in: StandIn = field(default_factory=lambda: StandIn(SPECIALS, "<|im_end|>", None, STAND_IN))

    def why_no_rewind(self, config: Any) -> str | None:
        return None
