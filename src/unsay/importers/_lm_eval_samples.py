"""lm-eval's samples_*.jsonl: one pass for everything but the texts, and the texts one answer at a time.

A file has one line per filter and document, all lines of one filter first. Versions write arguments in different ways
and prompts of chats as JSON inside a list.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unsay import importers, lm_eval_metrics
from unsay.importers import ForeignError, Item, Options, keys_of, name_of, number, shortened, whole
from unsay.records import Sample

STAMP = re.compile(r"_(\d{4}-\d\d-\d\dT\d\d[-:]\d\d[-:]\d\d(?:\.\d+)?)\.jsonl?$")
"""The time in the name of a file."""


@dataclass
class Scan:
    """What one pass over a samples file gives: everything but the texts."""

    path: Path
    task_hash: str = ""
    lines: int = 0
    repeated: int = 0
    wrong_hashes: int = 0
    repeats: int = 1
    text: bool = True
    sampled: bool = False
    max_new_tokens: int | None = None
    stop: tuple[str, ...] | None = None
    chat: bool = False
    order: dict[int, int] = field(default_factory=dict)
    """Place of every document, in the order of the file."""
    columns: dict[str, array[float]] = field(default_factory=dict)
    """Per `metric,filter` one value per document, NaN where there is none."""

    @property
    def documents(self) -> int:
        return len(self.order)

    @property
    def stamp(self) -> str:
        match = STAMP.search(self.path.name)
        return match[1] if match else ""

    def extremes(self, key: str) -> list[float]:
        """Return the smallest and largest value of a metric; nothing where no document has one."""
        known = [value for value in self.columns.get(key, ()) if not math.isnan(value)]
        return [min(known), max(known)] if known else []

    def mean(self, key: str) -> float | None:
        column = self.columns.get(key)
        if column is None or any(map(math.isnan, column)) or len(column) < self.documents:
            return None
        return math.fsum(column) / len(column)


def scan_samples(path: Path) -> Scan:
    scan = Scan(path)
    digest = hashlib.sha256()
    seen: set[tuple[int, str]] = set()
    for at, line in importers.lines(path):
        doc_id = whole(line.get("doc_id"))
        if doc_id is None or not isinstance(line.get("resps", line.get("filtered_resps")), list):
            raise ForeignError(f"line {at}: expected lm-eval's keys doc_id and resps, got {keys_of(line)}")
        scan.lines += 1
        hashes = [line.get(key) for key in ("doc_hash", "prompt_hash", "target_hash")]
        digest.update("".join(part for part in hashes if isinstance(part, str)).encode("utf-8", "surrogatepass"))
        if isinstance(hashes[2], str) and hashes[2] != _sha(str(line.get("target"))):
            scan.wrong_hashes += 1
        place = scan.order.setdefault(doc_id, len(scan.order))
        name = line.get("filter")
        filter_name = name if isinstance(name, str) else "none"
        if (doc_id, filter_name) in seen:
            scan.repeated += 1
            continue
        seen.add((doc_id, filter_name))
        _values(scan, line, place, filter_name)
        if scan.lines == 1:
            _settings_of_line(scan, line)
        scan.repeats = max(scan.repeats, _repeats(line))
    if not scan.lines:
        raise ForeignError("expected at least one sample, the file is empty")
    scan.task_hash = digest.hexdigest()
    for column in scan.columns.values():
        column.extend([math.nan] * (scan.documents - len(column)))
    return scan


def _values(scan: Scan, line: Mapping[str, Any], place: int, filter_name: str) -> None:
    listed = line.get("metrics")
    names = listed if isinstance(listed, list) else [key for key in ("exact_match", "acc", "acc_norm") if key in line]
    for name in names:
        value = line.get(name) if isinstance(name, str) else None
        found = number(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
        if isinstance(value, bool):
            found = float(value)
        if found is None:
            continue
        key = f"{name},{filter_name}"
        if key not in scan.columns:
            if len(scan.columns) >= 64:
                raise ForeignError("expected at most 64 metrics with their filters, got more")
            scan.columns[key] = array("d")
        column = scan.columns[key]
        column.extend([math.nan] * (place + 1 - len(column)))
        column[place] = found


def _settings_of_line(scan: Scan, line: Mapping[str, Any]) -> None:
    arguments = line.get("arguments")
    generation = _argument(arguments, 1)
    scan.text = isinstance(generation, dict)
    if isinstance(generation, dict):
        scan.sampled = is_sampled(generation)
        scan.max_new_tokens = whole(generation.get("max_gen_toks"))
        until = generation.get("until")
        if isinstance(until, list):
            scan.stop = tuple(shortened(str(text), 60) for text in until[:20])
    scan.chat = _chat(_argument(arguments, 0)) is not None


def is_sampled(generation: Mapping[str, Any]) -> bool:
    temperature = number(generation.get("temperature"))
    return bool(generation.get("do_sample")) and temperature != 0


def _argument(arguments: Any, which: int) -> Any:
    """Return one argument of the first request, however a version writes it."""
    if isinstance(arguments, dict):
        first = arguments.get("gen_args_0", next(iter(arguments.values()), None))
        if isinstance(first, dict):
            return first.get(f"arg_{which}")
        return None
    if isinstance(arguments, list) and arguments:
        first = arguments[0]
        if isinstance(first, list | tuple):
            return first[which] if len(first) > which else None
        return arguments[which] if len(arguments) > which else None
    return None


def _chat(argument: Any) -> list[dict[str, Any]] | None:
    """Return the turns of a prompt that is a chat written as JSON; None for plain text."""
    if isinstance(argument, list):
        argument = argument[0] if argument else None
        if isinstance(argument, dict):
            return [argument]
    if not isinstance(argument, str) or not argument.lstrip().startswith("[{"):
        return None
    try:
        turns = json.loads(argument)
    except (ValueError, RecursionError):
        return None
    if isinstance(turns, list) and turns and all(isinstance(turn, dict) and "role" in turn for turn in turns):
        return turns
    return None


def prompt_text(argument: Any) -> str:
    """Return a logged prompt as text; the turns of a chat one below the other."""
    turns = _chat(argument)
    if turns is not None:
        return "\n".join(f"{name_of(turn.get('role'))}: {turn.get('content')}" for turn in turns)
    while isinstance(argument, list) and argument:
        argument = argument[0]
    return argument if isinstance(argument, str) else ""


def _answer(line: Mapping[str, Any]) -> str | None:
    """Return the first written answer; None where the responses are likelihoods."""
    value = line.get("resps", line.get("filtered_resps"))
    depth = 0
    while isinstance(value, list) and value and depth < 3:
        value, depth = value[0], depth + 1
    if not isinstance(value, str):
        return None
    responses = line.get("resps")
    first = responses[0] if isinstance(responses, list) and responses else None
    likelihoods = isinstance(first, list) and len(first) == 1 and isinstance(first[0], list) and len(first[0]) == 2
    return None if likelihoods else value


def _repeats(line: Mapping[str, Any]) -> int:
    responses = line.get("resps")
    first = responses[0] if isinstance(responses, list) and responses else None
    return max(1, len(first)) if isinstance(first, list) and all(isinstance(text, str) for text in first) else 1


def items_of(scan: Scan, options: Options, scales: Mapping[str, tuple[str, float]]) -> Iterator[Item]:
    """Read the texts: the first line of every document, with the scores of all its filters.

    `scales` says which columns to give, under which name and times what.
    """
    done: set[int] = set()
    for _, line in importers.lines(scan.path):
        doc_id = whole(line.get("doc_id"))
        if doc_id is None or doc_id in done or doc_id not in scan.order:
            continue
        done.add(doc_id)
        place = scan.order[doc_id]
        scores = {}
        for key, (name, scale) in scales.items():
            if not math.isnan(scan.columns[key][place]):
                scores[name] = scan.columns[key][place] * scale
        doc = line.get("doc")
        doc = doc if isinstance(doc, dict) else {}
        label = lm_eval_metrics.reference(doc, "" if line.get("target") is None else str(line["target"]))
        sample = Sample(
            key=str(doc_id),
            question=_question(doc),
            label=options.marked(label),
            predict=options.marked(_answer(line) or ""),
        )
        argument = _argument(line.get("arguments"), 0)
        yield Item(sample, prompt_text(argument), scores, rendered=_chat(argument) is None)


def _question(doc: Mapping[str, Any]) -> str:
    for key in ("question", "problem", "query", "input", "prompt"):
        value = doc.get(key)
        if isinstance(value, str) and value.strip():
            return value
    return ""


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
