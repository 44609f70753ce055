"""Which part may import which, and that the reading half stays light: the rules the layout rests on, checked."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import unsay

PACKAGE = Path(unsay.__file__).parent
FEWEST_FILES = 75

BOTTOM = {"undo", "records", "errors", "settings", "catalog", "stats", "redaction", "cores"}
"""What any part may import. Plain Python, no files but their own."""

# The experiment file: one step, spread over files that nobody but `config` and its users needs.
FILE = {"config", "definitions", "identity", "located", "overrides", "suffix"}

MAY_IMPORT: dict[str, set[str]] = {
    # the bottom row itself
    "errors": set(),
    "records": set(),
    "settings": set(),
    "redaction": set(),
    "cores": set(),
    "undo": {"errors", "records"},
    "catalog": {"errors"},
    "stats": {"errors"},
    # the experiment file, what it needs and what it will do
    "lm_eval_files": set(),
    "lm_eval_metrics": set(),
    "prompt_checks": BOTTOM,
    "backend": set(),
    "located": BOTTOM,
    "identity": BOTTOM | {"config", "lm_eval_files"},
    "suffix": BOTTOM | {"identity"},
    "overrides": BOTTOM | {"located"},
    "definitions": BOTTOM | {"backend", "lm_eval_files", "located", "overrides"},
    "placement": BOTTOM | {"located", "overrides"},
    "config": BOTTOM | FILE | {"placement", "store", "preflight"},
    "preflight": BOTTOM | {"backend", "config", "lm_eval_files", "overrides"},
    "accelerate_file": BOTTOM,
    "accounting": BOTTOM,
    "model_names": BOTTOM | {"config", "definitions", "store"},
    "planning": BOTTOM | {"config", "preflight", "store"},
    "estimate": BOTTOM | {"models", "planning"},
    # folders of interchangeable files, which know the bottom row and their own contract
    "datasets": BOTTOM,
    "augment": BOTTOM,
    "models": BOTTOM,
    "metrics": BOTTOM | {"ngrams"},
    "ngrams": set(),
    "scoring": BOTTOM | {"metrics"},
    # results of other tools
    "importers": BOTTOM | {"lm_eval_metrics"},
    "handkept_page": BOTTOM | {"importers"},
    "foreign_scores": BOTTOM | {"importers", "metrics", "prompt_checks", "scoring"},
    "importing": BOTTOM | {"foreign_scores", "handkept_page", "identity", "importers", "store"},
    # results
    "store": BOTTOM,
    "report": BOTTOM | {"accounting", "metrics", "prompt_checks", "store"},
    # computing
    "engine": BOTTOM | {"backend"},
    "prompts": BOTTOM | {"models"},
    "loading": BOTTOM | {"models", "store"},
    "train": BOTTOM | {"accounting", "loading", "store"},
    "data": BOTTOM | {"augment", "config", "datasets", "definitions", "store"},
    "evaluate": BOTTOM
    | {
        "augment",
        "backend",
        "config",
        "data",
        "engine",
        "identity",
        "job",
        "lm_eval_files",
        "lm_eval_metrics",
        "loading",
        "metrics",
        "model_names",
        "models",
    }
    | {"prompt_checks", "prompts", "store"},
    # carrying experiments out
    "code_version": set(),
    "job": BOTTOM | {"backend", "config", "identity", "store"},
    "methods": BOTTOM
    | {"augment", "config", "data", "definitions", "engine", "evaluate", "identity", "job", "store", "train"}
    | {"accelerate_file", "accounting"},
    "worker": BOTTOM | {"accounting", "code_version", "executors", "identity", "job", "store"},
    "executors": BOTTOM | {"job", "store", "worker"},
    # a process that answers parts of somebody's prompts
    "shard": BOTTOM | {"evaluate", "worker"},
    "interrupt": BOTTOM | {"executors"},
    "runner": BOTTOM
    | {"backend", "config", "executors", "identity", "interrupt", "job", "placement", "report", "store"},
    "why": BOTTOM | {"config", "identity", "job", "report", "runner", "store"},
    # a plan in small; the models for it are made by a process of their own
    "rehearsal": BOTTOM
    | {"backend", "config", "estimate", "job", "models", "planning", "preflight", "runner", "store"},
    "stand_in": BOTTOM | {"loading", "models", "store"},
    # a plain model, written by a process of its own
    "merge": BOTTOM | {"config", "evaluate", "loading", "store"},
    # answers to somebody who watches, written by a process of its own
    "answering": BOTTOM | {"config", "engine", "evaluate", "prompts"},
    # what a person touches: these see the reading half
    "cli": BOTTOM
    | FILE
    | {"foreign_scores", "handkept_page", "importers", "importing"}
    | {"executors", "job", "placement", "planning", "preflight", "report", "runner", "store"}
    | {"accelerate_file", "backend", "estimate", "model_names", "rehearsal", "web", "why"},
    # a lab from Python
    "lab": BOTTOM | {"report", "store"},
    # a lab in a browser
    "web": BOTTOM | {"lab", "metrics", "report", "store"},
    "__init__": BOTTOM | FILE | {"lab", "report", "store"},
    "__main__": {"cli"},
}

COMPUTING = {"answering", "engine", "train", "evaluate", "methods", "data", "loading", "merge", "shard", "stand_in"}
"""Parts that may import heavy libraries; all the others are read on a laptop without torch."""

HEAVY = {"torch", "transformers", "lm_eval", "scipy", "peft", "datasets", "accelerate", "safetensors", "pandas"}

ONE_PLACE = {
    "lm_eval": {
        "evaluate/lm_eval_command.py",
        "evaluate/lm_eval_model.py",
        "evaluate/lm_eval_tasks.py",
        "evaluate/evaluate.py",
    },
    "pynvml": {"accounting.py"},
    "ray": {"executors/ray.py"},
    "pandas": {"lab.py"},
    "peft": {"loading.py", "train/lora.py"},
    "datasets": {"data/source.py"},
}
"""Libraries that move: each is touched in these files only."""


@dataclass(frozen=True)
class Import:
    """One imported module of a file; `late` inside a function, `typing` where only a type checker looks."""

    file: str
    line: int
    module: str
    late: bool
    typing: bool

    @property
    def part(self) -> str | None:
        """Return the part of this package it belongs to; None for other libraries."""
        head, _, rest = self.module.partition(".")
        return (rest.split(".")[0] or "__init__") if head == "unsay" else None

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.module}"


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def part_of(file: str) -> str:
    return file.partition("/")[0].removesuffix(".py")


def imports(path: Path) -> Iterator[Import]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    yield from _imports(tree, path.relative_to(PACKAGE).as_posix(), late=False, typing=False)


def _imports(node: ast.AST, file: str, *, late: bool, typing: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(file, child.lineno, name.name, late, typing) for name in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{file}:{child.lineno}: imports are written in full"
            module = child.module or ""
            for name in child.names:
                inner = f"{module}.{name.name}"
                yield Import(file, child.lineno, inner if is_module(inner) else module, late, typing)
        else:
            checked = isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _imports(child, file, late=late or function, typing=typing or checked)


def is_module(name: str) -> bool:
    if not name.startswith("unsay."):
        return False
    place = PACKAGE.joinpath(*name.split(".")[1:])
    return place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()


@pytest.fixture(scope="module")
def everything() -> list[Import]:
    found = [item for path in files() for item in imports(path)]
    assert len(files()) >= FEWEST_FILES, "the walk went past the package"
    assert len(found) > 5 * len(files())
    return found


def test_every_part_is_in_the_table_and_no_other() -> None:
    parts = {part_of(path.relative_to(PACKAGE).as_posix()) for path in files()}
    assert parts == set(MAY_IMPORT)


def test_imports_go_down_only(everything: list[Import]) -> None:
    wrong = [
        str(item)
        for item in everything
        if item.part is not None
        and item.part not in {part_of(item.file), "__init__"}
        and item.part not in MAY_IMPORT[part_of(item.file)]
    ]
    assert wrong == []


def test_the_table_allows_nothing_that_is_not_used(everything: list[Import]) -> None:
    """A rule that nobody needs any more would let something in unseen."""
    used = {(part_of(item.file), item.part) for item in everything}
    unused = {
        part: sorted(other for other in allowed - BOTTOM - FILE if (part, other) not in used)
        for part, allowed in MAY_IMPORT.items()
    }
    assert {part: others for part, others in unused.items() if others} == {}


def test_interchangeable_files_never_import_each_other(everything: list[Import]) -> None:
    folders = ("datasets", "augment", "models", "metrics", "methods", "executors", "importers")
    neighbours = [
        str(item)
        for item in everything
        for folder in folders
        if item.file.startswith(f"{folder}/")
        and item.module.startswith(f"unsay.{folder}.")
        and not item.module.startswith(f"unsay.{folder}._")  # a part of one of them
    ]
    assert neighbours == []


def test_only_the_computing_half_imports_heavy_libraries(everything: list[Import]) -> None:
    wrong = [
        str(item)
        for item in everything
        if item.module.split(".")[0] in HEAVY
        and not item.typing
        and part_of(item.file) not in COMPUTING
        # a frame is made only for whoever asks for one
        and not (item.late and item.file in ONE_PLACE["pandas"] and item.module == "pandas")
    ]
    assert wrong == []


def test_the_reading_half_does_not_import_the_computing_half(everything: list[Import]) -> None:
    """Methods are found by name in the worker's process; the reading half must work without them."""
    wrong = [
        str(item)
        for item in everything
        if item.part in COMPUTING and part_of(item.file) not in COMPUTING and not item.typing
    ]
    assert wrong == []


