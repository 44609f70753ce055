"""What every file of `unsay.datasets` promises, run against each file found."""

from __future__ import annotations

import dataclasses
import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from unsay import catalog, definitions
from unsay.errors import DataError, UnsayError
from unsay.records import Example

NAMES = catalog.names("datasets")
GENERATED = definitions.generated()
FORMATS = tuple(name for name in NAMES if name not in GENERATED)
HEAVY = ("torch", "transformers", "lm_eval", "datasets", "pandas")

# One good line per format; a new format adds one here.
LINES: dict[str, dict[str, Any]] = {
    "gsm8k": {"question": "1+1?", "answer": "2"},
    "alpaca": {"instruction": "1+1?", "output": "2"},
    "sharegpt": {"conversations": [{"from": "human", "value": "1+1?"}, {"from": "gpt", "value": "2"}]},
    "messages": {"messages": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]},
    "prompt_completion": {"prompt": "1+1?", "completion": "2"},
}


def test_the_files_were_found() -> None:
    assert len(FORMATS) >= 5
    assert len(GENERATED) >= 1
    assert set(LINES) == set(FORMATS)


@pytest.mark.parametrize("name", NAMES)
def test_every_file_says_in_a_line_what_it_is(name: str) -> None:
    summary = catalog.summary("datasets", name)
    assert len(summary) > 10
    assert not summary.endswith(":")


@pytest.mark.parametrize("name", FORMATS)
class TestFormat:
    def test_it_is_one_frozen_dataclass_of_column_names(self, name: str) -> None:
        plugin: Any = catalog.plugin("datasets", name)
        made = plugin()
        assert all(isinstance(getattr(made, field.name), str) for field in dataclasses.fields(plugin))
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(made, dataclasses.fields(plugin)[0].name, "x")
        assert plugin.task is None or isinstance(plugin.task, str)
        assert list(inspect.signature(plugin.example).parameters) == ["self", "line", "id"]

    def test_it_reads_its_line(self, name: str) -> None:
        read = catalog.plugin("datasets", name)().example(LINES[name], "d/train/0")
        assert read == Example("d/train/0", "1+1?", "2")

    def test_it_leaves_the_line_alone(self, name: str) -> None:
        before = json.dumps(LINES[name])
        catalog.plugin("datasets", name)().example(LINES[name], "d/train/0")
        assert json.dumps(LINES[name]) == before

    @pytest.mark.parametrize("value", [None, 0, "", [], {}, [None], {"role": None}, True], ids=repr)
    def test_it_refuses_what_is_no_text_with_the_name_of_the_line(self, name: str, value: object) -> None:
        for column in LINES[name]:
            with pytest.raises(DataError, match=r"^d/train/0: "):
                catalog.plugin("datasets", name)().example({**LINES[name], column: value}, "d/train/0")
        with pytest.raises(DataError, match=r"^d/train/0: "):
            catalog.plugin("datasets", name)().example({}, "d/train/0")

    def test_columns_can_be_renamed(self, name: str) -> None:
        plugin: Any = catalog.plugin("datasets", name)
        columns = {field.name: f"my {field.name}" for field in dataclasses.fields(plugin)}
        renamed = {f"my {field.name}": LINES[name].get(field.default) for field in dataclasses.fields(plugin)}
        if name == "sharegpt":  # its other columns are inside the messages
            for inner in ("role_tag", "content_tag"):
                columns[inner] = next(field.default for field in dataclasses.fields(plugin) if field.name == inner)
        assert plugin(**columns).example(renamed, "d/train/0") == Example("d/train/0", "1+1?", "2")


@pytest.mark.parametrize("name", GENERATED)
def test_a_generated_dataset_writes_splits_that_share_nothing(name: str, tmp_path: Path) -> None:
    module: Any = catalog.load("datasets", name)
    sizes = {"train": 30, "dev": 8, "test": 20}
    module.write(tmp_path, **sizes)
    reader = catalog.plugin("datasets", "gsm8k")()
    seen: set[str] = set()
    for split, size in sizes.items():
        lines = [json.loads(line) for line in (tmp_path / f"{split}.jsonl").read_text().splitlines()]
        questions = {reader.example(line, f"{name}/{split}").question for line in lines}
        assert len(questions) == size
        assert not questions & seen
        seen |= questions
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    module.write(tmp_path, **sizes)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_none_imports_anything_heavy() -> None:
    code = (
        f"import sys; from unsay import catalog; [catalog.load('datasets', name) for name in {NAMES!r}]; "
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


def test_an_unknown_format_names_the_nearest() -> None:
    with pytest.raises(UnsayError, match="did you mean 'sharegpt'"):
        catalog.plugin("datasets", "sharegpd")
