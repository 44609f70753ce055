"""`unsay show`: prompts, counts, and single items, of our own runs and of imported ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.lab import ARMS, make
from unsay import cli
from unsay.prompt_checks import PromptFacts, check
from unsay.records import ItemScores
from unsay.store import layout, read, write


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of EXP-001, in a lab that the commands look into."""
    monkeypatch.chdir(tmp_path)
    return make(tmp_path / "outputs", ARMS[0])


@pytest.fixture
def imported(folder: Path) -> Path:
    """Turn EXP-001 into what an import leaves: no samples, traces or prompts, but every item's line and scores."""
    found = read.record(folder)
    assert found is not None
    for name in (layout.TRACES, layout.PROMPTS, found.files["samples"]):
        (folder / name).unlink()
    items = [("16", "Sixteen?", "a\x1b[2J", 100.0), ("3", "", "b", 0.0)]
    write.write_bytes(
        folder / layout.PREDICTIONS,
        b"".join(write.json_line({"prompt": text, "predict": answer, "label": "gold"}) for _, text, answer, _ in items),
    )
    scores = [ItemScores(item, None, "l", {"exact_match_strict": right}) for item, _, _, right in items]
    write.write_bytes(folder / layout.SCORES, b"".join(write.json_line(line.to_json()) for line in scores))
    facts = {"prompt_0": "Sixteen?\x1b[2J"}
    record = replace(found, files={"predictions": layout.PREDICTIONS}, facts=facts, imported={"tool": "lm-eval"})
    write.write_json(folder / layout.EXPERIMENT, record.to_json())
    return folder


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(["show", "EXP-001", *arguments]) == 0
    return capsys.readouterr().out


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    return dict(json.loads(shown(capsys, *arguments, "--json")))


def test_the_first_prompt_and_the_counts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = read.record(folder)
    assert found is not None
    report = check([PromptFacts(finish_reason="length", cut=0)])
    write.write_json(folder / layout.EXPERIMENT, replace(found, facts={"prompts": report.to_json()}).to_json())
    out = shown(capsys)
    assert "prompts    1 of 1 answers cut; 0 of 1 prompts cut; begun twice unknown (" in out
    assert "prompt 0 (11 characters, 1 ids)\nQuestion 0?\n\nprompt 0, ids\n1\n" in out
    value = document(capsys)
    assert value["prompt_0"] == {"text": "Question 0?", "ids": [1], "cut": 0}
    assert value["facts"]["prompts"]["answers_cut"] == {"count": 1, "of": 1}


def test_an_item_has_its_prompts_ids(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    value = document(capsys, "1")
    assert (value["prompt"], value["prompt_ids"], value["prompt_cut"]) == ("Question 1?", [1], 0)


def test_of_an_import_the_first_prompt_has_no_ids(imported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys)
    assert "prompt 0 (12 characters, ids unknown)\nSixteen?␛[2J" in out
    assert document(capsys)["prompt_0"] == {"text": "Sixteen?\x1b[2J", "ids": None, "cut": 0}


def test_an_imported_item_is_found_by_its_own_number(imported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, "16")
    for text in ("Sixteen?", "gold answer\ngold", "answer (no trace was recorded)\na␛[2J", "exact_match_strict: 100"):
        assert text in out
    assert "\x1b" not in out
    value = document(capsys, "3")
    assert {key: value[key] for key in ("prompt", "prompt_ids", "gold", "visible", "scores", "tokens")} == {
        "prompt": None, "prompt_ids": None, "gold": "gold", "visible": "b", "scores": {"exact_match_strict": 0.0},
        "tokens": [],
    }  # fmt: skip


def test_an_imported_item_that_is_not_there(imported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["show", "EXP-001", "0"]) == 1
    assert "EXP-001 has no answer to item 0; it has items 3 to 16." in capsys.readouterr().err
    (imported / layout.SCORES).unlink()
    assert shown(capsys, "1").startswith("EXP-001, item 1\n")  # by its place, then
    (imported / layout.PREDICTIONS).unlink()
    assert cli.main(["show", "EXP-001", "0"]) == 1
    assert "its files hold no answers" in capsys.readouterr().err


def test_every_number_lm_eval_gave_an_item_is_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scored = {"doc_id": 0, "doc": {"answer": "5"}, "filter": "none", "metrics": ["exact_match", "math_verify", "pair"]}
    scored |= {"exact_match": 0, "math_verify": 1, "pair": ["5", "6"], "target": "5"}
    found = read.record(folder)
    assert found is not None
    write.write_bytes(folder / found.files["samples"], write.json_line(scored))
    assert document(capsys, "0")["scores"] == {"exact_match (none)": 0.0, "math_verify (none)": 1.0}
