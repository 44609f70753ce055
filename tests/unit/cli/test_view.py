"""`unsay view`: where it listens, what it prints, how it ends; a real server that a real client asks."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.lab import make_lab
from unsay import cli

Start = Callable[..., tuple["subprocess.Popen[str]", dict[str, Any]]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts the viewer of a small lab and gives its process and what it printed."""
    make_lab(tmp_path / "outputs")
    running: list[subprocess.Popen[str]] = []

    def begin(*options: str) -> tuple[subprocess.Popen[str], dict[str, Any]]:
        command = [sys.executable, "-m", "unsay", "view", "--no-browser", "--json", *options]
        one = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        running.append(one)
        assert one.stdout is not None
        text = ""
        while not text.endswith("}\n"):
            line = one.stdout.readline()
            assert line, one.stderr.read() if one.stderr is not None else ""
            text += line
        return one, json.loads(text)

    yield begin
    for one in running:
        one.kill()
        one.communicate()


def get(address: str, **headers: str) -> tuple[int, bytes]:
    request = urllib.request.Request(address, headers=headers)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_it_answers_at_the_address_it_prints_and_ends_with_ctrl_c(start: Start, tmp_path: Path) -> None:
    process, printed = start()
    assert printed["schema"] == 1
    assert printed["output_dir"] == str(tmp_path / "outputs")
    address = printed["address"]
    status, body = get(address)
    assert status == 200
    assert b"EXP-004" in body
    found = json.loads(get(f"{address}index.json")[1])
    assert found["experiments_in_lab"] == 7
    assert get(address, Host="evil.example")[0] == 421
    assert get(address, Origin="http://evil.example")[0] == 403
    port = int(address.split(":")[-1].rstrip("/"))
    with socket.create_connection(("127.0.0.1", port)) as raw:  # a path that no client would send
        raw.sendall(
            f"GET /../../../etc/passwd HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode()
        )
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 404")
    assert b"root:" not in answer
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0


def test_a_port_that_is_taken_is_another_or_an_error(start: Start, tmp_path: Path) -> None:
    _, first = start()
    _, second = start()
    assert first["address"] != second["address"]
    assert get(second["address"])[0] == 200
    taken = second["address"].split(":")[-1].rstrip("/")
    command = [sys.executable, "-m", "unsay", "view", "--no-browser", "--port", taken]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert f"cannot listen at 127.0.0.1:{taken}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "example.com"])
def test_other_machines_cannot_be_let_in(tmp_path: Path, host: str, capsys: pytest.CaptureFixture[str]) -> None:
    make_lab(tmp_path / "outputs")
    assert cli.main(["view", str(tmp_path / "outputs"), "--host", host, "--no-browser"]) == 2
    assert "of this machine only" in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_it_says_where_a_lab_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["view", str(tmp_path / "nothing"), "--no-browser"]) == 1
    assert "there is no lab folder" in capsys.readouterr().err


def test_it_never_imports_what_computes(tmp_path: Path) -> None:
    make_lab(tmp_path / "outputs")
    code = (
        "import sys, pathlib; from starlette.testclient import TestClient; from unsay.web.server import application\n"
        "client = TestClient(application(pathlib.Path('outputs'), '127.0.0.1', 1), base_url='http://127.0.0.1:1')\n"
        "of = 'of=qwen3-4b/gsm8k/sft/lora/train&of=EXP-001'\n"
        "for address in ('/', '/experiments/EXP-004', '/samples/EXP-004', '/sample/EXP-004', '/compare?' + of):\n"
        "    assert client.get(address).status_code == 200, address\n"
        "print(sorted({'torch', 'transformers', 'lm_eval', 'scipy', 'pandas', 'datasets'} & sys.modules.keys()))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3] / "src")}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout == "[]\n", done.stderr
