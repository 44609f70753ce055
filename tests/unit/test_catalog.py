"""Plug-ins are found by file name, described without import, and imported when used."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from unsay import catalog
from unsay.errors import ConfigError, UnsayError

FOLDERS = ("augment", "datasets", "executors", "methods", "metrics", "models")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return an empty plug-in folder `shapes` that catalog takes for one of unsay's."""
    folder = tmp_path / "shapes"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    monkeypatch.setattr(catalog, "_PACKAGE", tmp_path)
    monkeypatch.setattr("unsay.__path__", [str(tmp_path)])
    yield folder
    for name in [name for name in sys.modules if name.startswith("unsay.shapes")]:
        del sys.modules[name]


def test_every_folder_has_names() -> None:
    for folder in FOLDERS:
        found = catalog.names(folder)
        assert found
        assert list(found) == sorted(found)
        assert not any(name.startswith("_") for name in found)


def test_every_plugin_says_what_it_is() -> None:
    described = [catalog.summary(folder, name) for folder in FOLDERS for name in catalog.names(folder)]
    assert len(described) > 10
    assert all(described)


def test_listing_imports_nothing() -> None:
    code = (
        "import sys; from unsay import catalog\n"
        f"for folder in {FOLDERS!r}:\n"
        "    for name in catalog.names(folder): catalog.summary(folder, name)\n"
        f"print([name for name in sys.modules if name.startswith({tuple(f'unsay.{f}' for f in FOLDERS)!r})])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


def test_unknown_name_suggests_the_nearest_and_lists_all() -> None:
    with pytest.raises(ConfigError) as raised:
        catalog.load("augment", "random_token")
    message = str(raised.value)
    assert "did you mean 'random_tokens'?" in message
    assert all(name in message for name in catalog.names("augment"))


def test_unknown_folder_has_no_names() -> None:
    assert catalog.names("no_such_folder") == ()
    assert catalog.names("../etc") == ()


def test_plugin_is_the_one_public_dataclass(package: Path) -> None:
    (package / "square.py").write_text(
        '"""Four equal sides.\n\nMore."""\nfrom dataclasses import dataclass, field\n'
        "@dataclass(frozen=True)\nclass _Corner:\n    x: int = 0\n"
        "@dataclass(frozen=True)\nclass Square:\n    side: float = 1.0\n"
    )
    (package / "_hidden.py").write_text("raise RuntimeError('imported')")
    (package / "round.py").write_text("x = 1\n")
    (package / "two.py").write_text(
        "from dataclasses import dataclass\n@dataclass\nclass A: pass\n@dataclass\nclass B: pass\n"
    )
    assert catalog.names("shapes") == ("round", "square", "two")
    assert catalog.summary("shapes", "square") == "Four equal sides."
    assert catalog.summary("shapes", "round") == ""
    square = catalog.plugin("shapes", "square")
    assert [item.name for item in dataclasses.fields(square)] == ["side"]
    with pytest.raises(UnsayError, match=r"exactly one public dataclass.*holds none"):
        catalog.plugin("shapes", "round")
    with pytest.raises(UnsayError, match="holds A, B"):
        catalog.plugin("shapes", "two")


def test_a_file_that_does_not_parse_is_still_listed(package: Path) -> None:
    (package / "broken.py").write_text("def (:\n")
    assert catalog.names("shapes") == ("broken",)
    assert "cannot be read" in catalog.summary("shapes", "broken")


def test_entry_points_add_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "__init__.py").write_text("raise RuntimeError('imported by looking')")
    (tmp_path / "elsewhere" / "doubling.py").write_text('"""Says everything twice."""\n')
    monkeypatch.syspath_prepend(tmp_path)
    point = importlib.metadata.EntryPoint("doubling", "elsewhere.doubling", "unsay.augment")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [point] if group == "unsay.augment" else [])
    assert "doubling" in catalog.names("augment")
    assert catalog.summary("augment", "doubling") == "Says everything twice."
    with pytest.raises(RuntimeError, match="imported by looking"):
        catalog.load("augment", "doubling")


def test_nearest_ignores_case_and_gives_up_on_the_far() -> None:
    assert catalog.nearest("LEARNING_RATE", ["learning_rate", "lora_rank"]) == "learning_rate"
    assert catalog.nearest("xyz", ["learning_rate"]) is None
