"""Generate some answers again, each alone, and say how many come out the same: whether a batch can be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from unsay import engine
from unsay.records import Key, Trace


def check_batch(
    model: Any,
    requests: Sequence[engine.Request],
    options: engine.Options,
    traces: Mapping[Key, Trace],
    count: int,
) -> dict[str, Any]:
    """Return how many of `count` answers, evenly spread over `requests`, are the same, token by token, when alone.

    The result is ready for JSON: items, agree, and of those that differ the document and the first token that does.
    """
    count = min(count, len(requests))
    chosen = [requests[at * len(requests) // count] for at in range(count)]
    differ = []
    for request in chosen:
        (alone,) = engine.generate(model, [request], replace(options, slots=1))
        before = traces[request.key].ids
        if alone.ids != before:
            pairs = enumerate(zip(alone.ids, before, strict=False))
            first = next((at for at, (one, other) in pairs if one != other), min(len(alone.ids), len(before)))
            differ.append({"doc_id": request.key.doc_id, "token": first})
    return {"items": len(chosen), "agree": len(chosen) - len(differ), "differ": differ}
