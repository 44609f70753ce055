"""Answers generated again alone: as many agree as are the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.openai_server import serve
from tests.tiny import tiny_model
from tests.unit.engine.test_engine import load, options, prompts
from unsay import cli, engine
from unsay.evaluate.batch_check import check_batch, evenly
from unsay.records import Key, Trace
from unsay.settings import Decode
from unsay.store import read


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load(tiny_model(tmp_path_factory.mktemp("model"), "qwen3"))


def test_what_differs_is_named(model: Any, tmp_path: Path) -> None:
    chosen = options(Decode(max_new_tokens=8), batch_size=4)
    requests = [engine.Request(Key("t", at), prompt) for at, prompt in enumerate(prompts(model))]
    traces = {
        answer.request.key: cast(Trace, SimpleNamespace(ids=answer.ids))
        for answer in engine.generate(model, requests, chosen)
    }
    assert check_batch(model, evenly(requests, 4), chosen, traces) == {"items": 4, "agree": 4, "differ": []}
    changed = traces[Key("t", 3)].ids
    traces[Key("t", 3)] = cast(Trace, SimpleNamespace(ids=(*changed[:5], changed[5] + 1, *changed[6:])))
    traces[Key("t", 6)] = cast(Trace, SimpleNamespace(ids=traces[Key("t", 6)].ids[:-1]))
    found = check_batch(model, evenly(requests, 100), replace(chosen, slots=2), traces)
    assert found == {"items": 7, "agree": 5, "differ": [{"doc_id": 3, "token": 5}, {"doc_id": 6, "token": 7}]}


def lab(folder: Path, model: Path, url: str) -> Path:
    (folder / "data").mkdir()
    for split, count in (("train", 1), ("test", 5)):
        rows = [{"question": f"{n} + {n}?", "answer": f"#### {n + n}"} for n in range(count)]
        (folder / "data" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    served = {"path": str(model), "backend": {"server": url}}
    line = {"model": "plain", "dataset": "own", "method": "vanilla", "config": "fewshot_0"}
    document = {
        "models": {"plain": {"path": str(model)}, "served": served},
        "datasets": {"own": {"path": "./data"}},
        "experiments": [line | {"decode": {"max_new_tokens": 6}}],
    }
    (folder / "lab.yaml").write_text(json.dumps(document))
    return folder / "lab.yaml"


def run(file: Path, *arguments: str) -> int:
    where = ("--output-dir", str(file.parent / "outputs"), "--device", "cpu", "--executor", "inline")
    return cli.main(["run", str(file), *where, *arguments])


@pytest.mark.parametrize("other", [False, True])
def test_another_backend_generates_them_too(tmp_path: Path, other: bool) -> None:
    """A server with the same weights writes the same answers; one with other weights is found out."""
    mine = tiny_model(tmp_path / "mine", "qwen3")
    theirs = tiny_model(tmp_path / "theirs", "qwen3", hidden=128) if other else mine
    with serve(load(theirs)) as server:
        assert run(lab(tmp_path, mine, server.url), "--check-batch", "3", "--check-with", "served") == 0
    (entry,) = read.find(tmp_path / "outputs")
    assert entry.record is not None
    found = entry.record.facts["batch_check"]
    assert (found["items"], found["agree"]) == (3, 3)
    assert found["with"]["backend"]["url"] == server.url
    assert found["with"]["items"] == 3
    assert (found["with"]["agree"] < 3) == other
    assert any("differently from the server backend" in each for each in entry.record.warnings) == other
    assert entry.record.facts["engine"]["engine"] == "slots"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--check-batch", "2", "--check-with", "plain"), "expected a model with a `backend:`, got plain"),
        (("--check-with", "served"), "say how many"),
        (("--check-batch", "2", "--check-with", "nobody"), "nobody"),
    ],
)
def test_who_cannot_generate_them_is_told_first(
    tmp_path: Path, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = lab(tmp_path, tiny_model(tmp_path / "mine", "qwen3"), "http://127.0.0.1:9/v1")
    assert run(file, *arguments) != 0
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "outputs").exists()
