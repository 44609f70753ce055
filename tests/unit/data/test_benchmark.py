"""The benchmark of building rows runs, for every strategy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from unsay import catalog

ROOT = Path(__file__).parents[3]


def test_a_few_rows() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "data.py"), "--rows", "40", "--rounds", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()[2:]]
    assert lines[0][:3] == ["rows", "per", "second"]
    assert [line[0] for line in lines[1:]] == list(catalog.names("augment"))
    for line in lines[1:]:
        assert all(float(value.replace(",", "")) > 0 for value in line[1:])
        assert 36 <= int(line[-1]) <= 40
