"""Fixtures of the tests that run the whole."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import crash


@pytest.fixture(scope="module")
def nursery() -> Iterator[crash.Nursery]:
    """Give a place that runs come from quickly, each a process of its own."""
    made = crash.Nursery()
    yield made
    made.end()
