"""YAML whose values remember where they were written, read with the safe loader only.

Every scalar keeps its text beside its value, so that a name like `no` or `007` can still be read as written. Duplicate
keys and values that contain themselves are mistakes. Knows nothing about experiments.

    root, mistakes = read(text, "gsm8k.yaml")
    root.mapping()["seed"].line
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import yaml

LARGEST = 200_000
"""Values in one file; aliases of aliases can write far more than a file's size."""

_COLLECTIONS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")


@dataclass(frozen=True)
class Located:
    """A value and its line, counted from 1.

    `value` is a dict (text -> Located), a list of Located, or a scalar; `text` is a scalar as it was written. A value
    of a mapping has its key's line.
    """

    value: Any
    line: int
    text: str = ""

    def mapping(self) -> dict[str, Located]:
        return self.value if isinstance(self.value, dict) else {}

    def scalars(self) -> Iterator[Located]:
        """Yield every value inside that holds no others."""
        inside = self.value.values() if isinstance(self.value, dict) else self.value
        if isinstance(inside, str) or not isinstance(inside, Iterable):
            yield self
            return
        for item in inside:
            yield from item.scalars()

    def plain(self) -> Any:
        """Return the value without lines."""
        if isinstance(self.value, dict):
            return {key: item.plain() for key, item in self.value.items()}
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        return self.value

    def described(self) -> str:
        """Return the value for a message: short, on one line."""
        if isinstance(self.value, dict):
            return "a mapping"
        if isinstance(self.value, list):
            return "a list"
        if self.value is None:
            return "nothing"
        shown = self.text if len(self.text) <= 60 else self.text[:57] + "…"
        return repr(shown) if isinstance(self.value, str) else shown


def read(text: str, name: str) -> tuple[Located, list[str]]:
    """Return the document and the mistakes found in it; a broken document is an empty mapping."""
    mistakes: list[str] = []
    nothing = Located({}, 1)
    try:
        loader = yaml.SafeLoader(text)
    except yaml.YAMLError as error:
        return nothing, [f"{name}:1: not YAML: {_one_line(error)}"]
    try:
        node = loader.get_single_node()
        if node is None:
            return nothing, [f"{name}:1: the file is empty"]
        root = _locate(node, node.start_mark.line + 1, _Walk(loader, name, mistakes))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        mistakes.append(f"{name}:{mark.line + 1 if mark else 1}: not YAML: {_problem(error)}")
        return nothing, mistakes
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        return nothing, [*mistakes, f"{name}:1: not YAML: {_one_line(error)}"]
    finally:
        loader.dispose()
    return root, mistakes


class _Walk:
    def __init__(self, loader: yaml.SafeLoader, name: str, mistakes: list[str]) -> None:
        self.loader = loader
        self.name = name
        self.mistakes = mistakes
        self.open: set[int] = set()
        self.count = 0

    def say(self, line: int, message: str) -> None:
        self.mistakes.append(f"{self.name}:{line}: {message}")


def _locate(node: yaml.Node, line: int, walk: _Walk) -> Located:
    walk.count += 1
    if walk.count > LARGEST:
        raise yaml.YAMLError(f"more than {LARGEST:,} values (aliases of aliases?)")
    if isinstance(node, yaml.ScalarNode):
        return Located(_scalar(node, line, walk), line, str(node.value))
    if id(node) in walk.open:
        raise yaml.MarkedYAMLError(problem="a value contains itself through an alias", problem_mark=node.start_mark)
    if node.tag not in _COLLECTIONS:
        raise yaml.MarkedYAMLError(problem=f"the tag {node.tag} is not allowed", problem_mark=node.start_mark)
    walk.open.add(id(node))
    try:
        if isinstance(node, yaml.SequenceNode):
            items = [_locate(item, item.start_mark.line + 1, walk) for item in node.value]
            return Located(items, line)
        return Located(_mapping(node, walk), line)
    finally:
        walk.open.discard(id(node))


def _mapping(node: yaml.Node, walk: _Walk) -> dict[str, Located]:
    pairs: dict[str, Located] = {}
    merged: dict[str, Located] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if key.tag == "tag:yaml.org,2002:merge":
            located = _locate(value, line, walk)
            for source in located.value if isinstance(located.value, list) else [located]:
                merged = {**source.mapping(), **merged}
        elif not isinstance(key, yaml.ScalarNode):
            walk.say(line, "a key must be a word, not a list or mapping")
        elif key.value in pairs:
            walk.say(line, f"duplicate key {key.value!r}; first written on line {pairs[key.value].line}")
        else:
            pairs[str(key.value)] = _locate(value, line, walk)
    return {**merged, **pairs}


def _scalar(node: yaml.ScalarNode, line: int, walk: _Walk) -> Any:
    try:
        return walk.loader.construct_object(node)
    except (yaml.MarkedYAMLError, ValueError, OverflowError) as error:
        problem = _problem(error) if isinstance(error, yaml.MarkedYAMLError) else str(error)
        walk.say(line, f"cannot read {str(node.value)!r}: {problem}")
        return None


def _problem(error: yaml.MarkedYAMLError) -> str:
    return " ".join(str(part) for part in (error.context, error.problem) if part).replace("\n", " ")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
