"""How answers are generated, whatever generates them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from unsay.records import Key
from unsay.settings import Decode
from unsay.undo import UndoTable


@dataclass(frozen=True)
class Event:
    """What has just happened to one answer, named by its request's key.

    `emit`: the token `id` survives for now. `retract`: the control token `id` took the newest `count` survivors back,
    none in an underflow. `commit`: nothing can take back the first `count` survivors any more. An end token is no
    survivor: only the commit after it is told.
    """

    key: Key
    kind: Literal["emit", "retract", "commit"]
    id: int | None = None
    count: int = 0


Observer = Callable[[Event], None]
"""Called while answers are written, as each token is chosen; what it raises ends the generation."""


@dataclass(frozen=True)
class Options:
    """How to generate. `text_of` decodes survivors; the rest changes speed and memory, not the meaning."""

    decode: Decode
    table: UndoTable
    end_ids: frozenset[int]
    text_of: Callable[[Sequence[int]], str]
    pad_id: int = 0
    slots: int | None = None
    """Answers written at a time; None: what suits the device and fits into its memory."""
    chunk: int = 1024
    """Prompt tokens read in one step, beside the answers being written."""
    observe: Observer | None = None
    """Told of every token and of every retraction as it happens."""

    def __post_init__(self) -> None:
        if self.chunk < 1 or (self.slots is not None and self.slots < 1):
            raise ValueError(f"expected at least one slot and one token, got slots {self.slots}, chunk {self.chunk}")
