"""How fast whole files of traces are resolved: all at once with numpy, against one after another.

    python benchmarks/resolve.py

Traces are made from generated word problems by the strategies of unsay, on characters as ids; both sides must agree on
every trace. A ratio above 1 says how many times as fast `resolve_many` is.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

from unsay.augment import Answer, Source, Vocabulary, apply_strategy, load
from unsay.datasets import wordproblems
from unsay.errors import UndoError
from unsay.undo import Action, Traces, UndoTable, resolve, resolve_many

POP, LINE, END = 1000, 1001, 1002
TABLE = UndoTable(
    {POP: Action("pop"), LINE: Action("pop_line")},
    {POP: "<|BACKTRACK|>", LINE: "<|BACKTRACK_LINE|>"},
    frozenset({ord("\n")}),
)
SETS: dict[str, tuple[str, dict[str, Any]]] = {
    "random tokens, taken back one by one": ("random_tokens", {}),
    "wrong steps, taken back by the line": ("arithmetic_slip", {"rate": 0.5, "undo": "line"}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    for what, (name, strategy) in SETS.items():
        compare(what, traces(name, strategy, options.traces), options.rounds)


def traces(name: str, options: dict[str, Any], count: int) -> list[list[int]]:
    """Return as many traces; answers are repeated with other mistakes where there are not enough."""
    records = [str(record["answer"]) for record in wordproblems.generate("train", min(count, 2000))]
    vocabulary = Vocabulary(TABLE, range(32, 127), lambda text: tuple(map(ord, text)))
    strategy = load(name, options)
    found: list[list[int]] = []
    for seed in range(count):
        text = records[seed % len(records)]
        answer = Answer(tuple(map(ord, text)), tuple((at, at + 1) for at in range(len(text))), text)
        try:
            row = apply_strategy(name, strategy, Source(str(seed), (), answer, END), vocabulary, seed=seed)
        except UndoError:  # an answer without a step
            continue
        found.append(list(row.ids))
    random.Random(0).shuffle(found)
    return found


def compare(what: str, lists: list[list[int]], rounds: int) -> None:
    """Run the sides by turns; print the median ratio and the middle half of the ratios."""
    packed = Traces.of(lists)
    from_lists, from_arrays, plain_times = [], [], []
    for _ in range(rounds):
        plain, expected = timed(lambda: [resolve(trace, TABLE, {END}) for trace in lists])
        many, found = timed(lambda: resolve_many(lists, TABLE, {END}))
        arrays, _ = timed(lambda: resolve_many(packed, TABLE, {END}))
        if list(found) != expected:
            raise SystemExit(f"{what}: the two sides differ")
        from_lists.append(plain / many)
        from_arrays.append(plain / arrays)
        plain_times.append(plain)
    tokens = len(packed.ids)
    print(f"{what}: {len(lists):,} traces, {tokens:,} tokens, every resolution equal")
    for label, ratios in (("from lists of ids", from_lists), ("from arrays", from_arrays)):
        low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        print(f"    {label}: {statistics.median(ratios):.1f} times as fast ({low:.1f} to {high:.1f})")
    print(f"    one by one: {1e9 * statistics.median(plain_times) / tokens:.0f} ns per token")


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


if __name__ == "__main__":
    main()
