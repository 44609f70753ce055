"""ShareGPT format: `conversations` of {from: human | gpt | system, value: text}, one exchange per line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from unsay.datasets import one_exchange
from unsay.records import Example

_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


@dataclass(frozen=True)
class Sharegpt:
    """Column names, under LLaMA-Factory's keys."""

    task: ClassVar[str | None] = None
    messages: str = "conversations"
    role_tag: str = "from"
    content_tag: str = "value"

    def example(self, line: Mapping[str, Any], id: str) -> Example:
        turns = line.get(self.messages)
        return Example(id, *one_exchange(turns, id, role=self.role_tag, content=self.content_tag, names=_ROLES))
