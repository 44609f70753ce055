"""A server of our own: what it is started with, and that nothing of it stays, however the work ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import psutil
import pytest

from tests import fake_vllm
from unsay import engine
from unsay.backend import Backend
from unsay.config import Model
from unsay.engine.server import ServerEngine
from unsay.errors import ServerError
from unsay.evaluate import guarded, serving
from unsay.evaluate.serving import engine_of
from unsay.evaluate.setup import Opened
from unsay.settings import Decode
from unsay.undo import EMPTY

Open = Callable[..., Opened]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "POLL", 0.05)


@pytest.fixture
def open_fake(tmp_path: Path) -> Iterator[Open]:
    """Return a function that opens a model whose answers come from a stand-in for vLLM; nothing is loaded."""

    def open_model(args: tuple[str, ...] = (), start_timeout: float = 60.0, **how: Any) -> Opened:
        python = fake_vllm.make_python(tmp_path / "env", **{"light": True, **how})
        backend = Backend("vllm", str(python), args, start_timeout)
        model = Model("tiny", "org/tiny", revision="abc", trust_remote_code=True, backend=backend)
        return Opened(None, cast(Any, None), EMPTY, "w", 64, "cpu", "float32", lambda: None, model=model)

    yield open_model
    for process in ours(tmp_path):
        process.kill()


def ours(tmp_path: Path) -> list[psutil.Process]:
    """Return what is still there of the stand-in."""
    if not (tmp_path / "env" / "started.json").exists():  # ended before it began
        return []
    facts = fake_vllm.started(tmp_path / "env")
    found = []
    for pid in (facts["pid"], facts["child"]):
        try:
            process = psutil.Process(pid)
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            pass
    return found


OPTIONS = engine.Options(Decode(), EMPTY, frozenset(), str)


def test_what_a_server_is_started_with(open_fake: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNSAY_SERVER_KEY", "not for this one")
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", "") or str(tmp_path))
    result = tmp_path / "result"
    with engine_of(open_fake(("--max-num-seqs", "8")), OPTIONS, result) as generator:
        assert isinstance(generator, ServerEngine)
        facts = fake_vllm.started(tmp_path / "env")
        assert len(ours(tmp_path)) == 2
    args = facts["args"]
    port, name = args[args.index("--port") + 1], args[args.index("--served-model-name") + 1]
    assert args == [
        *("--model", "org/tiny", "--served-model-name", name, "--host", "127.0.0.1", "--port", port),
        *("--dtype", "float32", "--generation-config", "vllm", "--revision", "abc", "--trust-remote-code"),
        *("--max-num-seqs", "8"),
    ]
    environment = facts["environment"]
    assert environment["VLLM_HOST_IP"] == "127.0.0.1"
    assert environment["PYTHONPATH"] is None, "another environment's Python must not see this one's libraries"
    assert environment["UNSAY_SERVER_KEY"] is None
    key = environment["VLLM_API_KEY"]
    assert len(key) > 20
    assert not [each for each in args if key in each]
    (log,) = (result / "logs").iterdir()
    assert generator.facts["log"] == f"logs/{log.name}"
    assert log.name.endswith(".server.log")
    assert key not in f"{log.read_text()} {generator.facts}"
    assert ours(tmp_path) == []


@pytest.mark.parametrize("stubborn", [False, True])
def test_an_error_stops_the_server(
    open_fake: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stubborn: bool
) -> None:
    if stubborn:
        monkeypatch.setattr(serving, "GUARD", [sys.executable, "-c", _IMPATIENT])
    with (
        pytest.raises(KeyboardInterrupt),
        engine_of(open_fake(stubborn=stubborn), OPTIONS, tmp_path / "result"),
    ):
        raise KeyboardInterrupt
    assert ours(tmp_path) == []


_IMPATIENT = "import sys; from unsay.evaluate import guarded; guarded.GRACE = 0.3; sys.exit(guarded.main())"


def test_a_server_that_does_not_start_shows_the_end_of_its_log(open_fake: Open, tmp_path: Path) -> None:
    opened = open_fake(fails="\n".join([*(f"line {n}" for n in range(50)), "no memory"]))
    with (
        pytest.raises(ServerError, match=r"ended with code 1\. Its log, .*\.server\.log, ends with:") as raised,
        engine_of(opened, OPTIONS, tmp_path / "result"),
    ):
        pass
    assert str(raised.value).endswith("    line 49\n    no memory")
    assert "line 20" not in str(raised.value)


def test_a_server_that_takes_too_long_is_stopped(open_fake: Open, tmp_path: Path) -> None:
    opened = open_fake(hangs=True, start_timeout=2.0)
    with (
        pytest.raises(ServerError, match=r"(?s)answer within 2 seconds.*`start_timeout:`.*Its log"),
        engine_of(opened, OPTIONS, tmp_path / "result"),
    ):
        pass
    assert ours(tmp_path) == []


def test_a_server_that_ends_is_not_waited_for(open_fake: Open, tmp_path: Path) -> None:
    with engine_of(open_fake(), OPTIONS, tmp_path / "result") as generator:
        assert isinstance(generator, ServerEngine)
        for process in ours(tmp_path):
            process.kill()
        with pytest.raises(ServerError, match="the vLLM server ended with code 137"):
            generator.connection.get("models")


def test_nothing_stays_when_the_process_is_killed(tmp_path: Path) -> None:
    """Nobody is left to stop the server: the process beside it does."""
    python = fake_vllm.make_python(tmp_path / "env", light=True, hangs=True)
    code = f"""
import subprocess, sys
guard = subprocess.Popen([sys.executable, "-m", "{guarded.__name__}", {str(python)!r}, "-m", "{fake_vllm.MODULE}"],
                         stdin=subprocess.PIPE, start_new_session=True)
guard.wait()
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 30
    while not (tmp_path / "env" / "started.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert len(ours(tmp_path)) == 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    while ours(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_a_server_prints_is_kept_without_secrets(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    code = "import os, sys; print('token', os.environ['HF_TOKEN'], flush=True); sys.exit('http://me:pw@host is gone')"
    with log.open("wb") as output:
        guard = subprocess.Popen(
            [*serving.GUARD, sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env=os.environ | {"HF_TOKEN": "a secret of mine"},
        )
        assert guard.wait(60) == 1
    assert guard.stdin is not None
    guard.stdin.close()
    assert log.read_text() == "token [redacted]\nhttp://[redacted]@host is gone\n"
