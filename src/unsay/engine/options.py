"""How answers are generated, whatever generates them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from unsay.settings import Decode
from unsay.undo import UndoTable


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
