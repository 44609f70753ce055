"""What differs between two experiments, in words: settings, data, versions, and what could not be verified.

protocol(a, b).differing        # ('num_fewshot 8 instead of 0',)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from unsay.records import ExperimentRecord

PROTOCOL = ("prompting", "decode")
NEEDED = ("num_fewshot", "apply_chat_template", "max_new_tokens", "do_sample", "temperature", "stop")
"""What has to be known to say that two evaluations asked and answered in the same way."""
VERSIONS = ("unsay", "torch", "transformers", "lm_eval", "peft")

_SAMPLING = ("temperature", "top_p", "top_k")
_SHOTS = ("fewshot_seed", "fewshot_as_multiturn")
_UNKNOWN: Any = object()


@dataclass(frozen=True)
class Protocol:
    """How two evaluations were set up differently (`b` instead of `a`), and what is not known about them."""

    differing: tuple[str, ...]
    unknown: tuple[str, ...]
    other_prompts: bool
    """A setting of the prompts differs, so that the prompts do."""


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings to dotted names."""
    found: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, dict) and item:
            found |= flat(item, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = item
    return found


def arms(a: ExperimentRecord | None, b: ExperimentRecord | None, *, seeds: bool = True) -> tuple[str, ...]:
    """Say how two experiments were set up differently: model, prompts, decoding, training, seed."""
    if a is None or b is None:
        return ()
    words = [f"model {b.model} instead of {a.model}"] if a.model != b.model else []
    left, right = settings(a), settings(b)
    if left is None or right is None:
        return (*words, "settings unknown")
    words += protocol(a, b).differing
    for part, word in (("training", "training"), ("undo", "undo data")):
        if any(part not in side and record.imported is not None for side, record in ((left, a), (right, b))):
            continue  # an imported result says nothing about it
        if left.get(part) != right.get(part):
            words.append(f"another {word}" if left.get(part) and right.get(part) else f"{word} in only one")
    if seeds and a.seed != b.seed:
        words.append(f"seed {b.seed} instead of {a.seed}")
    return tuple(words)


def protocol(a: ExperimentRecord, b: ExperimentRecord) -> Protocol:
    """Compare prompting and decoding.

    A setting that a native record lacks had its default in that release; one that an imported record lacks is unknown,
    and worth saying where every evaluation has it.
    """
    one, two = _evaluation(a), _evaluation(b)
    ignored = _without_effect(one, two)
    differing: list[str] = []
    other_prompts = False
    unknown: dict[str, list[str]] = {}
    parts = [sorted({*left, *right}) for left, right in zip(_parts(a), _parts(b), strict=True)]
    for name in dict.fromkeys([*chain(*parts), *NEEDED]):
        if name in ignored:
            continue
        left, right = (_known(side, name, record) for side, record in ((one, a), (two, b)))
        if left is _UNKNOWN or right is _UNKNOWN:
            if name in NEEDED:
                where = "both" if left is right else "the baseline" if left is _UNKNOWN else "the other"
                unknown.setdefault(where, []).append(name)
        elif left != right:
            differing.append(f"{name} {right} instead of {left}")
            other_prompts = other_prompts or name in parts[0]
    gaps = tuple(f"{', '.join(names)} of {where}" for where, names in unknown.items())
    return Protocol(tuple(differing), gaps, other_prompts)


def spread(records: Sequence[ExperimentRecord]) -> dict[str, dict[str, list[int]]]:
    """Return the settings of asking and answering in which experiments differ: value by value, the places in `records`.

    What an experiment does not use (a temperature of greedy answers) or does not say of itself is left out.
    """
    every = [_evaluation(record) for record in records]
    found = {}
    for name in dict.fromkeys([*NEEDED, *sorted({name for each in every for name in each})]):
        values: dict[str, list[int]] = {}
        for at, (each, record) in enumerate(zip(every, records, strict=True)):
            value = _known(each, name, record)
            if name in _without_effect(each, each) or (value is _UNKNOWN and name not in NEEDED):
                continue
            said = "unknown" if value is _UNKNOWN else "not set" if value is None else str(value)
            values.setdefault(said, []).append(at)
        if len(values) > 1:
            found[name] = values
    return found


def data(a: ExperimentRecord, b: ExperimentRecord) -> tuple[str, ...]:
    """Say how the evaluated data differ by name, source and number of items."""
    words = [f"dataset {b.dataset} instead of {a.dataset}"] if a.dataset != b.dataset else []
    one, two = (flat({"dataset": record.spec.get("dataset") or {}}) for record in (a, b))
    for name in sorted({*one, *two} - {"dataset"}):
        if one.get(name) != two.get(name) and a.imported is None and b.imported is None:
            words.append(f"{name} {two.get(name)} instead of {one.get(name)}")
    if a.items != b.items:
        words.append(f"{b.items} items instead of {a.items}")
    if a.limit != b.limit:
        words.append(f"limit {b.limit} instead of {a.limit}")
    return tuple(words)


def versions(a: ExperimentRecord, b: ExperimentRecord) -> tuple[str, ...]:
    """Say which libraries and tools were other ones."""
    one, two = _versions(a), _versions(b)
    names = [name for name in ("tool", *VERSIONS) if one.get(name) != two.get(name)]
    return tuple(f"{name} {two.get(name) or 'unknown'} instead of {one.get(name) or 'unknown'}" for name in names)


def total_items(record: ExperimentRecord) -> int | None:
    """Return how many items the whole split has, None where a limited run did not learn it."""
    total = record.items
    if record.limit is not None and (total is None or total <= record.limit):
        known = record.facts.get("total")
        total = known if isinstance(known, int) else None
    return total


def settings(record: ExperimentRecord) -> dict[str, Any] | None:
    found = record.spec.get("settings")
    return found if isinstance(found, dict) else None


def tool(record: ExperimentRecord) -> str | None:
    """Return the tool that made an imported result; None for our own."""
    return str(record.imported.get("tool") or "another tool") if record.imported is not None else None


def _evaluation(record: ExperimentRecord) -> dict[str, Any]:
    return {name: value for part in _parts(record) for name, value in part.items()}


def _parts(record: ExperimentRecord) -> list[dict[str, Any]]:
    inner = [(settings(record) or {}).get(part) for part in PROTOCOL]
    return [flat(part) if isinstance(part, dict) else {} for part in inner]


def _known(side: dict[str, Any], name: str, record: ExperimentRecord) -> Any:
    if name in side:
        value = side[name]
        return tuple(value) if isinstance(value, list) else value
    return _UNKNOWN if record.imported is not None else None


def _without_effect(one: dict[str, Any], two: dict[str, Any]) -> set[str]:
    """Settings that cannot have mattered on either side."""
    ignored: set[str] = set()
    if one.get("do_sample") is False and two.get("do_sample") is False:
        ignored |= {*_SAMPLING}
    if one.get("num_fewshot") == 0 and two.get("num_fewshot") == 0:
        ignored |= {*_SHOTS}
    return ignored


def _versions(record: ExperimentRecord) -> dict[str, str]:
    found = dict(record.attempts[-1].versions) if record.attempts else {}
    if (name := tool(record)) is not None:
        found["tool"] = name
    return found
