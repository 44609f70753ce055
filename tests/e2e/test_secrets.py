"""Tokens and passwords of whoever runs an experiment are in no file, no log, no page and no output afterwards."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import crash
from unsay import cli
from unsay.redaction import REDACTED
from unsay.store import layout, read

SECRETS = {
    "HF_TOKEN": "hf_ThisIsNotARealToken0123456789",
    "WANDB_API_KEY": "0f1e2d3c4b5a69788796a5b4c3d2e1f0",
    "OPENAI_API_KEY": "sk-not-a-real-key-0123456789",
    "UNSAY_SERVER_KEY": "a key for a server",
    "CLIENT_SECRET": 'with "quotes" and \\ in it',
    "PGPASSWORD": "pass word of nine",
}
PROXY = "http://somebody:pr0xyPassw0rd@127.0.0.1:9"

# What people do in the Python beside a task of their own, and what libraries do when a request fails.
TASK = """
task: careless
output_type: generate_until
test_split: test
process_docs: !function careless.docs
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: exact_match}]
"""
CARELESS = """
import os, sys
def docs(dataset):
    for name in %r:
        print("environment:", name, os.environ[name])
        print(repr(os.environ[name]), file=sys.stderr)
    raise RuntimeError(f"GET {os.environ['HTTPS_PROXY']}/x?token=abc failed for {os.environ['HF_TOKEN']}")
"""


@dataclass(frozen=True)
class Environment:
    """Sets the secrets in a process."""

    def __call__(self) -> None:
        os.environ |= SECRETS | {"HTTPS_PROXY": PROXY}


def assert_nowhere(text: str, where: str) -> None:
    for secret in (*SECRETS.values(), "pr0xyPassw0rd"):
        for form in (secret, json.dumps(secret)[1:-1], repr(secret)[1:-1]):
            assert form not in text, f"{where} holds {form}"


def assert_no_file_has_any(lab: Path) -> None:
    files = [path for path in lab.rglob("*") if path.is_file()]
    assert len(files) > 10
    for path in files:
        assert_nowhere(path.read_bytes().decode("utf-8", "replace"), str(path))


def test_what_a_run_writes(nursery: crash.Nursery, tmp_path: Path) -> None:
    lab = crash.make_lab(tmp_path / "lab", experiments=2, max_steps=2)
    (lab / "careless.yaml").write_text(TASK)
    (lab / "careless.py").write_text(CARELESS % list(SECRETS))
    document = json.loads((lab / "lab.yaml").read_text())
    document["datasets"]["careless"] = {"task": "./careless.yaml", "path": "./data"}
    document["experiments"].append(
        {"id": "EXP-009", "model": "unsay-tiny", "dataset": "careless", "method": "vanilla", "config": "fewshot_0"}
    )
    (lab / "lab.yaml").write_text(json.dumps(document))

    process = nursery.start(lab, *crash.run_arguments("local"), "EXP-009", "--json", inside=Environment())
    process.join()
    output = (lab / "output.txt").read_text()
    assert process.exitcode == 1, output
    folder = crash.folders(lab)["EXP-009"]
    record = read.record(folder)
    assert record is not None
    error = record.attempts[-1].error or ""
    assert f"RuntimeError: GET http://{REDACTED}@127.0.0.1:9/x?token={REDACTED} failed for {REDACTED}" in error
    (log,) = layout.logs(folder).glob("*.log")
    assert f"environment: HF_TOKEN {REDACTED}" in log.read_text()
    assert "in docs" in log.read_text(), "the trace is kept"
    assert REDACTED in output
    assert_no_file_has_any(lab)

    process = nursery.start(lab, *crash.run_arguments(), "EXP-001", "EXP-002", inside=Environment())
    process.join()
    assert process.exitcode == 0, (lab / "output.txt").read_text()[-2000:]
    assert_no_file_has_any(lab)


def test_what_a_person_writes(
    nursery: crash.Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lab = crash.make_lab(tmp_path / "lab", experiments=1)
    for name, value in (SECRETS | {"HTTPS_PROXY": PROXY}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(lab)

    # 1. An experiment file that holds a secret is refused before anything is written.
    good = json.loads((lab / "lab.yaml").read_text())
    bad = json.loads((lab / "lab.yaml").read_text())
    bad["datasets"]["own"]["path"] = "https://me:pr0xyPassw0rd@host.org/data.jsonl"
    bad["experiments"][0]["notes"] = f"logged in with {SECRETS['HF_TOKEN']}"
    (lab / "lab.yaml").write_text(json.dumps(bad, indent=1))
    assert cli.main(list(crash.run_arguments())) == 1
    said = capsys.readouterr().err
    assert "holds a password in an address" in said
    assert "holds the value of the environment variable HF_TOKEN" in said
    assert_nowhere(said, "the message")
    assert not (lab / "outputs").exists()

    # 2. A note on the command line is kept without it.
    (lab / "lab.yaml").write_text(json.dumps(good))
    process = nursery.start(lab, *crash.run_arguments())
    process.join()
    assert process.exitcode == 0
    assert cli.main(["note", "EXP-001", f"with {SECRETS['OPENAI_API_KEY']} from {PROXY}"]) == 0
    assert cli.main(["report"]) == 0
    for command in (["status", "--json"], ["show", "EXP-001", "--json"], ["show", "EXP-001"], ["status"]):
        assert cli.main(command) == 0
        out, err = capsys.readouterr()
        assert_nowhere(out + err, " ".join(command))
    assert f"with {REDACTED} from" in (lab / layout.PAGE).read_text().replace("\\", "")
    assert_no_file_has_any(lab)
