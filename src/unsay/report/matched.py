"""Accuracy at matched sampled tokens: what an answer was worth after so many tokens, undone ones and undos included.

Undo costs tokens, and so do several answers that are put to a vote; at an equal number of sampled tokens B the two can
be compared. Every sampled stream is cut after B tokens, resolved and judged by the exact match (strict) of its dataset:

    acc(B) = mean over questions of [final answer of resolve(y_1 … y_B) is the gold one]

An answer that ended within B tokens keeps the score it has. With several seeds the score of a question is the mean over
them. A vote takes the sampled answers of one question in the order of their seeds, as long as they end within B tokens
together; the most frequent final answer wins, the earlier one of two equals, and one that cannot be read has no vote.
Where not even the first one ends within B tokens, that one is cut. Budgets, cutting and counting follow Qin et al.
2025 ("To Backtrack or Not to Backtrack", arXiv 2504.07052), who compare at a fixed budget. Answers that were given
their beginning (`decode: {plant: …}`) have no curve: what was given was not sampled.

    for curve in curves(read.find(lab)):
        print(curve.name, [(point.budget, point.value) for point in curve.points])

Everything is read from the stored traces; nothing is generated, and torch is never imported.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from unsay.errors import StoreError
from unsay.metrics.exact_match import INVALID, STRICT, ExactMatch
from unsay.records import MetricValue, Trace
from unsay.report import compare
from unsay.report.trace import tokens
from unsay.store import read
from unsay.store.read import Entry
from unsay.undo import EMPTY, UndoTable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BUDGETS = (64, 128, 256, 512, 1024)
"""Sampled tokens per question."""
FACT = "exact_match"
"""What an experiment's record calls the patterns its answers were read with."""

Kind = Literal["one answer", "majority"]
Final = Callable[[int], str]
"""The final answer that can be read after so many tokens, `[invalid]` where none can."""


@dataclass(frozen=True)
class Answer:
    """One sampled answer: its tokens, and what its final answer is when it is cut after so many of them."""

    tokens: int
    final: Final

    def at(self, budget: int) -> str:
        return self.final(min(budget, self.tokens))


@dataclass(frozen=True)
class Point:
    """Accuracy (0-100) at a budget of sampled tokens per question; `tokens` is what was spent of it on average."""

    budget: int
    value: float
    stderr: float | None
    low: float | None
    high: float | None
    n: int
    tokens: float

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True)
class Curve:
    """An experiment (all its seeds) over the budgets; without points `reason` says why.

    `area` is the mean accuracy over the logarithm of the budget (trapezoids), `tokens_per_right` the sampled tokens
    per right answer at the largest budget.
    """

    kind: Kind
    entries: tuple[Entry, ...]
    points: tuple[Point, ...] = ()
    reason: str | None = None

    @property
    def name(self) -> str:
        record = self.entries[0].record
        config = self.entries[0].name if record is None else f"{record.model} {record.config}"
        seeds = f" ({len(self.entries)} seeds)" if len(self.entries) > 1 else ""
        vote = f", majority of up to {len(self.entries)}"
        return f"{config}{vote}" if self.kind == "majority" else f"{config}{seeds}"

    @property
    def area(self) -> float | None:
        return area([point.budget for point in self.points], [point.value for point in self.points])

    @property
    def tokens_per_right(self) -> float | None:
        last = self.points[-1] if self.points else None
        return None if last is None or last.value == 0 else 100.0 * last.tokens / last.value

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "kind": self.kind,
            "experiments": [entry.name for entry in self.entries],
            "points": [point.to_json() for point in self.points],
            "area": self.area,
            "tokens_per_right": self.tokens_per_right,
            "reason": self.reason,
        }


# -- on numbers alone --------------------------------------------------------------------------------------------------


def single(answers: Sequence[Sequence[Answer]], golds: Sequence[str], budgets: Sequence[int]) -> NDArray[np.float64]:
    """Score every question's answers (one row per seed) at every budget: (budgets, questions, seeds), 0 or 100."""
    import numpy as np

    scores = [
        [[100.0 * (answer.at(budget) == gold) for answer in row] for row, gold in zip(answers, golds, strict=True)]
        for budget in budgets
    ]
    return np.array(scores, dtype=np.float64)