@pytest.mark.parametrize("library", sorted(ONE_PLACE))
def test_a_library_that_moves_is_touched_in_one_place(everything: list[Import], library: str) -> None:
    found = {item.file for item in everything if item.module.split(".")[0] == library}
    assert found == ONE_PLACE[library]


def test_there_is_no_import_cycle(everything: list[Import]) -> None:
    """Imports inside functions and for the type checker aside: those run when every module is there."""
    graph: dict[str, set[str]] = {}
    for item in everything:
        if item.part is not None and not item.late and not item.typing:
            graph.setdefault(module_of(item.file), set()).add(item.module)
    for path in files():  # a module's package is imported before the module itself
        module = module_of(path.relative_to(PACKAGE).as_posix())
        assert not reaches_itself(module, graph), f"{module} imports itself through others"


def module_of(file: str) -> str:
    return ".".join(["unsay", *file.removesuffix(".py").removesuffix("__init__").strip("/").split("/")]).rstrip(".")


def reaches_itself(module: str, graph: dict[str, set[str]]) -> bool:
    seen: set[str] = set()
    waiting = list(graph.get(module, ()))
    while waiting:
        other = waiting.pop()
        if other == module:
            return True
        if other not in seen:
            seen.add(other)
            waiting += graph.get(other, ())
    return False


def test_no_file_has_a_name_that_says_nothing() -> None:
    empty = {"utils", "util", "common", "helpers", "helper", "manager", "extras", "misc"}
    assert [path for path in files() if path.stem in empty] == []


@pytest.mark.parametrize(
    "module",
    [
        "unsay", "unsay.lab", "unsay.cli", "unsay.config", "unsay.runner", "unsay.preflight", "unsay.planning",
        "unsay.stats", "unsay.why", "unsay.accounting", "unsay.report.markdown", "unsay.report.terminal",
        "unsay.store.read", "unsay.executors.local", "unsay.worker", "unsay.web.server",
    ],
)  # fmt: skip
def test_a_fresh_interpreter_imports_nothing_heavy(module: str) -> None:
    """The commands themselves are watched in the tests of the command line."""
    code = f"import sys, {module}; print(sorted(set({sorted(HEAVY)!r}) & sys.modules.keys()))"
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr
