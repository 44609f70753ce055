"""GSM8K grade-school word problems: `question`, `answer` ending in `#### N` (openai/gsm8k, MIT)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from unsay.datasets import text
from unsay.records import Example


@dataclass(frozen=True)
class Gsm8k:
    """Column names of a GSM8K-format file."""

    task: ClassVar[str | None] = "gsm8k"
    question: str = "question"
    answer: str = "answer"

    def example(self, line: Mapping[str, Any], id: str) -> Example:
        return Example(id, text(line, self.question, id), text(line, self.answer, id))
