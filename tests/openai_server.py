"""A small OpenAI-compatible server around a tiny real model, for tests; it can also misbehave in every usual way.

    with serve(model) as server:
        Connection(server.url)

One request at a time, no cache: the whole context through the model for every token, as obvious as can be.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass
class Server:
    """What it serves and how it misbehaves; `requests` are the bodies that came."""

    model: Any
    name: str = "tiny"
    url: str = ""
    key: str | None = None
    lists_models: bool = True
    returns_ids: bool = True
    returns_logprobs: bool = True
    takes_ids: bool = True
    adds_to_prompt: tuple[int, ...] = ()
    honours_stops: bool = True
    honours_bias: bool = True
    slow: float = 0.0
    """Seconds before an answer."""
    failures: list[int] = field(default_factory=list)
    """Statuses to answer the next completions with; 0 closes the connection without a word."""
    max_model_len: int | None = None
    own_end: int | None = None
    """Ends here by itself and returns no id for it."""
    requests: list[dict[str, Any]] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def card(self) -> dict[str, Any]:
        positions = self.max_model_len or self.model.config.max_position_embeddings
        return {"id": self.name, "object": "model", "max_model_len": positions}

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        import torch

        with torch.inference_mode():
            return self._complete(body)

    def _complete(self, body: dict[str, Any]) -> dict[str, Any]:
        import torch

        context = [*self.adds_to_prompt, *body["prompt"]]
        read = list(context)
        bias = {int(id): value for id, value in (body.get("logit_bias") or {}).items()} if self.honours_bias else {}
        stops = set(body.get("stop_token_ids", ())) if self.honours_stops else set()
        generator = torch.Generator().manual_seed(body.get("seed") or 0)
        ids: list[int] = []
        logprobs: list[float] = []
        reason, stop_reason = "length", None
        while len(ids) < body["max_tokens"]:
            logits = self.model(torch.tensor([context])).logits[0, -1].float()
            biased = logits.clone()
            for id, value in bias.items():
                biased[id] += value
            token = _choose(biased, body, generator)
            if token == self.own_end:
                reason = "stop"
                break
            ids.append(token)
            context.append(token)
            logprobs.append(float(torch.log_softmax(logits, -1)[token]))
            if token in stops:
                reason, stop_reason = "stop", token
                break
        choice: dict[str, Any] = {"index": 0, "text": "".join(map(chr, ids)), "finish_reason": reason}
        choice["stop_reason"] = stop_reason
        choice["logprobs"] = {"token_logprobs": logprobs} if self.returns_logprobs else None
        if self.returns_ids and body.get("return_token_ids"):
            choice |= {"token_ids": ids, "prompt_token_ids": read}
        return {"object": "text_completion", "model": self.name, "choices": [choice]}


def _choose(logits: torch.Tensor, body: dict[str, Any], generator: torch.Generator) -> int:
    import torch

    if not body["temperature"]:
        return int(logits.argmax())
    logits = logits / body["temperature"]
    if body["top_k"] > 0:
        logits[logits < logits.topk(body["top_k"]).values[-1]] = float("-inf")
    return int(torch.multinomial(torch.softmax(logits, -1), 1, generator=generator))


def handler(server: Server) -> type[BaseHTTPRequestHandler]:
    """Return what answers requests for a server."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            if self.path == "/health":
                self._send(200, {})
            elif self._let_in():
                if not server.lists_models:
                    self._send(500, {"detail": "Internal Server Error"})
                    return
                known = {"/v1/models": {"data": [server.card()]}, "/version": {"version": "0.0-test"}}
                self._send(200 if self.path in known else 404, known.get(self.path, {"detail": "Not Found"}))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if not self._let_in():
                return
            if self.path != "/v1/completions":
                self._send(404, {"detail": "Not Found"})
                return
            with server.lock:
                server.requests.append(body)
                failure = server.failures.pop(0) if server.failures else None
            if failure == 0:
                self.close_connection = True
                return
            if failure is not None:
                self._send(failure, {"error": {"message": f"no luck with {server.key}"}})
                return
            if not server.takes_ids:
                self._send(422, {"detail": "Input should be a valid string"})
                return
            time.sleep(server.slow)
            with server.lock:
                answer = server.complete(body)
            self._send(200, answer)

        def _let_in(self) -> bool:
            server.authorizations.append(self.headers.get("Authorization"))
            if server.key is None or self.headers.get("Authorization") == f"Bearer {server.key}":
                return True
            self._send(401, {"error": "Unauthorized"})
            return False

        def _send(self, status: int, value: dict[str, Any]) -> None:
            content = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    return Handler


@contextmanager
def serve(model: Any, **how: Any) -> Iterator[Server]:
    server = Server(model, **how)
    web = ThreadingHTTPServer(("127.0.0.1", 0), handler(server))
    web.daemon_threads = True
    server.url = f"http://127.0.0.1:{web.server_address[1]}/v1"
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        web.shutdown()
        web.server_close()


def tokens_asked_for(server: Server) -> Counter[int]:
    """Return how many requests asked for how many tokens at most."""
    return Counter(body["max_tokens"] for body in server.requests)
