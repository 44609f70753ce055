"""Find a plug-in by its file name. A folder of interchangeable files is its own registry; there is no list to extend.

Listing and summarising import nothing; a file is imported when its name is used. The folder's `__init__` holds the
contract of its files, each file one public frozen dataclass whose fields are its options. Names starting with `_` are
skipped. Another distribution adds names with an entry point in the group `unsay.<folder>`. What a plug-in does is
unknown here.

    catalog.names("augment")                        # ('arithmetic_slip', 'random_tokens', …)
    catalog.plugin("augment", "random_tokens")()    # one instance with its default options
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import importlib
import importlib.metadata
import importlib.util
import pkgutil
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from types import ModuleType

from unsay.errors import ConfigError, UnsayError

_PACKAGE = Path(__file__).parent


def names(folder: str) -> tuple[str, ...]:
    """Return the names of all plug-ins of a folder, sorted."""
    return tuple(sorted({*_files(folder), *_entry_points(folder)}))


def summary(folder: str, name: str) -> str:
    """Return the first line of a plug-in's docstring without importing it; "" when it has none."""
    path = _source(_module_name(folder, name))
    if path is None:
        return ""
    try:
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    except SyntaxError:
        return "(this file cannot be read as Python)"
    return docstring.strip().splitlines()[0].strip() if docstring and docstring.strip() else ""


def load(folder: str, name: str) -> ModuleType:
    """Import one plug-in's module."""
    return importlib.import_module(_module_name(folder, name))


def plugin(folder: str, name: str) -> type:
    """Return the one public frozen dataclass of a plug-in's module; its fields are the plug-in's options."""
    module = load(folder, name)
    found = [
        value
        for key, value in vars(module).items()
        if isinstance(value, type)
        and dataclasses.is_dataclass(value)
        and not key.startswith("_")
        and value.__module__ == module.__name__
    ]
    exported = [value for value in found if value.__name__ in getattr(module, "__all__", ())]
    found = exported or found
    if len(found) != 1:
        got = ", ".join(value.__name__ for value in found) or "none"
        raise UnsayError(
            f"{module.__name__} should hold exactly one public dataclass, its plug-in; it holds {got}. "
            "Start the names of the others with an underscore."
        )
    return found[0]


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that looks most like this one, or None when nothing is close."""
    folded = {item.casefold(): item for item in known}
    close = difflib.get_close_matches(name.casefold(), list(folded), n=1, cutoff=0.6)
    return folded[close[0]] if close else None


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Say that a name is not known: the nearest one first, then all of them."""
    known = tuple(known)
    close = nearest(name, known)
    hint = f"did you mean {close!r}? " if close else ""
    listing = f"there are: {', '.join(sorted(known))}" if known else "there are none"
    return f"unknown {kind} {name!r}; {hint}{listing}"


def _module_name(folder: str, name: str) -> str:
    if name in _files(folder):
        return f"unsay.{folder}.{name}"
    points = _entry_points(folder)
    if name in points:
        return points[name].module
    raise ConfigError(unknown(f"name in {folder}", name, names(folder)))


def _files(folder: str) -> tuple[str, ...]:
    if not folder.isidentifier() or folder.startswith("_"):
        return ()
    found = pkgutil.iter_modules([str(_PACKAGE / folder)])
    return tuple(module.name for module in found if not module.name.startswith("_"))


def _entry_points(folder: str) -> dict[str, importlib.metadata.EntryPoint]:
    return _entry_points_on(folder, tuple(sys.path))


@cache
def _entry_points_on(folder: str, path: tuple[str, ...]) -> dict[str, importlib.metadata.EntryPoint]:
    """Look once per import path: reading what every installed distribution declares takes a hundredth of a second."""
    points = importlib.metadata.entry_points(group=f"unsay.{folder}")
    return {point.name: point for point in points if not point.name.startswith("_")}


def _source(module: str) -> Path | None:
    """Return the file of a module. Looks up the top package only, as anything deeper would import its parents."""
    head, *rest = module.split(".")
    if head == "unsay":
        roots = [_PACKAGE]
    else:
        spec = importlib.util.find_spec(head)
        if spec is None:
            return None
        if not rest and spec.origin:
            return Path(spec.origin)
        roots = [Path(place) for place in spec.submodule_search_locations or ()]
    for root in roots:
        base = root.joinpath(*rest)
        for path in (base.with_name(base.name + ".py"), base / "__init__.py"):
            if path.is_file():
                return path
    return None
