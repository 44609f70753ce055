"""The study of whether undo helps, in small: one command from nothing to its page, and nothing to do afterwards."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from unsay import config
from unsay.store import read

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "examples"
SMALLER = (
    (r"max_steps: \d+", "max_steps: 3"),
    (r"max_samples: \d+", "max_samples: 48"),
    (r"\[1, 2, 3, 4, 5, 6\]", "[1, 2]"),
    (r"seed: \[1, 2, 3\]", "seed: [1]"),
    (r"\[SFT-1, SFT-2, SFT-3\]", "[SFT-1]"),
    (r"(?m)^  - \{id: SFT-[23].*\n", ""),
    (r"(?m)^      (slip-planted-bias|slip-unmasked|random|future).*\n", ""),
)


def run(folder: Path) -> str:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = ["sh", str(folder / "examples" / "backtracking.sh"), "--limit", "8"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_study_goes_from_nothing_to_its_page(tmp_path: Path) -> None:
    (tmp_path / "examples").mkdir()
    for name in ("backtracking.yaml", "backtracking.sh"):
        text = (EXAMPLES / name).read_text(encoding="utf-8")
        for pattern, instead in SMALLER if name.endswith(".yaml") else ():
            text, count = re.subn(pattern, instead, text)
            assert count
        (tmp_path / "examples" / name).write_text(text, encoding="utf-8")
    planned = len(config.load(tmp_path / "examples" / "backtracking.yaml").experiments)
    run(tmp_path)
    entries = read.find(tmp_path / "outputs")
    done = [entry for entry in entries if entry.record is not None and entry.record.status == "completed"]
    assert len(done) == planned >= 15
    page = (tmp_path / "BACKTRACKING.md").read_text(encoding="utf-8")
    for heading in ("Conclusion", "Recovery from a planted mistake", "Behind a planted mistake", "matched sampled"):
        assert heading in page
    planted = next(entry for entry in done if entry.record is not None and entry.record.config == "slip-planted")
    traces = list(read.traces(planted.folder))
    assert all(trace.beginning is not None and trace.ids[: trace.beginning.given] for trace in traces)
    words = next(entry for entry in done if entry.record is not None and entry.record.config == "slip-words")
    rows = (words.folder.parent / "data" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    assert any("u" in json.loads(row)["provenance"] for row in rows)

    hashes = {entry.relative: entry.record.hashes for entry in done if entry.record is not None}
    run(tmp_path)
    again = [entry for entry in read.find(tmp_path / "outputs") if entry.limit is not None]
    assert {entry.relative: entry.record.hashes for entry in again if entry.record is not None} == hashes
    assert all(len(entry.record.attempts) == 1 for entry in again if entry.record is not None)
