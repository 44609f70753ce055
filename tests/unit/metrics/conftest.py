"""Where the real data for acceptance tests lies, and texts that break scorers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data: `UNSAY_TEST_DATA`, or `shared/data` beside the project."""
    named = os.environ.get("UNSAY_TEST_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[4] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the real test data, not found at {folder} (set UNSAY_TEST_DATA)")
    return folder
