"""Alpaca format: `instruction`, optional `input`, `output` (and optional `system`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from unsay.datasets import text
from unsay.errors import DataError
from unsay.records import Example


@dataclass(frozen=True)
class Alpaca:
    """Column names, under LLaMA-Factory's keys."""

    task: ClassVar[str | None] = None
    prompt: str = "instruction"
    query: str = "input"
    response: str = "output"
    system: str = "system"
    history: str = "history"

    def example(self, line: Mapping[str, Any], id: str) -> Example:
        if line.get(self.history):
            raise DataError(
                f"{id}: expected one question, got a conversation in {self.history!r}. Split it into lines."
            )
        parts = [str(line.get(self.system) or ""), text(line, self.prompt, id), str(line.get(self.query) or "")]
        return Example(id, "\n".join(part for part in parts if part), text(line, self.response, id))
