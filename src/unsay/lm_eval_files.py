"""Which file of the installed lm-eval defines a task, found without importing lm-eval.

folder = tasks_folder()             # None where lm-eval is not installed
file = find_task(folder, "gsm8k")   # …/lm_eval/tasks/gsm8k/gsm8k.yaml
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

TASK_FILES = (".yaml", ".yml")
"""A task whose name ends like this is a file of the user's own."""

MATH = ("math_verify", "antlr4", "sympy")
"""What tasks with formulas import, and the extra `math` brings."""

_INCLUDE = re.compile(r"^include:[ \t]*[\"']?([^\s\"'#]+)", re.MULTILINE)
_FUNCTION = re.compile(r"!function[ \t]+([\w.]+)\.\w+")
_HEADER = re.compile(r"^task:[ \t]*[\"']?([^\s\"'#]+)", re.MULTILINE)


def tasks_folder() -> Path | None:
    """Return the folder of lm-eval's own tasks; None where lm-eval is not installed."""
    try:
        found = importlib.util.find_spec("lm_eval")
    except ValueError:  # something that only pretends to be a module
        return None
    places = list(found.submodule_search_locations or ()) if found is not None else []
    return Path(places[0]) / "tasks" if places else None


def find_task(folder: Path, name: str) -> Path | None:
    """Return the file that defines a task, or None."""
    header = re.compile(rf"^task:\s*[\"']?{re.escape(name)}[\"']?\s*$", re.MULTILINE)
    # A task usually lives in a folder that begins like its name; only when it does not, every file is read.
    first = _literal(name.split("_")[0])
    for pattern in (f"{_literal(name)}/*.yaml", f"{first}/**/*.yaml", f"{first}*/**/*.yaml", "**/*.yaml"):
        for path in sorted(folder.glob(pattern)):
            if header.search(path.read_text(encoding="utf-8")):
                return path
    return None


def task_names(folder: Path) -> list[str]:
    """Return the name of every task. Reads every file, which takes seconds."""
    texts = (path.read_text(encoding="utf-8") for path in folder.glob("**/*.yaml"))
    return sorted({match[1] for text in texts if (match := _HEADER.search(text))})


def missing_math(file: Path) -> str | None:
    """Return a library of the extra `math` that a task's own code imports and that is not installed; None: nothing is.

    Reads the file, what it includes and the Python beside them; imports nothing.
    """
    seen: set[Path] = set()
    waiting = [file]
    while waiting:
        place = waiting.pop()
        if place in seen or not place.is_file():
            continue
        seen.add(place)
        text = place.read_text(encoding="utf-8", errors="replace")
        if place.suffix == ".py":
            for name in MATH:
                if re.search(rf"^\s*(?:import|from)\s+{name}\b", text, re.MULTILINE) and not _installed(name):
                    return name
            continue
        waiting += [place.parent / name for name in _INCLUDE.findall(text)]
        waiting += [place.parent / f"{name.replace('.', '/')}.py" for name in _FUNCTION.findall(text)]
    return None


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _literal(name: str) -> str:
    """Return a folder's name as a pattern that stays below lm-eval's folder and matches nothing else."""
    return re.sub(r"[^A-Za-z0-9._-]|^\.+", "?", name) or "?"
