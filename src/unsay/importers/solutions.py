"""Answers of several systems in one JSON Lines file, as GSM8K's authors released theirs.

Each line holds a question, its reference (`ground_truth` or `answer`) and, under the name of every system, an object
with a `solution` and perhaps `is_correct`. Every system becomes an experiment.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unsay import importers
from unsay.importers import File, ForeignError, Found, Item, Options, Refused
from unsay.records import Sample

REFERENCES = ("ground_truth", "answer")
MOST_SYSTEMS = 200


@dataclass(frozen=True)
class Solutions:
    """One file with the answers of several systems to the same questions."""

    def claims(self, file: File) -> bool:
        if file.path.suffix != ".jsonl" or b'"solution"' not in importers.head(file.path):
            return False
        line = importers.first_line(file.path)
        return line is not None and bool(_systems(line))

    def find(self, files: Sequence[File], options: Options) -> tuple[list[Found], list[Refused]]:
        return importers.of_each(files, self.claims, lambda path: _experiments(path, options))


def _experiments(path: Path, options: Options) -> list[Found]:
    systems: list[str] = []
    judged: set[str] = set()
    n = 0
    for at, line in importers.lines(path):
        here = _systems(line)
        if not systems:
            systems = here
            if len(systems) > MOST_SYSTEMS:
                raise ForeignError(f"expected at most {MOST_SYSTEMS} systems, got {len(systems)}")
        if not systems or any(name not in here for name in systems):
            wanted = ", ".join(map(importers.name_of, systems)) or "at least one system"
            raise ForeignError(
                f"line {at}: expected question, a reference ({' or '.join(REFERENCES)}) and a solution of {wanted}, "
                f"got {importers.keys_of(line)}"
            )
        judged |= {name for name in systems if isinstance(line[name].get("is_correct"), bool)}
        n += 1
    return [
        Found(
            tool="model solutions",
            files=(path,),
            part=system,
            model=importers.name_of(system),
            dataset=options.dataset or "gsm8k",
            method="sft",
            config="released",
            items=_Stream(path, system, options),
            expected=n,
            exact_match={},
            item_definitions={"is_correct": "judgement published with the answers"} if system in judged else {},
            warnings=("prompts, decoding and versions are not in the file",),
            facts={"samples": n} | ({"marker": options.marker} if options.marker else {}),
        )
        for system in systems
    ]


@dataclass(frozen=True)
class _Stream:
    """The items of one system, read anew each time."""

    path: Path
    system: str
    options: Options

    def __call__(self) -> Iterator[Item]:
        for at, (_, line) in enumerate(importers.lines(self.path)):
            answer = line[self.system]
            correct = answer.get("is_correct")
            sample = Sample(
                key=str(at),
                question=line["question"],
                label=self.options.marked(_reference(line) or ""),
                predict=self.options.marked(answer["solution"]),
            )
            scores = {"is_correct": 100.0 * correct} if isinstance(correct, bool) else {}
            yield Item(sample, scores=scores)


def _systems(line: dict[str, Any]) -> list[str]:
    if not isinstance(line.get("question"), str) or _reference(line) is None:
        return []
    return [name for name, value in line.items() if isinstance(value, dict) and isinstance(value.get("solution"), str)]


def _reference(line: dict[str, Any]) -> str | None:
    return next((line[key] for key in REFERENCES if isinstance(line.get(key), str)), None)
