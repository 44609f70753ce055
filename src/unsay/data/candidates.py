"""A file of other answers to training questions, on ids, for the strategies that learn from such answers.

    {"schema": 1, "kind": "candidates", "tokenizer": "<fingerprint>", …}
    {"id": "gsm8k/train/0", "answers": [{"ids": [53, 287], "correct": false}]}

The first line names the tokenizer whose ids these are; whatever else it holds is for people. `correct` is left out
where nobody has judged an answer. Knows no tokenizer and imports no heavy library.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unsay.augment import Candidate
from unsay.errors import DataError
from unsay.records import SCHEMA
from unsay.store import write

KIND = "candidates"
_AGAIN = "make the file again with `unsay data build FILE ID --sample N`"


@dataclass(frozen=True)
class Candidates:
    """Other answers by the id of their question. `sha256` is that of the whole file."""

    answers: Mapping[str, tuple[Candidate, ...]]
    sha256: str

    def facts(self) -> dict[str, Any]:
        """Return what the manifest says of them."""
        every = [candidate for answers in self.answers.values() for candidate in answers]
        return {
            "sha256": self.sha256,
            "questions": len(self.answers),
            "answers": len(every),
            "wrong": sum(candidate.correct is False for candidate in every),
        }


def write_candidates(
    path: Path,
    answers: Iterable[tuple[str, Iterable[Candidate]]],
    *,
    tokenizer: str,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Write a file of candidates; `facts` say where they come from."""

    def judged(candidate: Candidate) -> dict[str, Any]:
        verdict = {} if candidate.correct is None else {"correct": candidate.correct}
        return {"ids": list(candidate.ids)} | verdict

    head = {"schema": SCHEMA, "kind": KIND, "tokenizer": tokenizer, **(facts or {})}
    lines = [head, *({"id": id, "answers": [judged(each) for each in found]} for id, found in answers)]
    write.write_bytes(path, b"".join(write.json_line(line) for line in lines))


def read_candidates(path: Path, *, tokenizer: str) -> Candidates:
    """Read a file of candidates; raise DataError naming file and line, also for another tokenizer's ids."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: expected a file of candidates, got {error.strerror}; {_AGAIN}") from error
    answers: dict[str, tuple[Candidate, ...]] = {}
    head: Mapping[str, Any] | None = None
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}:{number}: expected one JSON object per line, got {error}; {_AGAIN}") from error
        if head is None:
            head = _head(value, path, tokenizer)
            continue
        id, found = _answers(value, f"{path}:{number}")
        if id in answers:
            raise DataError(f"{path}:{number}: expected one line per question, got {id!r} again; {_AGAIN}")
        answers[id] = found
    if head is None:
        raise DataError(f"{path}: expected a first line that names the tokenizer, got an empty file; {_AGAIN}")
    return Candidates(answers, hashlib.sha256(content).hexdigest())


def _head(value: Any, path: Path, tokenizer: str) -> Mapping[str, Any]:
    if not isinstance(value, dict) or value.get("kind") != KIND or value.get("schema") != SCHEMA:
        raise DataError(f"{path}:1: expected a first line with kind {KIND!r} and schema {SCHEMA}; {_AGAIN}")
    if value.get("tokenizer") != tokenizer:
        raise DataError(
            f"{path}: expected ids of the tokenizer {tokenizer[:12]}…, got {str(value.get('tokenizer'))[:12]}…; "
            f"ids of one tokenizer mean nothing to another: {_AGAIN}"
        )
    return value


def _answers(value: Any, place: str) -> tuple[str, tuple[Candidate, ...]]:
    expected = f'{place}: expected {{"id": …, "answers": [{{"ids": […], "correct": true or false}}]}}'
    if not isinstance(value, dict) or not isinstance(value.get("id"), str):
        raise DataError(f"{expected}, got no id; {_AGAIN}")
    if not isinstance(value.get("answers"), list):
        raise DataError(f"{expected}, got no list of answers; {_AGAIN}")
    found = []
    for answer in value["answers"]:
        ids = answer.get("ids") if isinstance(answer, dict) else None
        if not isinstance(ids, list) or not all(type(id) is int and id >= 0 for id in ids):
            raise DataError(f"{expected}, got an answer without token ids; {_AGAIN}")
        if answer.get("correct") not in (True, False, None):
            raise DataError(f"{expected}, got {answer['correct']!r} as verdict; {_AGAIN}")
        found.append(Candidate(tuple(ids), answer.get("correct")))
    return value["id"], tuple(found)
