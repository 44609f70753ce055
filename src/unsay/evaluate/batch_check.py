"""Generate some answers again, each alone, and say how many come out the same: whether a batch can be trusted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from unsay import engine
from unsay.records import Key, Trace


def evenly(requests: Sequence[engine.Request], count: int) -> list[engine.Request]:
    """Return `count` requests, evenly spread."""
    count = min(count, len(requests))
    return [requests[at * len(requests) // count] for at in range(count)]


def check_batch(
    model: Any, chosen: Sequence[engine.Request], options: engine.Options, traces: Mapping[Key, Trace]
) -> dict[str, Any]:
    """Return how many answers are the same, token by token, when alone; see `agreement`."""
    return agreement(
        chosen, [next(iter(engine.generate(model, [each], replace(options, slots=1)))) for each in chosen], traces
    )


def agreement(
    chosen: Sequence[engine.Request], again: Iterable[engine.Finished], traces: Mapping[Key, Trace]
) -> dict[str, Any]:
    """Return how many answers were written once more, token by token, in whatever order they ended.

    The result is ready for JSON: items, agree, and of those that differ the document and the first token that does.
    """
    ids = {finished.request.key: finished.ids for finished in again}
    differ = []
    for request in chosen:
        now, before = ids[request.key], traces[request.key].ids
        if now != before:
            pairs = enumerate(zip(now, before, strict=False))
            first = next((at for at, (one, other) in pairs if one != other), min(len(now), len(before)))
            differ.append({"doc_id": request.key.doc_id, "token": first})
    return {"items": len(chosen), "agree": len(chosen) - len(differ), "differ": differ}


def drawn_otherwise() -> dict[str, Any]:
    """Return what is said where answers cannot be compared, as a server draws its own."""
    return {"items": 0, "agree": 0, "differ": [], "why": "a server draws other answers from the same seed"}


def check_warnings(checked: dict[str, Any] | None) -> tuple[str, ...]:
    """Say how many answers came out differently, and from whom; nothing where all agree or none was checked."""
    if checked is None:
        return ()
    found = [(checked, f"alone, by {checked['generated_again_by']}" if "generated_again_by" in checked else "alone")]
    if "with" in checked:
        found.append((checked["with"], f"from the {checked['with']['backend']['kind']} backend"))
    return tuple(
        f"{each['items'] - each['agree']} of {each['items']} answers come out differently {how}"
        for each, how in found
        if each["agree"] < each["items"]
    )
