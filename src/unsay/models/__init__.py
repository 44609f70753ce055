"""Model families: one file each, found by name; there is no list to extend.

Each file holds one frozen dataclass with these members (see `Family`):

    model_types       the Hugging Face `model_type`s it serves; the family without any serves all others
    undo_tokens       per action ("pop", "pop_line", "pop_all") the control tokens to use, best first
    implied           those of them whose very presence in a vocabulary means undo (a reserved token means nothing)
    templates         chat templates it owns, as Jinja text, by LLaMA-Factory's name
    why_no_rewind()   None where a key/value cache can forget its newest tokens, else the reason why it cannot

A family file imports nothing heavy and knows no tokenizer: `unsay.loading` gives the tokens their ids.

    models.family_of("qwen3").undo_tokens["pop"]        # ("<|BACKTRACK|>",)
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Protocol

from unsay import catalog
from unsay.errors import ModelError


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
