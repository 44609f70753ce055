"""The benchmark of executors runs, with a few questions and jobs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_a_few_questions_and_jobs() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "executors.py")]
    command += ["--items", "--count", "6", "--jobs", "2", "--executors", "inline", "local"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    size = r"the run [\d.]+ MiB, in the end [\d.]+; what it started [\d.]+ MiB, in the end [\d.]+"
    kinds = [
        rf"{name} +(6 items in \d+ s|2 jobs, \d+ ms each): {size}" for name in ("inline", "local") for _ in range(2)
    ]
    for line, pattern in zip(done.stdout.splitlines(), kinds, strict=True):
        assert re.fullmatch(pattern, line), line
