"""Whole experiments whose answers come from a started server: the same as here, and nothing of it stays.

Each runs with a stand-in for vLLM around the same tiny weights, and with vLLM where UNSAY_VLLM_PYTHON names its Python.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import fake_vllm
from tests.openai_server import serve
from unsay import cli, config
from unsay.records import ExperimentRecord, Trace
from unsay.store import layout, read

pytestmark = pytest.mark.slow

ITEMS = 6
SHORT = {"max_new_tokens": 24, "undo_context": "rewind"}
TRAINED = {"max_steps": 2, "gradient_accumulation_steps": 1, "lora_target": "all"}


@pytest.fixture(scope="module")
def model(tiny_models: Callable[..., Path]) -> Path:
    return tiny_models(tie=False, hidden=128)  # vLLM's attention on processors takes no smaller heads


@pytest.fixture(params=["stand-in", "vllm"])
def python(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the Python of an environment with vLLM, or what stands in for one."""
    if request.param == "stand-in":
        return fake_vllm.make_python(tmp_path / "env")
    named = os.environ.get("UNSAY_VLLM_PYTHON")
    if not named:
        pytest.skip("needs vLLM in an environment of its own (docs/servers.md); set UNSAY_VLLM_PYTHON to its Python")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    return Path(named)


def write_lab(folder: Path, model: Path, backend: dict[str, Any], *lines: dict[str, Any], **parts: Any) -> Path:
    (folder / "data").mkdir()
    for split, first, count in (("train", 0, 12), ("test", 100, ITEMS)):
        rows = [{"question": f"{n} + {n}?", "answer": f"#### {n + n}"} for n in range(first, first + count)]
        (folder / "data" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    document = {
        "models": {"here": {"path": str(model)}, "there": {"path": str(model), "backend": backend}},
        "datasets": {"own": {"path": str(folder / "data")}},
        "experiments": [{"dataset": "own", **line} for line in lines],
        **parts,
    }
    file = folder / "lab.yaml"
    file.write_text(json.dumps(document))  # JSON is YAML
    return file


def run(file: Path, *more: str) -> int:
    return cli.main(["run", str(file), "--output-dir", str(file.parent / "outputs"), "--device", "cpu", *more])


def folders(file: Path) -> list[Path]:
    plan = config.load(file, output_dir=file.parent / "outputs")
    return [plan.output_dir / each.folder for each in plan.experiments]


def traces(folder: Path) -> dict[Any, Trace]:
    return {trace.key: trace for trace in read.traces(folder)}


def record(folder: Path) -> ExperimentRecord:
    found = read.record(folder)
    assert found is not None
    return found


def test_every_training_of_a_matrix_is_served(model: Path, python: Path, tmp_path: Path) -> None:
    method = {"dataset": "own", "method": "sft", "config": "lora/train_bt", "decode": SHORT, **TRAINED}
    backend = {"vllm": str(python), "args": ["--enforce-eager"]}
    matrix = [{"model": ["here", "there"], "seed": [1, 2], **method}]
    vanilla = {"method": "vanilla", "config": "fewshot_1", "decode": {"max_new_tokens": 24}}
    lines = [{"id": "HERE", "model": "here", **vanilla}, {"id": "THERE", "model": "there", **vanilla}]
    file = write_lab(tmp_path, model, backend, *lines, matrix=matrix)
    assert run(file, "--executor", "inline") == 0
    here, there, *trained = folders(file)
    for local, served in ((here, there), (trained[0], trained[2]), (trained[1], trained[3])):
        assert record(local).identity == record(served).identity
        assert record(local).hashes == record(served).hashes
        expected, got = traces(local), traces(served)
        assert expected.keys() == got.keys()
        assert len(got) == ITEMS
        for key, trace in expected.items():
            assert (got[key].ids, got[key].finish_reason) == (trace.ids, trace.finish_reason)
        facts = record(served).facts["engine"]
        assert facts["engine"] == "server"
        assert facts["backend"]["interpreter"] == str(python)
        assert (served / facts["log"]).is_file()
        assert record(served).attempts[-1].hardware["backend"]["kind"] == "vllm"
        left = [each.name for each in served.iterdir() if each.name.startswith(layout.TEMPORARY_PREFIX)]
        assert left == [], "the merged weights are removed again"
    assert {trace.ids for trace in traces(trained[2]).values()} != {trace.ids for trace in traces(there).values()}


def test_stopping_a_run_stops_its_server(model: Path, python: Path, tmp_path: Path) -> None:
    decode = {"max_new_tokens": 900, "stop": ["never"]}
    line = {"model": "there", "method": "vanilla", "config": "fewshot_0", "decode": decode}
    file = write_lab(tmp_path, model, {"vllm": str(python), "args": ["--enforce-eager"]}, line)
    (folder,) = folders(file)
    started = subprocess.Popen(
        [sys.executable, "-m", "unsay", "run", "lab.yaml", "--device", "cpu", "--batch-size", "1"],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stderr=(tmp_path / "stderr.txt").open("wb"),
        start_new_session=True,
    )
    deadline = time.monotonic() + 240
    while not (folder / layout.TRACES).exists() or not (folder / layout.TRACES).stat().st_size:
        assert time.monotonic() < deadline
        assert started.poll() is None, (tmp_path / "stderr.txt").read_text()
        time.sleep(0.1)
    everything = psutil.Process(started.pid).children(recursive=True)
    assert len(everything) >= 3  # the worker, the guard, the server
    started.send_signal(signal.SIGTERM)
    assert started.wait(60) != 0
    _, alive = psutil.wait_procs(everything, timeout=30)
    assert alive == []
    assert record(folder).status == "cancelled"


def test_a_server_that_runs_already(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForCausalLM

    monkeypatch.setenv("UNSAY_SERVER_KEY", "k3y-of-mine")
    vanilla = {"method": "vanilla", "config": "fewshot_1", "decode": {"max_new_tokens": 24}}
    lines = [{"model": "here", **vanilla}, {"model": "there", **vanilla}]
    with serve(AutoModelForCausalLM.from_pretrained(model).eval(), key="k3y-of-mine") as server:
        file = write_lab(tmp_path, model, {"server": server.url, "model": "tiny"}, *lines)
        assert run(file) == 0
        here, there = folders(file)
        assert [trace.ids for trace in traces(here).values()] == [traces(there)[key].ids for key in traces(here)]
        assert record(there).facts["dtype"] == "server"
        assert record(there).facts["engine"]["backend"]["url"] == server.url
    assert server.authorizations
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"k3y-of-mine" not in path.read_bytes(), path
