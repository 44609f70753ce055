"""Answers generated again alone: as many agree as are the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.tiny import tiny_model
from tests.unit.engine.test_engine import load, options, prompts
from unsay import engine
from unsay.evaluate.batch_check import check_batch
from unsay.records import Key, Trace
from unsay.settings import Decode


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
    assert check_batch(model, requests, chosen, traces, 4) == {"items": 4, "agree": 4, "differ": []}
    changed = traces[Key("t", 3)].ids
    traces[Key("t", 3)] = cast(Trace, SimpleNamespace(ids=(*changed[:5], changed[5] + 1, *changed[6:])))
    traces[Key("t", 6)] = cast(Trace, SimpleNamespace(ids=traces[Key("t", 6)].ids[:-1]))
    found = check_batch(model, requests, replace(chosen, slots=2), traces, 100)
    assert found == {"items": 7, "agree": 5, "differ": [{"doc_id": 3, "token": 5}, {"doc_id": 6, "token": 7}]}
