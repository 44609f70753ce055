"""Which code ran: the commit of a folder under version control, and whether its files were changed since.

    of_package()                 # {"commit": "3759727…", "dirty": False}; None for an installed release
    of_folder(Path("."))         # the same for the folder of an experiment file

Addresses of remotes are never read: they may hold passwords.
"""

from __future__ import annotations

import json
import os
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

_PATIENCE = 10.0
"""Seconds for git; a repository on a slow disk does not hold up an experiment."""


def of_package() -> dict[str, Any] | None:
    """Return the commit of this package: of its checkout, or of what pip installed it from."""
    here = Path(__file__)
    if _git(here.parent, "ls-files", "--error-unmatch", "--", here.name) is not None:
        return of_folder(here.parent)
    try:
        origin = json.loads(metadata.distribution("unsay").read_text("direct_url.json") or "{}")
        commit = origin["vcs_info"]["commit_id"]
    except (metadata.PackageNotFoundError, ValueError, KeyError, TypeError):
        return None
    return {"commit": str(commit), "dirty": False}


def of_folder(folder: Path) -> dict[str, Any] | None:
    """Return commit and state of the repository a folder lies in; None where there is none, or no git.

    `dirty` says whether a file that git knows differs from the commit; None where git takes too long to tell.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    """Return what git prints; None where it fails. It changes nothing, not even its own index."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            env=os.environ | {"GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
