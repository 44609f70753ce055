"""Any other causal language model: adds the undo token, asks the config whether the cache can rewind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from unsay.models import Shape, StandIn

# The contents of all messages, one per line; the answer starts on its own line and ends with the end-of-text token.
PLAIN = (
    "{%- for message in messages -%}"
    "{{- message['content'] -}}{%- if not loop.last -%}{{- '\\n' -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '\\n' -}}{%- endif -%}"
)

ATTENTION_LAYERS = frozenset({"full_attention", "sliding_attention", "chunked_attention"})
# What a config of a model with recurrent state carries, whatever the model is called.
RECURRENT_FIELDS = (
    "mamba_d_state",
    "ssm_cfg",
    "state_size",
    "linear_conv_kernel_dim",
    "lru_width",
    "attention_hidden_size",
)


@dataclass(frozen=True)
class Generic:
    """The fallback: serves every `model_type` that no other family names."""

    model_types: tuple[str, ...] = ()
    undo_tokens: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: {
            "pop": ("<|BACKTRACK|>",),
            "pop_line": ("<|BACKTRACK_LINE|>",),
            "pop_all": ("<|RESET|>",),
        }
    )
    implied: frozenset[str] = frozenset({"<|BACKTRACK|>", "<|BACKTRACK_LINE|>", "<|RESET|>"})
    templates: Mapping[str, str] = field(default_factory=lambda: {"plain": PLAIN})
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    stand_in: StandIn = field(default_factory=lambda: StandIn(("<|endoftext|>",), "<|endoftext|>", None, PLAIN))

    def why_no_rewind(self, config: Any) -> str | None:
        if getattr(config, "is_encoder_decoder", False):
            return "an encoder-decoder has no prompt to rewind to"
        odd = sorted(set(getattr(config, "layer_types", None) or ()) - ATTENTION_LAYERS)
        if odd:
            return f"layers of type {', '.join(odd)} keep a running state that cannot be cut back"
        for name in RECURRENT_FIELDS:
            if getattr(config, name, None) is not None:
                return f"its layers keep a running state ({name} in its config) that cannot be cut back"
        return None
