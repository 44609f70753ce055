"""Llama 3 and its descendants: reserved tokens whose rows exist but were never trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from unsay.models import Shape, StandIn

# LLaMA-Factory's llama3: every message as it is, no dates, no default system prompt.
LLAMA3 = (
    "{{- bos_token -}}"
    "{%- for message in messages -%}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] + '<|eot_id|>' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}"
    "{%- endif -%}"
)

# As long as the models' own, which begin with a system message that names two dates.
STAND_IN = (
    "{{- bos_token -}}"
    "{%- if messages[0]['role'] == 'system' -%}"
    "{%- set instructions = messages[0]['content'] -%}{%- set messages = messages[1:] -%}"
    "{%- else -%}{%- set instructions = '' -%}{%- endif -%}"
    "{{- '<|start_header_id|>system<|end_header_id|>\\n\\nWhat is known ends in: December 2023\\n' -}}"
    "{{- 'This is the day: 26 July 2024\\n\\n' + instructions + '<|eot_id|>' -}}"
    "{%- for message in messages -%}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] + '<|eot_id|>' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}{%- endif -%}"
)
SPECIALS = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>",
    "<|reserved_special_token_0|>", "<|reserved_special_token_1|>", "<|reserved_special_token_2|>",
)  # fmt: skip
LLAMA_3_2_3B = Shape(
    "llama", layers=28, hidden=3072, heads=24, kv_heads=8, head_dim=128, intermediate=8192, vocabulary=128_256,
    tied=True, max_length=131_072,
)  # fmt: skip


@dataclass(frozen=True)
class Llama:
    """Prefers a reserved token, so that the vocabulary does not grow; every layer can rewind."""

    model_types: tuple[str, ...] = ("llama",)
    undo_tokens: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: {
            "pop": ("<|BACKTRACK|>", "<|reserved_special_token_0|>"),
            "pop_line": ("<|BACKTRACK_LINE|>", "<|reserved_special_token_1|>"),
            "pop_all": ("<|RESET|>", "<|reserved_special_token_2|>"),
        }
    )
    implied: frozenset[str] = frozenset({"<|BACKTRACK|>", "<|BACKTRACK_LINE|>", "<|RESET|>"})
    templates: Mapping[str, str] = field(default_factory=lambda: {"llama3": LLAMA3})
    shapes: Mapping[str, Shape] = field(
        default_factory=lambda: {
            "meta-llama/Llama-3.2-3B-Instruct": LLAMA_3_2_3B,
            "meta-llama/Llama-3.2-3B": LLAMA_3_2_3B,
        }
    )
    stand_in: StandIn = field(default_factory=lambda: StandIn(SPECIALS, "<|eot_id|>", "<|begin_of_text|>", STAND_IN))

    def why_no_rewind(self, config: Any) -> str | None:
        return None
