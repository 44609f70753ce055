"""The commit that ran is the one of the folder itself, whatever repository lies around it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from unsay import code_version

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="there is no git here")


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=me", "-c", "user.email=me@here"]
    done = subprocess.run(["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    (folder / "experiments").mkdir(parents=True)
    git(folder, "init", "--quiet")
    git(folder, "remote", "add", "origin", "https://me:pa55word@host.org/x.git")
    (folder / "experiments" / "lab.yaml").write_text("one")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "first")
    return folder


def test_commit_and_changes(repository: Path) -> None:
    commit = git(repository, "rev-parse", "HEAD")
    place = repository / "experiments"
    assert code_version.of_folder(place) == {"commit": commit, "dirty": False}
    (place / "outputs").mkdir()
    (place / "outputs" / "metrics.json").write_text("{}")
    assert code_version.of_folder(place) == {"commit": commit, "dirty": False}, "results are no change of the code"
    (place / "lab.yaml").write_text("two")
    assert code_version.of_folder(place) == {"commit": commit, "dirty": True}


def test_no_repository_and_no_git(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert code_version.of_folder(tmp_path) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert code_version.of_folder(repository) is None


def test_a_package_that_is_installed_inside_a_repository_is_not_that_repository(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a virtual environment that lies in the folder of somebody's own project."""
    installed = repository / ".venv" / "unsay"
    installed.mkdir(parents=True)
    shutil.copy(code_version.__file__, installed)
    monkeypatch.setattr(code_version, "__file__", str(installed / "code_version.py"))
    assert code_version.of_package() is None
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "-m", "now it is part of it")
    assert code_version.of_package() == {"commit": git(repository, "rev-parse", "HEAD"), "dirty": False}
