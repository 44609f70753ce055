"""Fixtures shared by all tests: tiny real models, built once per session."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" in os.environ:  # several processes share the cores: threads would stand in each other's way
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that gives the folder of a tiny model; one with the same options is built once."""
    from tests import tiny

    built: dict[str, Path] = {}

    def get(family: str = "qwen3", **options: object) -> Path:
        key = repr((family, sorted(options.items())))
        if key not in built:
            built[key] = tiny.tiny_model(tmp_path_factory.mktemp(f"tiny_{family}"), family, **options)
        return built[key]

    return get


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Return the folder of real data, or skip: it is not part of this repository."""
    folder = Path(os.environ.get("UNSAY_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"needs real data in {folder} (set UNSAY_TEST_DATA)")
    return folder


@pytest.fixture(scope="session")
def gsm8k(data_folder: Path) -> Path:
    """Return the folder with GSM8K's train.jsonl and test.jsonl."""
    return data_folder / "gsm8k"
