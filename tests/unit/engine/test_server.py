"""Servers that are not there, slow, broken or of the wrong kind: what is tried again, and what is said."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.openai_server import Server, serve, tokens_asked_for
from unsay import engine
from unsay.backend import wrong_url
from unsay.engine import connection
from unsay.engine.connection import Closed, Connection
from unsay.engine.server import ServerEngine
from unsay.errors import ServerError
from unsay.records import Key
from unsay.settings import Decode
from unsay.undo import EMPTY, Action, UndoTable

PROMPT = (20, 30, 40)


@pytest.fixture(scope="module")
def model(tiny_models: Callable[..., Path]) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_models(tie=False)).eval()


@pytest.fixture
def server(model: Any) -> Iterator[Server]:
    with serve(model) as server:
        yield server


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "FIRST_WAIT", 0.01)


def made(server: Server, decode: Decode | None = None, table: UndoTable = EMPTY, **how: Any) -> ServerEngine:
    options = engine.Options(decode or Decode(max_new_tokens=5), table, frozenset(), str)
    named = {key: how.pop(key) for key in ("model", "max_context") if key in how}
    return ServerEngine(options, Connection(server.url, **how), **named)


def ask(generator: ServerEngine, *prompts: tuple[int, ...]) -> list[engine.Finished]:
    requests = [engine.Request(Key("t", at), prompt) for at, prompt in enumerate(prompts or (PROMPT,))]
    return sorted(generator.generate(requests), key=lambda each: each.request.key.doc_id)


# -- what goes wrong for a while ---------------------------------------------------


@pytest.mark.parametrize("failure", [500, 502, 503, 429, 408, 0])
def test_what_may_pass_is_tried_again(server: Server, failure: int) -> None:
    expected = [each.ids for each in ask(made(server))]
    server.failures += [failure] * 3
    generator = made(server)
    assert [each.ids for each in ask(generator)] == expected
    assert generator.facts["retries"] >= 2  # a kept connection that was closed meanwhile is no failure


def test_what_does_not_pass_is_said_with_the_last_reason(server: Server) -> None:
    server.failures += [503] * 20
    with pytest.raises(ServerError, match=r"got: HTTP 503 \(no luck.*finished answers are kept"):
        ask(made(server, tries=3))


def test_a_wrong_request_is_not_tried_again(server: Server) -> None:
    server.failures.append(400)
    with pytest.raises(ServerError, match=r"HTTP 400 \(no luck"):
        ask(made(server))
    assert len(server.requests) == 1


def test_a_server_that_is_not_there_is_said_to_be_so() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(
            ServerError, match=r"expected an answer from the server at http.*refused.*check that it runs"
        ):
            Connection(url, tries=2).get("models")


def test_a_server_that_is_too_slow(server: Server) -> None:
    server.slow = 3.0
    with pytest.raises(ServerError, match=r"no answer within 0\.3 seconds"):
        ask(made(server, timeout=0.3, tries=2))


def test_a_reason_to_give_up_ends_the_tries(server: Server) -> None:
    server.failures += [500] * 5
    with pytest.raises(ServerError, match="it has ended, its log says why"):
        ask(made(server, gone=lambda: "it has ended, its log says why"))
    assert len(server.requests) == 1


def test_leaving_early_ends_what_is_on_its_way(server: Server) -> None:
    """Whoever stops listening does not wait for the slowest answer."""
    generator = made(server)
    stream = generator.generate([engine.Request(Key("t", at), PROMPT) for at in range(3)])
    next(stream)
    server.slow = 20.0
    began = time.monotonic()
    stream.close()
    assert time.monotonic() - began < 10.0
    slow = Connection(server.url)
    threading.Timer(0.2, slow.close).start()
    with pytest.raises(Closed):
        slow.post("completions", {"prompt": [1], "max_tokens": 1, "temperature": 0.0})


# -- servers of the wrong kind ------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"returns_ids": False}, r"return the ids of an answer, got its text alone.*`transformers serve`"),
        (
            {"lists_models": False, "takes_ids": False},  # as `transformers serve` where it has no cache
            r"HTTP 422 .*`transformers serve`",
        ),
        ({"takes_ids": False}, r"HTTP 422 \(Input should be a valid string\)\. unsay needs .*`transformers serve`"),
        ({"returns_logprobs": False}, "log-probability for each of 1 tokens, got none"),
        ({"adds_to_prompt": (7,)}, "read the 1 ids of the prompt as they are, got 2 ids"),
        ({"name": "other"}, "expected the model 'tiny' at http.*, got: other"),
        ({"max_model_len": 6}, "room for 8 tokens, prompt and answer together, got .* with 6; start it with a larger"),
        ({"key": "secret"}, r"HTTP 401 \(Unauthorized\); put its key into .* UNSAY_SERVER_KEY"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_server_that_cannot_be_used_is_refused(model: Any, wrong: dict[str, Any], message: str) -> None:
    with serve(model, **wrong) as server, pytest.raises(ServerError, match=message):
        ask(made(server, model="tiny"))


def test_an_address_of_something_else(server: Server) -> None:
    server.url = server.url.replace("/v1", "/v2")
    with pytest.raises(ServerError, match=r"HTTP 404.*check the address, `/v1` included"):
        ask(made(server))


def test_a_server_that_ends_at_a_token_it_does_not_return(model: Any, server: Server) -> None:
    ids = ask(made(server))[0].ids
    server.own_end = next(id for id in ids if id != ids[0])
    with pytest.raises(ServerError, match="write 5 tokens or to end with one of"):
        ask(made(server))


def test_a_server_without_stop_ids_only_wastes_tokens(server: Server) -> None:
    plain = ask(made(server, Decode(max_new_tokens=12)), PROMPT, (9, 8))
    undo = plain[0].ids[3]
    table = UndoTable({undo: Action("pop")}, {undo: "<undo>"})
    decode = Decode(undo_context="rewind", max_new_tokens=12)
    expected = ask(made(server, decode, table), PROMPT, (9, 8))
    server.honours_stops = False
    generator = made(server, decode, table)
    got = ask(generator, PROMPT, (9, 8))
    assert [each.ids for each in got] == [each.ids for each in expected]
    assert generator.facts["thrown_away"] > 0


def test_a_server_without_bias_ends_the_answer_instead_of_looping(server: Server) -> None:
    first = ask(made(server))[0].ids[0]
    table = UndoTable({first: Action("pop")}, {first: "<undo>"})
    server.honours_bias = False
    (finished,) = ask(made(server, table=table))
    assert (finished.ids, finished.finish_reason) == ((), "banned")


# -- what is asked for ----------------------------------------------------------------


def test_an_answer_without_undo_is_one_request(server: Server) -> None:
    generator = made(server, Decode(max_new_tokens=9))
    ask(generator)
    assert tokens_asked_for(server) == {1: 1, 9: 1}  # the trial, the answer
    assert generator.facts | {"retries": 0} == {
        "engine": "server",
        "server": "0.0-test",
        "model": "tiny",
        "max_context": server.card()["max_model_len"],
        "in_flight": 1,
        "requests": 1,
        "tokens": 9,
        "thrown_away": 0,
        "retries": 0,
    }


def test_a_bias_that_no_server_takes_is_refused(server: Server) -> None:
    with pytest.raises(ServerError, match="undo_bias between -100 and 100, got 101"):
        made(server, Decode(undo_bias=101.0))


def test_nothing_to_do_asks_nobody() -> None:
    options = engine.Options(Decode(), EMPTY, frozenset(), str)
    assert list(ServerEngine(options, Connection("http://127.0.0.1:1/v1")).generate([])) == []


# -- keys ----------------------------------------------------------------------------


def test_a_key_is_sent_and_never_said(model: Any) -> None:
    with serve(model, key="k3y-of-mine") as server:
        generator = made(server, key="k3y-of-mine", tries=2)
        ask(generator)
        assert set(server.authorizations) == {"Bearer k3y-of-mine"}
        server.failures += [500] * 4
        with pytest.raises(ServerError) as raised:
            ask(made(server, key="k3y-of-mine", tries=2))
        assert "no luck" in str(raised.value)
        assert "k3y-of-mine" not in f"{raised.value} {generator.facts}"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://here/v1", "no http address"),
        ("127.0.0.1:8000", "no http address"),
        ("http://", "no http address"),
        ("http://here:port/v1", "is no address"),
        ("http://me:pa55word@here/v1", "holds a password"),
        ("http://here/v1?key=pa55word", "goes on behind its path"),
    ],
)
def test_an_address_that_is_none(url: str, message: str) -> None:
    assert message in str(wrong_url(url))
    with pytest.raises(ServerError, match=message) as raised:
        Connection(url)
    assert "pa55word" not in str(raised.value)


def test_an_address_is_one() -> None:
    assert [wrong_url(url) for url in ("http://127.0.0.1:8000/v1", "https://here/a/v1", "http://[::1]:80/v1/")] == [
        None
    ] * 3


@pytest.mark.slow
def test_transformers_serve_is_refused(tiny_models: Callable[..., Path], tmp_path: Path) -> None:
    """The real one, from the environment that also has vLLM, if it runs there (it needs accelerate)."""
    python = os.environ.get("UNSAY_VLLM_PYTHON")
    if not python:
        pytest.skip("set UNSAY_VLLM_PYTHON to the Python of an environment with `transformers serve` (docs/servers.md)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tiny_models(tie=False)
    command = [str(Path(python).parent / "transformers"), "serve", str(folder), "--host", "127.0.0.1"]
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen([*command, "--port", str(port), "--device", "cpu"], stdout=output, stderr=output)
    try:
        there, deadline = Connection(f"http://127.0.0.1:{port}/v1", tries=1), time.monotonic() + 120
        while True:
            with contextlib.suppress(ServerError):
                there.get_beside("health")
                break
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.skip(f"`transformers serve` does not start there: {log.read_text()[-300:]}")
            time.sleep(0.5)
        options = engine.Options(Decode(max_new_tokens=4), EMPTY, frozenset(), str)
        with pytest.raises(ServerError, match=r"HTTP 422 .*`transformers serve`"):
            ask(ServerEngine(options, there, model=str(folder)))
    finally:
        process.terminate()
        process.wait()
