"""Training rows as they lie below a result folder, read without a tokenizer.

rows.find(folder)                  # the folder that has `data/`
for row in rows.read(folder): ...
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unsay.errors import StoreError, UndoError
from unsay.records import Row
from unsay.store import layout
from unsay.store.schema import current
from unsay.undo import UndoTable


@dataclass(frozen=True)
class Pieces:
    """The display text of ids; of an id that is not there only its number is known."""

    texts: Mapping[int, str]
    table: UndoTable | None

    def of(self, id: int) -> str:
        return self.texts.get(id, f"<|id {id}|>")


def find(place: Path) -> Path:
    """Return the folder above `data/`, given that folder or `data/` itself; raise StoreError without rows there."""
    for folder in (place, place.parent):
        if (layout.data(folder) / layout.MANIFEST).is_file() and place in (folder, layout.data(folder)):
            return folder
    raise StoreError(f"there are no training rows in {place}; `unsay data build FILE ID` builds them without training")


def manifest(folder: Path) -> dict[str, Any]:
    return _document(layout.data(folder) / layout.MANIFEST)


def pieces(folder: Path) -> Pieces:
    """Return the text of the rows' ids; nothing is known of rows that an earlier release built."""
    path = layout.data(folder) / layout.PIECES
    if not path.exists():
        return Pieces({}, None)
    value = _document(path)
    texts, table = value.get("pieces"), value.get("undo_table")
    if not isinstance(texts, dict):
        raise StoreError(f"{path}: expected 'pieces', the text of every id, got none; build the data again")
    try:
        return Pieces({int(id): str(text) for id, text in texts.items()}, UndoTable.from_json(table) if table else None)
    except (UndoError, ValueError) as error:
        raise StoreError(f"{path}: {error}; build the data again") from error


def read(folder: Path) -> Iterator[Row]:
    """Yield the rows in file order; raise StoreError naming the line that is none."""
    path = layout.data(folder) / layout.ROWS
    for number, value in _lines(path):
        try:
            row = Row.from_json(value)
        except (KeyError, TypeError) as error:
            raise StoreError(f"{path}:{number}: expected a training row, got a line without {error}") from error
        if len(row.ids) != len(row.provenance):
            raise StoreError(
                f"{path}:{number}: expected one letter per token, got {len(row.provenance)} for {len(row.ids)}"
            )
        yield row


def refused(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield id, kind and reason of every row that was refused."""
    yield from (value for _, value in _lines(layout.data(folder) / layout.REFUSED))


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                value = json.loads(line)
                if not isinstance(value, dict):
                    raise StoreError(f"{path}:{number}: expected a JSON object, got {type(value).__name__}")
                yield number, current(value, path)
    except FileNotFoundError as error:
        raise StoreError(f"expected {path}, found no such file; build the data again") from error
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: cannot be read: {error}; build the data again") from error


def _document(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: cannot be read: {error}; build the data again") from error
    if not isinstance(value, dict) or "schema" not in value:
        raise StoreError(f"{path}: expected a JSON object with its schema; build the data again")
    return current(value, path)
