"""One file per dataset format: how one line becomes a question and its gold answer.

The contract: a module `datasets/<name>.py` holds one frozen dataclass whose fields are the column names (a user's
`columns:` overrides them), with

    task: ClassVar[str | None]     the lm-eval task that defines prompts and answer extraction; None asks the question
                                   as it stands
    example(line, id) -> Example   raises DataError when the line does not fit
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from unsay.errors import DataError
from unsay.records import Example


class DatasetFormat(Protocol):
    """What every module of this folder provides."""

    task: ClassVar[str | None]

    def example(self, line: Mapping[str, Any], id: str) -> Example:
        """Read one line; `id` names it in messages and training rows."""
        ...


def text(line: Mapping[str, Any], column: str, id: str) -> str:
    """Return a column that must hold non-empty text; raises DataError naming the columns found."""
    value = line.get(column)
    if not isinstance(value, str) or not value.strip():
        found = ", ".join(sorted(map(str, line))) or "none"
        got = "blank text" if isinstance(value, str) else type(value).__name__
        raise DataError(
            f"{id}: expected text in column {column!r}, got {got}; columns here: {found}. "
            "Name the right one under `columns:`."
        )
    return _whole(value, f"column {column!r}", id)


def one_exchange(messages: Any, id: str, *, role: str, content: str, names: Mapping[str, str]) -> tuple[str, str]:
    """Return (question, answer) of a conversation with one user turn and one assistant turn.

    A system message is put before the question. `names` maps the data's role names to system / user / assistant.
    """
    if not isinstance(messages, list) or not all(isinstance(message, Mapping) for message in messages):
        raise DataError(f"{id}: expected a list of messages, got {type(messages).__name__}.")
    contents = ["" if message.get(content) is None else message[content] for message in messages]
    for value in contents:
        if not isinstance(value, str):
            raise DataError(
                f"{id}: expected text as the content of every message, got {type(value).__name__}. "
                "Write what was said as one string."
            )
    said_by = [names.get(str(message.get(role))) for message in messages]
    turns = [(who, _whole(said, "the messages", id)) for who, said in zip(said_by, contents, strict=True)]
    system = [said for who, said in turns if who == "system" and said.strip()]
    rest = [(who, said) for who, said in turns if who != "system"]
    if [who for who, _ in rest] != ["user", "assistant"] or not all(said.strip() for _, said in rest):
        raise DataError(
            f"{id}: expected one user message and one assistant message, got {[m.get(role) for m in messages]}. "
            "Split longer conversations into single questions."
        )
    return "\n\n".join([*system, rest[0][1]]), rest[1][1]


def _whole(value: str, where: str, id: str) -> str:
    """Return the text unless it holds half a character (a lone surrogate), which no tokenizer and no file can take."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{id}: expected text in {where}, got half a character (\\u{ord(value[error.start]):04x}) at position "
            f"{error.start}. Write the whole character, or remove it."
        ) from None
    return value
