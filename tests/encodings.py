"""Small real tokenizers for tests of data on ids, and where real data for them may lie.

    answer = MERGED.answer("2+3 = <<2+3=5>>5.")
    MERGED.decode(answer.ids)

Ids 0 to 255 are bytes, then come the pieces of the tokenizer, longest match first; control tokens start at 1000.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from unsay.augment import Answer, Vocabulary
from unsay.undo import Action, UndoTable

POP, POP_2, LINE, RESET, END = 1000, 1001, 1002, 1003, 1004
ACTIONS = {POP: Action("pop"), POP_2: Action("pop", 2), LINE: Action("pop_line"), RESET: Action("pop_all")}
NAMES = {POP: "<|BACKTRACK|>", POP_2: "<|BACKTRACK_2|>", LINE: "<|BACKTRACK_LINE|>", RESET: "<|RESET|>"}


class Encoding:
    """Longest match over some pieces, bytes elsewhere: every text has ids, and ids split text in odd places."""

    def __init__(self, name: str, *pieces: str) -> None:
        self.name = name
        self.pieces = {piece: 256 + index for index, piece in enumerate(pieces)}
        self.texts = {id: piece.encode() for piece, id in self.pieces.items()}
        self.by_length = sorted(self.pieces, key=len, reverse=True)
        self.newline_ids = frozenset({10, *(id for piece, id in self.pieces.items() if "\n" in piece)})

    def __repr__(self) -> str:
        return self.name

    def answer(self, text: str) -> Answer:
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        place = 0
        while place < len(text):
            piece = next((piece for piece in self.by_length if text.startswith(piece, place)), None)
            if piece is not None:
                ids.append(self.pieces[piece])
                offsets.append((place, place + len(piece)))
                place += len(piece)
                continue
            for byte in text[place].encode():
                ids.append(byte)
                offsets.append((place, place + 1))
            place += 1
        return Answer(tuple(ids), tuple(offsets), text)

    def encode(self, text: str) -> tuple[int, ...]:
        return self.answer(text).ids

    def decode(self, ids: Any) -> str:
        return b"".join(self.texts.get(id, bytes([id]) if id < 256 else b"") for id in ids).decode(errors="replace")

    def table(self, *controls: int) -> UndoTable:
        controls = controls or tuple(ACTIONS)
        return UndoTable({id: ACTIONS[id] for id in controls}, {id: NAMES[id] for id in controls}, self.newline_ids)

    def vocabulary(self, *controls: int) -> Vocabulary:
        return Vocabulary(self.table(*controls), [*range(256), *self.texts], self.encode)


BYTES = Encoding("bytes")
MERGED = Encoding(
    "merged", "<<", ">>", ">>$", "=$<<", ".\n", " = ", "10", "12", "24", "48", "72", "=7", " clips", "\n\n"
)
# Pieces that lie across the start of a line: no line can be replaced by itself.
CROSSING = Encoding("crossing", "\nN", "\nS", "\nT", "\n#### ", ">>2")
ENCODINGS = (BYTES, MERGED, CROSSING)

ANSWER = (
    "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\n"
    "Natalia sold 48+24 = <<48+24=72>>72 clips altogether in April and May.\n"
    "#### 72"
)
"""The first training answer of GSM8K."""


def gsm8k(split: str, limit: int | None = None) -> list[dict[str, str]]:
    """Return lines of GSM8K, or skip the test where the data is not at hand."""
    root = Path(os.environ.get("UNSAY_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")
    path = root / "gsm8k" / f"{split}.jsonl"
    if not path.is_file():
        pytest.skip(f"needs GSM8K: no {path}; set UNSAY_TEST_DATA to a folder that holds gsm8k/{split}.jsonl")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[:limit]]
