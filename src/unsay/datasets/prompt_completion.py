"""Prompt / completion format: `prompt` and `completion` as text or as one-message lists (TRL's two shapes)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from unsay.datasets import one_exchange, text
from unsay.records import Example

_ROLES = {"user": "user", "assistant": "assistant", "system": "system"}


@dataclass(frozen=True)
class PromptCompletion:
    """Column names."""

    task: ClassVar[str | None] = None
    prompt: str = "prompt"
    completion: str = "completion"

    def example(self, line: Mapping[str, Any], id: str) -> Example:
        prompt, completion = line.get(self.prompt), line.get(self.completion)
        if isinstance(prompt, list) and isinstance(completion, list):
            return Example(id, *one_exchange(prompt + completion, id, role="role", content="content", names=_ROLES))
        return Example(id, text(line, self.prompt, id), text(line, self.completion, id))
