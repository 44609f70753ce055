"""The package as a stranger gets it: the wheel has every file, and works in a fresh environment from another folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from email import message_from_string
from pathlib import Path

import pytest

import unsay
from tests.unit.lab import make_lab

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CODE_AND_FACTS = ("pyproject.toml", "README.md", "LICENSE")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.egg-info")


def run(*command: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command that sees nothing of this checkout, not even its Python path."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    words = [str(word) for word in command]
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=1800)


def succeed(*command: str | Path, folder: Path) -> str:
    done = run(*command, folder=folder)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("source")
    for name in CODE_AND_FACTS:
        shutil.copy(ROOT / name, source / name)
    shutil.copytree(ROOT / "src", source / "src", ignore=LEFT_OUT)
    succeed(sys.executable, "-m", "build", "--wheel", "--outdir", source / "dist", folder=source)
    (built,) = (source / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def install(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that installs the wheel with an extra ("" for none) and gives the environment's programs."""

    def make(extra: str) -> Path:
        place = tmp_path_factory.mktemp("environment")
        succeed(sys.executable, "-m", "venv", place, folder=place)
        requirement = f"{wheel}[{extra}]" if extra else str(wheel)
        pip = place / "bin" / "pip"
        succeed(pip, "install", "--quiet", "-c", ROOT / "constraints.txt", requirement, folder=place)
        succeed(pip, "check", folder=place)
        return place / "bin"

    return make


def test_the_wheel_has_every_file_of_the_package(wheel: Path) -> None:
    package = Path(unsay.__file__).parent
    files = {
        f"unsay/{path.relative_to(package).as_posix()}"
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
        (facts,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = message_from_string(archive.read(facts).decode())
    assert inside == files
    tiny = {f"unsay/assets/unsay-tiny/{name}" for name in ("config.json", "model.safetensors", "tokenizer.json")}
    assert {"unsay/py.typed", "unsay/assets/builtin.yaml", "unsay/assets/demo.yaml", *tiny} <= inside
    assert metadata["Version"] == unsay.__version__
    assert metadata["License-Expression"] == "Apache-2.0"


def test_the_core_install_reads_and_reports_without_torch(install: Callable[[str], Path], tmp_path: Path) -> None:
    programs = install("")
    make_lab(tmp_path / "outputs")
    assert "Commands:" in succeed(programs / "unsay", "--help", folder=tmp_path)
    assert "EXP-004" in succeed(programs / "unsay", "status", folder=tmp_path)
    assert "6 experiments and 1 limited runs in" in succeed(programs / "unsay", "report", folder=tmp_path)
    assert "EXP-004" in (tmp_path / "EXPERIMENTS.md").read_text()
    succeed(programs / "unsay", "report", "--html", "report.html", folder=tmp_path)
    assert "EXP-004" in (tmp_path / "report.html").read_text()
    assert "taken back" in succeed(programs / "unsay", "show", "EXP-004", "0", folder=tmp_path)
    assert "unsay-tiny" in succeed(programs / "unsay", "ls", folder=tmp_path)
    succeed(programs / "unsay", "init", folder=tmp_path)
    assert "EXP-003" in succeed(programs / "unsay", "run", "experiments.yaml", "--dry-run", folder=tmp_path)
    refused = run(programs / "unsay", "run", "experiments.yaml", folder=tmp_path)
    assert refused.returncode != 0
    assert "[train]" in refused.stderr
    for heavy in ("torch", "transformers", "lm_eval", "scipy"):
        assert run(programs / "python", "-c", f"import {heavy}", folder=tmp_path).returncode != 0


def test_the_whole_loop_runs_from_another_folder(install: Callable[[str], Path], tmp_path: Path) -> None:
    programs = install("train")
    where = succeed(programs / "python", "-c", "import unsay; print(unsay.__file__)", folder=tmp_path)
    assert Path(where.strip()).is_relative_to(programs.parent)
    printed = succeed(programs / "unsay", "demo", "--limit", "4", folder=tmp_path)
    assert printed.count("completed") >= 4
    assert "4 of 600" in (tmp_path / "EXPERIMENTS.md").read_text()
