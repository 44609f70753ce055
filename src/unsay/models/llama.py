"""Llama 3 and its descendants: reserved tokens whose rows exist but were never trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

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

    def why_no_rewind(self, config: Any) -> str | None:
        return None
