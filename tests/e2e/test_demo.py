"""The demo as a new user runs it, and the built-in fine-tuning configs on real questions."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from unsay import cli
from unsay.data.build import load_manifest
from unsay.store import layout, read

pytestmark = pytest.mark.slow


def on_disk(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_demo_runs_once_and_then_has_nothing_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["demo"]) == 0
    shown = capsys.readouterr().out
    entries = read.find(tmp_path / "outputs")
    assert [entry.name for entry in entries] == [f"EXP-00{number}" for number in range(1, 9)]
    for entry in entries:
        assert entry.record is not None
        assert entry.record.status == "completed"
        values = read.metrics(entry.folder)
        assert f"{values['exact_match_strict'].value:.2f} ± " in shown
        assert values["undo_left"].value == 0
        for name in entry.record.files.values():
            assert (entry.folder / name).stat().st_size > 0
    assert "beyond chance" in shown
    assert (tmp_path / layout.PAGE).is_file()
    undone = read.metrics(entries[2].folder)["undo_answers"].value
    assert undone is not None
    assert undone > 0, "the model trained with undo never takes anything back"
    banned, planted = (read.metrics(entries[at].folder) for at in (6, 7))
    assert banned["planted_detection"].value == 0
    assert planted["planted_exact"].n == 600
    assert f"{planted['exact_match_strict'].value:.2f} ± " in shown
    assert planted["exact_match_strict"].value > banned["exact_match_strict"].value

    before = on_disk(tmp_path)
    assert cli.main(["demo"]) == 0
    assert on_disk(tmp_path) == before


def test_fine_tuning_on_real_questions(tmp_path: Path, gsm8k: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {"model": "unsay-tiny", "dataset": "gsm8k", "method": "sft", "max_samples": 64, "max_steps": 4}
    document = {
        "datasets": {"gsm8k": {"path": str(gsm8k)}},
        "experiments": [rows | {"config": config} for config in ("lora/train", "lora/train_bt")],
    }
    (tmp_path / "gsm8k.yaml").write_text(json.dumps(document))
    output_dir = tmp_path / "outputs"
    arguments = ["run", str(tmp_path / "gsm8k.yaml"), "--output-dir", str(output_dir), "--limit", "8"]
    assert cli.main(arguments) == 0, capsys.readouterr().err
    limited = [entry for entry in read.find(output_dir) if entry.limit is not None]
    assert len(limited) == 2
    for entry in limited:
        assert entry.record is not None
        assert entry.record.status == "completed"
        assert entry.record.facts["training"]["gate"]
        manifest = load_manifest(entry.folder.parent)
        assert (manifest.rows, manifest.refused) == (63, 1)  # one shares thirteen words in a row with a test question
        assert read.metrics(entry.folder)["exact_match_strict"].n == 8
    assert load_manifest(limited[1].folder.parent).rows_with_undo > 32
