"""Chat format: `messages` of {role: user | assistant | system, content: text}, one exchange per line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from unsay.datasets import one_exchange
from unsay.records import Example

_ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}


@dataclass(frozen=True)
class Messages:
    """The column that holds the messages."""

    task: ClassVar[str | None] = None
    messages: str = "messages"

    def example(self, line: Mapping[str, Any], id: str) -> Example:
        turns = line.get(self.messages)
        return Example(id, *one_exchange(turns, id, role="role", content="content", names=_ROLES))
