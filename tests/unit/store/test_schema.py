"""Documents of earlier releases are read as if this one had written them; those of newer ones are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.lab import ARMS, make, record_of
from unsay.errors import StoreError
from unsay.records import SCHEMA
from unsay.store import layout, read, schema, write


def test_steps_are_taken_one_after_another_and_only_for_their_format(tmp_path: Path) -> None:
    def rename(value: dict[str, Any]) -> dict[str, Any]:
        return {"name" if key == "title" else key: item for key, item in value.items()}

    def count(value: dict[str, Any]) -> dict[str, Any]:
        return value | {"letters": len(value["name"])}

    steps = {"experiment.json": {1: rename, 3: count}}
    path = tmp_path / "experiment.json"
    first = {"schema": 1, "title": "abc"}
    assert schema.current(first, path, steps=steps, newest=4) == {"schema": 4, "name": "abc", "letters": 3}
    assert first == {"schema": 1, "title": "abc"}, "what was read is left as it was"
    assert schema.current({"schema": 3, "name": "de"}, path, steps=steps, newest=4)["letters"] == 2
    assert schema.current(first, tmp_path / "metrics.json", steps=steps, newest=4) == {"schema": 4, "title": "abc"}
    assert schema.current({"title": "abc"}, path, steps=steps, newest=4) == {"title": "abc"}


@pytest.mark.parametrize("wrong", [0, -1, "1", 1.5, True, None])
def test_a_schema_that_never_was(tmp_path: Path, wrong: Any) -> None:
    with pytest.raises(StoreError, match="expected a schema from 1 to 4"):
        schema.current({"schema": wrong}, tmp_path / "a.json", newest=4)


def test_every_format_goes_through_the_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Journals line by line: a file that was begun by one release and gone on with by the next holds both."""
    folder = make(tmp_path, ARMS[0])
    seen: list[str] = []

    def note(value: dict[str, Any], path: Path) -> dict[str, Any]:
        seen.append(path.name)
        return value

    monkeypatch.setattr(schema, "current", note)
    assert read.record(folder) is not None
    assert read.metrics(folder)
    for lines in (read.traces(folder), read.prompts(folder), read.scores(folder)):
        assert list(lines)
    assert set(seen) == {layout.EXPERIMENT, layout.METRICS, layout.TRACES, layout.PROMPTS, layout.SCORES}
    assert seen.count(layout.TRACES) == 2


def test_a_newer_journal_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / layout.TRACES
    with write.Journal(path) as journal:
        journal.append({"schema": SCHEMA + 1, "key": ["t", 0, 0, 0]})
    content = path.read_bytes()
    with pytest.raises(StoreError, match=r"traces.jsonl was written by a newer unsay \(schema \d+, .*pip install -U"):
        list(read.traces(tmp_path))
    assert path.read_bytes() == content


def test_a_record_keeps_its_file_until_its_experiment_goes_on(tmp_path: Path) -> None:
    path = tmp_path / layout.EXPERIMENT
    path.write_text(json.dumps(record_of(ARMS[0]).to_json() | {"schema": SCHEMA}))
    content = path.read_bytes()
    assert read.record(tmp_path) == record_of(ARMS[0])
    assert path.read_bytes() == content