def spent(answers: Sequence[Sequence[Answer]], budgets: Sequence[int]) -> NDArray[np.float64]:
    """Return the mean sampled tokens of one answer that is cut at each budget."""
    import numpy as np

    sizes = np.array([answer.tokens for row in answers for answer in row], dtype=np.float64)
    return np.array([np.minimum(sizes, budget).mean() for budget in budgets])


def vote(row: Sequence[Answer], budget: int) -> tuple[str, int]:
    """Return the final answer that most of a question's answers give within a budget, and the tokens that took."""
    used, finals = 0, []
    for answer in row:
        if used + answer.tokens > budget:
            break
        used += answer.tokens
        finals.append(answer.at(budget))
    if not used and row:
        return row[0].at(budget), min(budget, row[0].tokens)
    counted = Counter(final for final in finals if final != INVALID)
    most = max(counted.values(), default=0)
    return next((final for final in finals if counted.get(final) == most), INVALID), used


def area(budgets: Sequence[int], values: Sequence[float]) -> float | None:
    """Return the mean of a curve over the logarithm of the budget, by trapezoids; None with fewer than two points."""
    if len(budgets) < 2:
        return None
    logs = [math.log2(budget) for budget in budgets]
    parts = [(logs[at + 1] - logs[at]) * (values[at] + values[at + 1]) / 2 for at in range(len(budgets) - 1)]
    return math.fsum(parts) / (logs[-1] - logs[0])


def summarise(scores: NDArray[np.float64], budgets: Sequence[int], tokens: Sequence[float]) -> tuple[Point, ...]:
    """Sum up scores (budgets, questions, seeds) to one point each.

    One seed: the share of right answers with Wilson's interval. Several: the mean over seeds, with the interval of
    `stats.seeded_mean`, in which chance in the training counts, too.
    """
    from unsay import stats
    from unsay.metrics import share

    n, seeds = scores.shape[1:]
    found: list[MetricValue | stats.Seeded] = [
        share(each[:, 0], "") if seeds == 1 else stats.seeded_mean(each.T, bounds=(0.0, 100.0)) for each in scores
    ]
    return tuple(
        Point(budget, float(each.mean()), one.stderr, one.low, one.high, n, float(used))
        for budget, each, one, used in zip(budgets, scores, found, tokens, strict=True)
    )


# -- from a lab --------------------------------------------------------------------------------------------------------


def curves(entries: Iterable[Entry], budgets: Sequence[int] = BUDGETS) -> list[Curve]:
    """Return the curve of every completed experiment, its seeds together, and after it that of a vote over its answers.

    A vote is over the answers of one model: there is one where an experiment that trains nothing was sampled with
    several seeds.
    """
    groups: dict[Any, list[Entry]] = {}
    for entry in entries:
        if entry.record is not None and entry.record.status == "completed":
            groups.setdefault(compare.seed_key(entry), []).append(entry)
    found = []
    for group in groups.values():
        seeds = [entry.record.seed for entry in group if entry.record is not None]
        for together in [group] if len(set(seeds)) == len(seeds) else [[entry] for entry in group]:
            found += _curves(sorted(together, key=_seed), tuple(budgets))
    return found


def together(entries: Sequence[Entry]) -> tuple[dict[str, list[Answer]], Mapping[str, str]]:
    """Return the answers of several experiments (seeds of one) item by item, in their order, and the gold answers.

    Items are those that all of them have. Raises StoreError, with the reason, where traces or patterns are not known.
    """
    return _together([_answers(entry) for entry in entries])


def _seed(entry: Entry) -> int:
    return 0 if entry.record is None else entry.record.seed


