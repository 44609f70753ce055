"""The benchmark of generation runs, and its two sides write the same answers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "generate.py"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--settings", "0-shot", "8-shot-shared", "--batches", "2"], "<- its best"),
        (["--rewind"], "times what it costs without undo"),
    ],
)
def test_a_few_documents(options: list[str], expected: str) -> None:
    small = ["--documents", "3", "--rounds", "1", "--no-default", "--shape", "tiny"]
    done = subprocess.run([sys.executable, BENCHMARK, *small, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout
    assert "differ" not in done.stdout
