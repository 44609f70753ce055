"""A small lab and its viewer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.unit.lab import make_lab
from tests.unit.web.site import visit


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    return make_lab(tmp_path / "outputs")


@pytest.fixture
def client(lab: Path) -> Iterator[TestClient]:
    with visit(lab) as found:
        yield found