def _curves(group: Sequence[Entry], budgets: tuple[int, ...]) -> list[Curve]:
    record = group[0].record
    assert record is not None
    decode = record.spec.get("settings", {}).get("decode") or {}
    votes = record.method == "vanilla" and bool(decode.get("do_sample")) and len(group) > 1
    kinds: tuple[Kind, ...] = ("one answer", "majority") if votes else ("one answer",)
    try:
        rows, golds = together(group)
    except StoreError as error:
        return [Curve(kind, tuple(group), reason=str(error)) for kind in kinds]
    import numpy as np

    answers, right = list(rows.values()), [golds[item] for item in rows]
    found = [
        Curve(
            "one answer",
            tuple(group),
            summarise(single(answers, right, budgets), budgets, list(spent(answers, budgets))),
        )
    ]
    if votes:
        voted = [[vote(row, budget) for row in answers] for budget in budgets]
        table = np.array(
            [[[100.0 * (final == gold)] for (final, _), gold in zip(line, right, strict=True)] for line in voted]
        )
        used = [sum(tokens for _, tokens in line) / len(line) for line in voted]
        found.append(Curve("majority", tuple(group), summarise(table, budgets, used)))
    return found


def _together(
    runs: Sequence[tuple[Mapping[str, Answer], Mapping[str, str]]],
) -> tuple[dict[str, list[Answer]], Mapping[str, str]]:
    """Return the answers that every run has, item by item in the order of the first."""
    first, golds = runs[0]
    items = [item for item in first if all(item in answers and golds[item] == other[item] for answers, other in runs)]
    if not items:
        raise StoreError("its seeds have no item in common")
    return {item: [answers[item] for answers, _ in runs] for item in items}, golds


def _answers(entry: Entry) -> tuple[dict[str, Answer], dict[str, str]]:
    """Return the answers of an experiment by item, and the gold ones as they are compared."""
    record = entry.record
    reads = None if record is None else _exact_match(record.facts.get(FACT), entry)
    if record is None or reads is None:
        raise StoreError("how its final answers are read was not recorded; run it again to have it")
    run = compare.load(entry)
    labels = {item: str(line.get("label", "")) for item, line in run.lines()}
    if not labels:
        raise StoreError("its generated_predictions.jsonl does not say which item a line is")
    table = _table(record.facts)
    answers: dict[str, Answer] = {}
    golds: dict[str, str] = {}
    for trace in read.traces(entry.folder):
        item = str(trace.key.doc_id)
        if item not in labels:
            continue
        if trace.beginning is not None:
            kind = "the right one" if trace.beginning.twin else "with a mistake"
            raise StoreError(f"its answers were given their beginning ({kind}), which was not sampled")
        golds[item] = reads.compared(labels[item], "")[STRICT][1]
        answers[item] = Answer(len(trace.ids), partial(_final, trace, table, reads))
    if not answers:
        raise StoreError("it has no traces: another tool generated its answers")
    return answers, golds


def recorded(options: Any) -> ExactMatch | None:
    """Return the exact match that an experiment recorded; None where it recorded none that can be used."""
    if not isinstance(options, dict):
        return None
    try:
        made = ExactMatch(**options | {"ignored": tuple(options.get("ignored", ()))})
        for pattern in (made.strict, made.flexible, made.gold, *made.ignored):
            re.compile(pattern or "")
    except (TypeError, re.error):
        return None
    return made


def _exact_match(options: Any, entry: Entry) -> ExactMatch | None:
    """Return the exact match of an experiment; that of gsm8k where its definition says so."""
    if isinstance(options, dict) and options.get("strict") is not None:
        return recorded(options)
    value = read.metrics(entry.folder).get(STRICT)
    is_plain = value is not None and value.definition == ExactMatch().definition[STRICT]
    return ExactMatch() if is_plain else None


def _table(facts: Mapping[str, Any]) -> UndoTable:
    from unsay.report.trace import table_of

    return table_of(facts) or EMPTY


def _final(trace: Trace, table: UndoTable, reads: ExactMatch, count: int) -> str:
    """Return the final answer after `count` tokens, from the whole answer's own text where that is all of them."""
    text = trace.visible if count >= len(trace.ids) else text_after(trace, table, count)
    return reads.compared("", text)[STRICT][0]


def text_after(trace: Trace, table: UndoTable, count: int) -> str:
    """Return the visible text after the first `count` sampled tokens, put together from the pieces that survive."""
    cut = replace(trace, ids=trace.ids[:count], pieces=trace.pieces[:count], finish_reason="max_steps")
    return "".join(token.piece for token in tokens(cut, table) if token.kind == "kept")
