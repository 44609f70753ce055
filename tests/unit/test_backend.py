"""`backend:` of a model in an experiment file: what it means, and what is wrong with it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unsay import config, identity, preflight
from unsay.backend import Backend, wrong_args
from unsay.config import Plan
from unsay.errors import ConfigError
from unsay.job import Job

LINE = "experiments: [{model: mine, dataset: wordproblems, method: %s, config: %s}]"


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Plan]:
    """Return a function that loads an experiment file whose model has a backend."""
    (tmp_path / "model").mkdir()
    for name, text in {
        "config.json": '{"model_type": "qwen3"}',
        "tokenizer.json": "{}",
        "model.safetensors": "",
    }.items():
        (tmp_path / "model" / name).write_text(text)

    def write_and_load(backend: str, method: str = "vanilla", name: str = "fewshot_0", **options: Any) -> Plan:
        file = tmp_path / "lab.yaml"
        model = f"models: {{mine: {{path: ./model, template: plain, backend: {backend}}}}}\n"
        file.write_text(model + LINE % (method, name))
        return config.load(file, output_dir=tmp_path / "outputs", **options)

    return write_and_load


def the(plan: Plan) -> Backend:
    backend = plan.experiments[0].model.backend
    assert backend is not None
    return backend


def test_an_environment_with_vllm_is_named_by_its_python(load: Callable[..., Plan], tmp_path: Path) -> None:
    python = tmp_path / "vllm" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)  # as in a virtual environment: following it would leave the environment
    backend = the(load("{vllm: ./vllm/bin/python, args: [--max-num-seqs, 64], timeout: 30, start_timeout: 90}"))
    assert backend == Backend("vllm", str(python), ("--max-num-seqs", "64"), 90.0, timeout=30.0)


def test_a_server_that_runs_already_is_named_by_its_address(load: Callable[..., Plan]) -> None:
    backend = the(load("{server: http://127.0.0.1:8000/v1, model: my-model}"))
    assert backend == Backend("server", url="http://127.0.0.1:8000/v1", served_name="my-model")


def test_where_answers_come_from_is_no_part_of_the_result(load: Callable[..., Plan]) -> None:
    plain = load("null").experiments[0]
    served = load("{server: http://127.0.0.1:8000/v1}").experiments[0]
    assert plain.model.backend is None
    assert identity.identity(plain) == identity.identity(served)
    assert plain.folder == served.folder


def test_a_job_takes_it_along(load: Callable[..., Plan], tmp_path: Path) -> None:
    for written in ("{server: http://127.0.0.1:8000/v1}", f"{{vllm: {sys.executable}, args: [--enforce-eager]}}"):
        job = Job(load(written).experiments[0], tmp_path)
        again = Job.from_json(json.loads(json.dumps(job.to_json())))
        assert again == job
        assert hash(again.experiment.model) == hash(job.experiment.model)


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        ("llama", "must be `vllm`, {vllm: ~/vllm/bin/python} or {server: http://127.0.0.1:8000/v1}; got 'llama'"),
        ("[vllm]", "must be `vllm`"),
        ("vllm", "vLLM is not installed beside unsay; name the Python of its environment"),
        ("{vllm: ./nowhere/python}", "there is no "),
        ("{vllm: ./model}", "model cannot be run; name the Python of the environment, such as "),
        ("{args: [--x]}", "needs `vllm:` with the Python that has it, or `server:` with an address"),
        ("{vlm: x}", "unknown key in the backend of model 'mine' 'vlm'; did you mean 'vllm'?"),
        ("{server: ftp://x}", "server: the address is no http address"),
        ("{server: 'http://me:secret@x/v1'}", "server: the address holds a password"),
        ("{server: }", "server: the address is empty"),
        ("{server: http://x/v1, timeout: 0}", "timeout must be a number of seconds above 0; got 0"),
        ("{server: http://x/v1, args: [--x]}", "unknown key in the backend of model 'mine' 'args'"),
        (f"{{vllm: {sys.executable}, start_timeout: -1}}", "start_timeout must be a number of seconds above 0; got -1"),
        (f"{{vllm: {sys.executable}, args: [--port, 80]}}", "args: --port: unsay sets this itself"),
    ],
)
def test_a_mistake_is_named_with_its_line(load: Callable[..., Plan], backend: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load(backend)
    (mistake,) = raised.value.mistakes
    assert "lab.yaml:1: " in mistake
    assert message in mistake
    assert "secret" not in mistake


def test_all_mistakes_come_at_once(load: Callable[..., Plan]) -> None:
    with pytest.raises(ConfigError) as raised:
        load("{vllm: ./nowhere, args: [--host, 0.0.0.0, --quantization=fp8], timeout: soon}", "vanilla", "fewshot_x")
    assert len(raised.value.mistakes) == 5


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--host", "0.0.0.0"), "reachable from this machine only"),
        (("--api_key=x",), "a key is made up"),
        (("--dtype", "half"), "use `unsay run --dtype`"),
        (("--quantization", "fp8"), "changes what the model computes"),
        (("-q", "fp8"), "changes what the model computes"),
        (("--hf-overrides.rope_theta", "1"), "changes what the model computes"),
        (("--quant", "fp8"), "write arguments in full; this may mean --quantization"),
        (("--max-num-seqs", "64", "--gpu-memory-utilization=0.8", "-tp", "2", "--max-model-len", "4096"), None),
    ],
)
def test_arguments_for_vllm(args: tuple[str, ...], message: str | None) -> None:
    found = wrong_args(args)
    assert len(found) == (message is not None)
    assert message is None or message in found[0]


def test_a_server_that_runs_has_no_weights_that_are_still_to_be_trained(load: Callable[..., Plan]) -> None:
    plan = load("{server: http://127.0.0.1:8000/v1}", "sft", "lora/train")
    (mistake,) = preflight.check(plan, access=False)
    assert "sft trains other weights than the server at http://127.0.0.1:8000/v1 has" in mistake


def test_an_interpreter_without_vllm_is_found_out_before_a_run(load: Callable[..., Plan], tmp_path: Path) -> None:
    plan = load(f"{{vllm: {sys.executable}}}")
    assert not [each for each in preflight.check(plan, access=False) if "vLLM" in each]
    assert f"{sys.executable} finds no vLLM; install it there" in "\n".join(preflight.check(plan))
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho no such library >&2\nexit 1\n")
    broken.chmod(0o755)
    assert "finds no vLLM: no such library" in "\n".join(preflight.check(load(f"{{vllm: {broken}}}")))
    assert os.access(broken, os.X_OK)
