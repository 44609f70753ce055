"""Model families: one file each, found by name; there is no list to extend.

Each file holds one frozen dataclass with these members (see `Family`):

    model_types       the Hugging Face `model_type`s it serves; the family without any serves all others
    undo_tokens       per action ("pop", "pop_line", "pop_all") the control tokens to use, best first
    implied           those of them whose very presence in a vocabulary means undo (a reserved token means nothing)
    templates         chat templates it owns, as Jinja text, by LLaMA-Factory's name
    why_no_rewind()   None where a key/value cache can forget its newest tokens, else the reason why it cannot
    shapes            what well-known models of it look like, by hub id
    stand_in          what a tokenizer needs to stand in for theirs in a rehearsal

A family file imports nothing heavy and knows no tokenizer: `unsay.loading` gives the tokens their ids.

    models.family_of("qwen3").undo_tokens["pop"]        # ("<|BACKTRACK|>",)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

from unsay import catalog
from unsay.errors import ModelError


@dataclass(frozen=True)
class Shape:
    """What a decoder looks like from outside: enough to count its weights, its cache and its work."""

    model_type: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    """Rows of the embedding."""
    tied: bool
    """Whether the output layer is the embedding."""
    max_length: int
    qk_norm: bool = False
    qkv_bias: bool = False


@dataclass(frozen=True)
class StandIn:
    """Special tokens and a chat template for another tokenizer, so that it can take the place of the family's.

    The template is of our own wording: it has the parts and about the length of the models' own.
    """

    specials: tuple[str, ...]
    end: str
    begin: str | None
    """Written before every text, where the family does that."""
    template: str


class Family(Protocol):
    """What `unsay` asks of a model family."""

    @property
    def model_types(self) -> tuple[str, ...]: ...

    @property
    def undo_tokens(self) -> Mapping[str, tuple[str, ...]]: ...

    @property
    def implied(self) -> frozenset[str]: ...

    @property
    def templates(self) -> Mapping[str, str]: ...

    @property
    def shapes(self) -> Mapping[str, Shape]: ...

    @property
    def stand_in(self) -> StandIn: ...

    def why_no_rewind(self, config: Any) -> str | None:
        """Say why a cache of a model with this transformers config cannot be cut back; None where it can."""
        ...


@cache
def families() -> Mapping[str, Family]:
    """Return every family by file name."""
    return {name: catalog.plugin("models", name)() for name in catalog.names("models")}


def family_of(model_type: str) -> Family:
    """Return the family that serves a Hugging Face `model_type`; the generic one where no other does."""
    for family in families().values():
        if model_type in family.model_types:
            return family
    return next(family for family in families().values() if not family.model_types)


def known_shape(path: str) -> Shape | None:
    """Return the shape of a model by its hub id; None for one that no family file describes."""
    return next((family.shapes[path] for family in families().values() if path in family.shapes), None)


def shape_of(config: Mapping[str, Any]) -> Shape | None:
    """Return the shape a model's config.json describes; None where it is not a plain decoder with gated blocks."""
    config = {**config, **(config.get("text_config") or {})}
    if any(config.get(name) for name in ("num_experts", "num_local_experts", "n_routed_experts", "is_encoder_decoder")):
        return None
    try:
        heads = int(config["num_attention_heads"])
        return Shape(
            model_type=str(config["model_type"]),
            layers=int(config["num_hidden_layers"]),
            hidden=int(config["hidden_size"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or int(config["hidden_size"]) // heads),
            intermediate=int(config["intermediate_size"]),
            vocabulary=int(config["vocab_size"]),
            tied=bool(config.get("tie_word_embeddings", False)),
            max_length=int(config.get("max_position_embeddings") or 2**31),
            qk_norm=str(config["model_type"]).startswith("qwen3"),
            qkv_bias=str(config["model_type"]).startswith("qwen2"),
        )
    except (KeyError, TypeError, ValueError):
        return None


def template_names() -> tuple[str, ...]:
    return tuple(sorted(name for family in families().values() for name in family.templates))


def named_template(name: str) -> str:
    """Return the Jinja text of a built-in chat template."""
    for family in families().values():
        if name in family.templates:
            return family.templates[name]
    raise ModelError(
        f"template: expected one of {', '.join(template_names())} or the path of a .jinja file, got {name!r}; "
        "write one of these names, or leave it out to use the model's own template"
    )
