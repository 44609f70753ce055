"""Qwen 2, 2.5 and 3, dense and mixture of experts: ChatML, vocabulary rows to spare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# LLaMA-Factory's qwen3_nothink: every message as it is, no default system prompt, no empty thinking block.
QWEN3_NOTHINK = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


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

    def why_no_rewind(self, config: Any) -> str | None:
        return None
