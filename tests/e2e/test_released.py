"""Results of every release keep reading as what they were, in every command, and are not touched by it."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from tests import released
from unsay import cli, loading
from unsay.records import SCHEMA
from unsay.store import layout, read

SCHEMAS = sorted(int(path.name.removeprefix("schema_")) for path in released.FOLDERS.iterdir())


def contents(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != layout.INDEX]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(params=SCHEMAS)
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return shutil.copytree(released.FOLDERS / f"schema_{request.param}", tmp_path / "lab")


def test_there_is_a_folder_of_every_schema() -> None:
    assert list(range(1, SCHEMA + 1)) == SCHEMAS


def test_everything_reads_as_it_did(lab: Path) -> None:
    expected = json.loads((lab / "expected.json").read_text())
    found = json.loads(json.dumps(released.summary(lab / "outputs")))
    assert sum(bool(each["answers"]) for each in expected.values()) == 2
    assert found == expected


def test_every_command_reads_it_and_changes_nothing(
    lab: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(lab)
    before = contents(lab / "outputs")
    folders = {entry.name: entry.folder for entry in read.find(lab / "outputs")}
    for command in (
        ["status"],
        ["status", "--json"],
        ["show", "EXP-001"],
        ["show", "EXP-003", "1"],
        ["show", "EXP-003", "--json"],
        ["compare", "EXP-001", "EXP-003", "--json"],
        ["report"],
        ["data", "inspect", str(folders["EXP-003"])],
    ):
        assert cli.main(command) == 0, (command, capsys.readouterr().err)
        assert capsys.readouterr().out or command == ["report"]
    assert contents(lab / "outputs") == before
    metrics = json.loads((lab / "expected.json").read_text())["EXP-001"]["metrics"]
    assert f"{metrics['bleu4_lf'][0]:.2f} ±" in (lab / layout.PAGE).read_text()


def test_what_was_trained_can_be_loaded(lab: Path) -> None:
    (entry,) = (entry for entry in read.find(lab / "outputs") if entry.name == "EXP-003")
    adapter = layout.train(entry.folder)
    file = loading.read_undo_file(adapter / layout.UNDO_TABLE)
    assert file.table.actions
    bundled = Path(loading.__file__).parent / "assets" / "unsay-tiny"
    model = loading.load_model(str(bundled), None, adapter, "cpu", "float32", merge=True)
    plain = loading.load_model(str(bundled), None, None, "cpu", "float32")
    same = [
        bool((one == other).all())
        for one, other in zip(model.state_dict().values(), plain.state_dict().values(), strict=True)
    ]
    assert not all(same), "the adapter changes nothing"
