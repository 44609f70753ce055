"""Everything that generates gives the same answers: the local engine, a small server, and vLLM (with the slow tests).

Set UNSAY_VLLM_PYTHON to the Python of an environment that has vLLM (docs/servers.md) for the last one.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.openai_server import serve
from tests.tiny import CONTROLS, tiny_model
from unsay import engine
from unsay.backend import Backend
from unsay.config import Model
from unsay.engine.connection import Connection
from unsay.engine.server import ServerEngine
from unsay.evaluate.serving import engine_of
from unsay.evaluate.setup import Opened, open_model
from unsay.records import Key
from unsay.settings import Decode
from unsay.undo import Action, UndoTable

Make = Callable[[engine.Options], Any]

PROMPTS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Heads of 32: vLLM's attention on processors takes no smaller ones.
    return tiny_model(tmp_path_factory.mktemp("served"), tie=False, hidden=128, controls=CONTROLS)


@pytest.fixture(scope="module")
def opened(folder: Path) -> Opened:
    return open_model(Model("tiny", str(folder)), device="cpu")


@pytest.fixture(scope="module")
def local(opened: Opened) -> Make:
    model = opened.load()
    return lambda options: engine.Engine(model, options)


@pytest.fixture(
    scope="module", params=["server", pytest.param("vllm", marks=pytest.mark.slow)], ids=lambda name: str(name)
)
def other(request: pytest.FixtureRequest, opened: Opened, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
    with _served(opened) if request.param == "server" else _vllm(opened, tmp_path_factory.mktemp("vllm")) as make:
        yield make


@contextmanager
def _served(opened: Opened) -> Iterator[Make]:
    with serve(opened.load()) as server:
        yield lambda options: ServerEngine(options, Connection(server.url), max_context=opened.max_length)


@contextmanager
def _vllm(opened: Opened, folder: Path) -> Iterator[Make]:
    python = os.environ.get("UNSAY_VLLM_PYTHON")
    if not python:
        pytest.skip("needs vLLM in an environment of its own (docs/servers.md); set UNSAY_VLLM_PYTHON to its Python")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        assert opened.model is not None
        model = Model(opened.model.name, opened.model.path, backend=Backend("vllm", python, ("--enforce-eager",)))
        with engine_of(open_model(model, device="cpu"), _options(opened, Decode()), folder) as started:
            assert isinstance(started, ServerEngine)
            yield lambda options: ServerEngine(options, started.connection, max_context=opened.max_length)


def _options(opened: Opened, decode: Decode, table: UndoTable | None = None) -> engine.Options:
    return engine.Options(decode, table or opened.table, opened.prompter.end_ids, opened.visible_text)


def _requests(opened: Opened, **options: Any) -> list[engine.Request]:
    rng = random.Random(0)
    top = len(opened.tokenizer) - len(CONTROLS)
    prompts = [tuple(rng.randrange(5, top) for _ in range(rng.randint(1, 30))) for _ in range(PROMPTS)]
    return [engine.Request(Key("t", at), prompt, seed=at, **options) for at, prompt in enumerate(prompts)]


def _answers(generator: Any, requests: list[engine.Request]) -> list[engine.Finished]:
    found = list(generator.generate(requests))
    assert {each.request.key for each in found} == {each.key for each in requests}
    assert len(found) == len(requests)
    return sorted(found, key=lambda each: each.request.key.doc_id)


def _assert_same(got: list[engine.Finished], expected: list[engine.Finished]) -> None:
    for one, two in zip(got, expected, strict=True):
        assert one.ids == two.ids
        assert (one.visible, one.visible_ids, one.finish_reason) == (two.visible, two.visible_ids, two.finish_reason)
        assert one.resolution == two.resolution
        assert one.stop_in_raw == two.stop_in_raw
        assert one.logprobs == pytest.approx(two.logprobs, abs=2e-3)


def _table(opened: Opened, local: Make) -> UndoTable:
    """Return a table whose tokens are ones the model writes by itself, so that undos really happen."""
    written = [
        id
        for each in _answers(local(_options(opened, Decode(max_new_tokens=16))), _requests(opened))
        for id in each.ids
    ]
    newline, *rest = sorted(set(written) - opened.prompter.end_ids, key=lambda id: (-written.count(id), id))
    actions = {id: Action("pop") for id in rest[:5]} | {rest[5]: Action("pop_line"), rest[11]: Action("pop_all")}
    return UndoTable(actions, {id: f"<{id}>" for id in actions}, frozenset({newline}))


@pytest.mark.parametrize(
    "decode",
    [
        Decode(max_new_tokens=16),
        Decode(max_new_tokens=16, max_survivors=7),
        Decode(max_new_tokens=16, undo="ban"),
        Decode(max_new_tokens=8, undo_bias=5.0),
    ],
    ids=["plain", "max_survivors", "ban", "undo_bias"],
)
def test_plain_answers(opened: Opened, local: Make, other: Make, decode: Decode) -> None:
    requests = _requests(opened)
    options = _options(opened, decode)
    _assert_same(_answers(other(options), requests), _answers(local(options), requests))


@pytest.mark.parametrize("context", ["keep", "rewind"])
@pytest.mark.parametrize(
    "decode",
    [{"max_visits": 3, "max_undos": 14}, {"max_survivors": 6}, {"undo": "ban"}, {"undo_bias": 1.0}],
    ids=["undos", "max_survivors", "ban", "undo_bias"],
)
def test_answers_that_take_back(opened: Opened, local: Make, other: Make, context: Any, decode: dict[str, Any]) -> None:
    options = _options(opened, Decode(undo_context=context, max_new_tokens=16, **decode), _table(opened, local))
    requests = _requests(opened)
    expected = _answers(local(options), requests)
    _assert_same(_answers(other(options), requests), expected)
    undos = sum(each.resolution.counts.undos for each in expected)
    assert undos == 0 if decode.get("undo") == "ban" else undos > 3, "the test is worth nothing without undos"


@pytest.mark.parametrize("context", ["keep", "rewind"])
def test_stop_strings(opened: Opened, local: Make, other: Make, context: Any) -> None:
    options = _options(opened, Decode(undo_context=context, max_new_tokens=16), _table(opened, local))
    plain = _answers(local(options), _requests(opened))
    stop = tuple({each.visible[3:5] for each in plain if each.visible[3:5].isprintable()} - {""})[:3]
    requests = _requests(opened, stop=stop)
    expected = _answers(local(options), requests)
    _assert_same(_answers(other(options), requests), expected)
    assert "stop" in {each.finish_reason for each in expected}


def test_end_tokens_budgets_of_a_request_and_the_models_length(opened: Opened, local: Make, other: Make) -> None:
    plain = _answers(local(_options(opened, Decode(max_new_tokens=16))), _requests(opened))
    ends = frozenset({plain[0].ids[6], plain[1].ids[3]})
    options = engine.Options(Decode(max_new_tokens=16), opened.table, ends, opened.visible_text)
    long = engine.Request(Key("t", 100), tuple([7] * (opened.max_length - 3)))
    full = engine.Request(Key("t", 101), tuple([7] * opened.max_length))
    requests = [
        *_requests(opened),
        *(engine.Request(Key("t", 90 + at), (9, 8, at), max_new_tokens=at) for at in (1, 2)),
    ]
    requests += [long, full]
    expected = _answers(local(options), requests)
    _assert_same(_answers(other(options), requests), expected)
    assert {each.finish_reason for each in expected} >= {"eos", "max_steps", "max_context"}


@pytest.mark.parametrize("context", ["keep", "rewind"])
def test_sampled_answers_keep_the_rules_and_come_again(opened: Opened, local: Make, other: Make, context: Any) -> None:
    """The draws themselves are each generator's own."""
    table = _table(opened, local)
    decode = Decode(undo_context=context, do_sample=True, temperature=0.8, top_k=20, max_new_tokens=16, max_visits=3)
    options, requests = _options(opened, decode, table), _requests(opened)
    first = _answers(other(options), requests)
    _assert_same(_answers(other(options), requests), first)
    assert len({each.ids for each in first}) == len(first)
    for finished in first:
        assert finished.resolution.counts.underflows == 0, "an undo with nothing to take back is banned"
        assert not finished.ids or finished.ids[0] not in table.actions
