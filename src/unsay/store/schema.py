"""What earlier releases wrote is read as if this one had written it: one step from each schema to the next.

Whoever raises `unsay.records.SCHEMA` adds a step for every format that changed, and a folder of results to the tests.
Nothing on disk changes by being read; a file is written in today's schema when its experiment goes on.

    value = current(json.loads(path.read_bytes()), path)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from unsay.errors import StoreError
from unsay.records import SCHEMA

Step = Callable[[dict[str, Any]], dict[str, Any]]

STEPS: Mapping[str, Mapping[int, Step]] = {}
"""By file name: what makes a document or a line of one schema into one of the next; without a step nothing changed."""


def current(
    value: dict[str, Any], path: Path, *, steps: Mapping[str, Mapping[int, Step]] = STEPS, newest: int = SCHEMA
) -> dict[str, Any]:
    """Return a document in today's schema; raise StoreError for one of a newer release.

    One that does not say its schema counts as today's: whoever reads it finds out what is missing.
    """
    schema = value.get("schema", newest)
    if schema == newest:
        return value
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        raise StoreError(
            f"{path}: expected a schema from 1 to {newest}, got {schema!r}; it was left as it is. "
            "Repair it or move it away."
        )
    if schema > newest:
        raise StoreError(
            f"{path} was written by a newer unsay (schema {schema}, this one reads up to {newest}). "
            "Update with `pip install -U unsay`."
        )
    known = steps.get(path.name, {})
    for older in range(schema, newest):
        value = known.get(older, dict)(value)
    return value | {"schema": newest}
