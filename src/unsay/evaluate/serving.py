"""What generates an evaluation's answers: the local engine, a server that runs already, or a vLLM server of our own.

    with engine_of(opened, options, folder) as generator:
        for finished in generator.generate(requests): ...

A server of our own gets the weights with the adapter folded in, runs in its own environment, is reachable from this
machine only, and is stopped when the block is left, however that happens: a process beside it ends it even when this
one is killed.
"""

from __future__ import annotations

import contextlib
import gc
import http.client
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path

from unsay import engine
from unsay.backend import KEY_VARIABLE, SERVER, Backend, missing_interpreter
from unsay.engine.connection import Connection
from unsay.engine.server import ServerEngine
from unsay.errors import ModelError, ServerError
from unsay.evaluate.setup import Opened
from unsay.store import layout

LAST_LINES = 20
"""Lines of a server's log in a message about its failure."""
POLL = 0.5
"""Seconds between two looks at whether a server answers."""
GUARD = (sys.executable, "-m", "unsay.evaluate.guarded")
STOPPING = 30.0
"""Seconds a server may take to stop; more than the process beside it gives it."""


@contextmanager
def engine_of(opened: Opened, options: engine.Options, folder: Path) -> Iterator[engine.Engine | ServerEngine]:
    """Give what generates with an opened model; `folder` is the result folder, for the log of a server of our own.

    Raises ServerError when a server is not there or does not start, ModelError when the weights cannot be merged.
    """
    backend = opened.backend
    if backend is None:
        model = opened.load()
        rows = int(model.get_output_embeddings().weight.shape[0])
        yield engine.Engine(model, replace(options, table=options.table.within(rows)))
    elif backend.kind == SERVER:
        connection = Connection(str(backend.url), key=os.environ.get(KEY_VARIABLE), timeout=backend.timeout)
        generator = ServerEngine(options, connection, model=backend.served_name, max_context=opened.max_length)
        generator.facts |= {"backend": backend.to_json()}
        yield generator
    else:
        with _weights(opened, folder) as weights, _started(opened, backend, weights, folder) as server:
            connection = Connection(server.url, key=server.key, timeout=backend.timeout, gone=server.why_gone)
            generator = ServerEngine(options, connection, model=server.name, max_context=opened.max_length)
            generator.facts |= {"backend": backend.to_json(), "log": server.log.relative_to(folder).as_posix()}
            yield generator


# -- the weights ------------------------------------------------------------------


@contextmanager
def _weights(opened: Opened, folder: Path) -> Iterator[tuple[str, str | None]]:
    """Give what vLLM is to load, path and revision: the model itself, or one with its adapter folded in.

    That one is written below the result folder and removed again; what a killed run left there is removed first.
    """
    model = opened.model
    assert model is not None
    if opened.adapter is None:
        yield model.path, opened.facts.get("revision") or model.revision
        return
    merged = folder / f"{layout.TEMPORARY_PREFIX}served"
    shutil.rmtree(merged, ignore_errors=True)
    try:
        (merged / "model").mkdir(parents=True)
        order = {
            "model": asdict(model),
            "adapter": str(opened.adapter),
            "folder": str(merged / "model"),
            "dtype": opened.dtype,
        }
        (merged / "order.json").write_text(json.dumps(order), encoding="utf-8")
        # A process of its own, as it needs the weights once more.
        command = [sys.executable, "-m", "unsay.merge", str(merged / "order.json")]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        answer = json.loads(done.stdout.splitlines()[-1]) if done.stdout.strip() else {}
        if done.returncode or "error" in answer:
            reason = answer.get("error", f"the process that merges them ended with code {done.returncode}")
            raise ModelError(f"the weights of {model.name} could not be merged for the server: {reason}")
        yield str(merged / "model"), None
    finally:
        shutil.rmtree(merged, ignore_errors=True)


# -- the server -------------------------------------------------------------------


@dataclass(frozen=True)
class _Started:
    """A server of our own. The key and the name are made up, so that no other server is taken for it."""

    process: subprocess.Popen[bytes]
    url: str
    name: str
    key: str
    log: Path

    def why_gone(self) -> str | None:
        """Say that the server has ended, with the end of its log; None while it runs."""
        code = self.process.poll()
        if code is None:
            return None
        return f"the vLLM server ended with code {code}. {self.last_words()}"

    def last_words(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").replace(self.key, "…").splitlines()
        shown = "\n".join(f"    {line[:300]}" for line in lines[-LAST_LINES:])
        return f"Its log, {self.log}, ends with:\n{shown}" if shown.strip() else f"Its log, {self.log}, is empty."

    def answers(self) -> bool:
        host, _, port = self.url.removeprefix("http://").removesuffix("/v1").partition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=5)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        return False


@contextmanager
def _started(opened: Opened, backend: Backend, weights: tuple[str, str | None], folder: Path) -> Iterator[_Started]:
    reason = missing_interpreter(backend)
    if reason is not None:
        raise ServerError(f"backend vllm: {reason}")
    _give_memory_back()
    host, port = "127.0.0.1", _free_port()
    name, key = f"unsay-{secrets.token_hex(4)}", secrets.token_urlsafe(24)
    path, revision = weights
    command = [backend.interpreter or sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", path, "--served-model-name", name, "--host", host, "--port", str(port)]
    # The model's generation config would bring settings of its own into every request.
    command += ["--dtype", opened.dtype, "--generation-config", "vllm"]
    command += ["--revision", revision] if revision and not Path(path).is_dir() else []
    command += ["--trust-remote-code"] if opened.model is not None and opened.model.trust_remote_code else []
    command += backend.args
    logs = layout.logs(folder)
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{datetime.now().strftime('%Y-%m-%dT%H-%M-%S.%f')}.server.log"
    environment = {each: value for each, value in os.environ.items() if each != KEY_VARIABLE}
    # The key goes by the environment: other accounts can read command lines.
    environment |= {"VLLM_API_KEY": key, "VLLM_HOST_IP": host, "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*GUARD, *command],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,
        )
    server = _Started(process, f"http://{host}:{port}/v1", name, key, log)
    try:
        _wait(server, backend)
        yield server
    finally:
        _stop(process)


def _wait(server: _Started, backend: Backend) -> None:
    """Return once the server answers; raise ServerError when it ends before, or takes too long."""
    deadline = time.monotonic() + backend.start_timeout
    while not server.answers():
        reason = server.why_gone()
        if reason is not None:
            raise ServerError(f"expected a vLLM server to start, got: {reason}")
        if time.monotonic() > deadline:
            raise ServerError(
                f"expected a vLLM server to answer within {backend.start_timeout:g} seconds, got nothing; give it more "
                f"with `start_timeout:` beside `vllm:`. {server.last_words()}"
            )
        time.sleep(POLL)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Close the guard's input: it ends the server and all that belongs to it."""
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    try:
        process.wait(STOPPING)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _give_memory_back() -> None:
    """Let go of what training in this process holds on a GPU: the server wants it."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
