"""Does undo help? One page that answers it from a lab, every claim from a paired test, nulls said as nulls.

    print(markdown(study(read.find(lab))))

What the page holds is decided by the settings that the experiments record, not by their names: the baseline is the
first fine-tuning without undo data; `undo: ban` on the same training is the counterfactual; experiments with `plant:`
are judged by what happens behind a mistake; several sampled seeds of one trained model are put to a vote. Seeds of one
experiment are one arm. Each question is one family of tests, adjusted by Holm. Reads files only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from unsay.errors import StoreError
from unsay.records import ExperimentRecord
from unsay.report import compare, matched, numbers, tables
from unsay.report.compare import Run, Side
from unsay.report.escape import markdown as esc
from unsay.report.names import STRICT, label
from unsay.store.read import Entry

if TYPE_CHECKING:
    from unsay import stats

DETECTION, FALSE_UNDO, CHANCE = "planted_detection", "planted_false_undo", "undo_chance"
_BEHIND = ("planted_exact", "planted_over", "planted_under")
_TRACE = ("undo_per_answer", "waste", "reemission", "loops", "step_errors", "step_precision", "step_recall",
          "step_false_undo", "sampled_tokens")  # fmt: skip


@dataclass(frozen=True)
class Arm:
    """All seeds of one experiment, and what of its settings decides which question it answers."""

    side: Side

    @property
    def record(self) -> ExperimentRecord:
        return self.side.record

    @property
    def name(self) -> str:
        seeds = len(self.side.runs)
        return self.record.config + (f" ({seeds} seeds)" if seeds > 1 else "")

    @property
    def decode(self) -> Mapping[str, Any]:
        settings = self.record.spec.get("settings")
        decode = settings.get("decode") if isinstance(settings, dict) else None
        return decode if isinstance(decode, dict) else {}

    @cached_property
    def training(self) -> tuple[str, ...]:
        """The hashes of what was trained, one per seed; empty where nothing was."""
        return tuple(str(run.record.hashes["train"]) for run in self.side.runs if "train" in run.record.hashes)

    @property
    def is_banned(self) -> bool:
        return self.decode.get("undo") == "ban"

    @property
    def bias(self) -> float:
        return float(self.decode.get("undo_bias") or 0.0)

    @property
    def context(self) -> str:
        return str(self.decode.get("undo_context", "keep"))

    @property
    def plant(self) -> str | None:
        return self.decode.get("plant")

    @property
    def is_twin(self) -> bool:
        return bool(self.decode.get("plant_twin"))

    @property
    def is_sampled(self) -> bool:
        return bool(self.decode.get("do_sample"))


@dataclass(frozen=True)
class Line:
    """One paired test: `other` minus `baseline`; `fixed` and `broken` are shares of items over all seeds, in %."""

    baseline: str
    other: str
    n: int
    before: float
    after: float
    diff: float
    low: float | None
    high: float | None
    fixed: float
    broken: float
    p: float
    test: str
    smallest: float | None
    p_holm: float = 1.0

    @property
    def beyond_chance(self) -> bool:
        return self.p_holm < numbers.ALPHA


@dataclass(frozen=True)
class Reaction:
    """What one arm does behind planted mistakes; rates in %, means over its seeds, and the AUROC of p(undo)."""

    name: str
    bias: float
    plant: str
    n: int
    rates: Mapping[str, float | None]
    false_undo: float | None
    auroc: stats.Estimate | None


@dataclass(frozen=True)
class Budget:
    """An arm at matched sampled tokens; `points` as in `unsay.report.matched`, or a reason."""

    name: str
    points: tuple[matched.Point, ...]
    area: float | None
    tokens_per_right: float | None
    reason: str | None = None


@dataclass(frozen=True)
class Study:
    """Everything on the page."""

    metric: str
    arms: tuple[Arm, ...]
    accuracy: tuple[Line, ...]
    counterfactual: tuple[Line, ...]
    recovery: tuple[Line, ...]
    reactions: tuple[Reaction, ...]
    budgets: tuple[Budget, ...]
    at_budget: tuple[tuple[int, tuple[Line, ...]], ...]
    """Arms against the vote, at each budget."""
    left_out: tuple[tuple[str, str], ...]

    def conclusion(self) -> list[str]:
        """Say what follows from the tests, one sentence per question."""
        said = [
            _said("Accuracy", self.accuracy, "against the baseline without undo data"),
            _said("Undo itself", self.counterfactual, "against the same weights with undo banned"),
            _said("Recovery from a planted mistake", self.recovery, "against the same weights with undo banned"),
        ]
        said += [
            _said(f"At {budget} sampled tokens per question", lines, "against a majority vote of the baseline")
            for budget, lines in self.at_budget
        ]
        return [sentence for sentence in said if sentence]

    def to_json(self) -> dict[str, Any]:
        def lines(found: Sequence[Line]) -> list[dict[str, Any]]:
            return [vars(line) | {"beyond_chance": line.beyond_chance} for line in found]

        return {
            "schema": 1,
            "metric": self.metric,
            "arms": [arm.side.to_json() for arm in self.arms],
            "conclusion": self.conclusion(),
            "accuracy": lines(self.accuracy),
            "counterfactual": lines(self.counterfactual),
            "recovery": lines(self.recovery),
            "reactions": [
                vars(each) | {"rates": dict(each.rates), "auroc": None if each.auroc is None else vars(each.auroc)}
                for each in self.reactions
            ],
            "budgets": [vars(each) | {"points": [point.to_json() for point in each.points]} for each in self.budgets],
            "at_budget": [{"budget": budget, "lines": lines(found)} for budget, found in self.at_budget],
            "left_out": [{"experiment": name, "reason": reason} for name, reason in self.left_out],
        }


# -- from a lab --------------------------------------------------------------------------------------------------------


def study(entries: Iterable[Entry], metric: str = STRICT) -> Study:
    """Read a lab. Raises StoreError where it has no finished fine-tuning without undo data to compare with."""
    arms, left_out = _arms(entries, metric)
    plain = [arm for arm in arms if arm.plant is None and not arm.is_sampled]
    baseline = next((arm for arm in plain if arm.training and not tables.has_undo_data(arm.record)), None)
    if baseline is None:
        raise StoreError(
            "expected a finished fine-tuning without undo data to compare with, got none; run one (config lora/train)"
        )
    others = [arm for arm in plain if arm is not baseline]
    accuracy = _family([(baseline, arm) for arm in others], metric)
    budgets, at_budget = _budgets(arms, baseline)
    return Study(
        metric,
        tuple(arms),
        accuracy,
        _family(_counterfactual(plain), metric),
        _family(_counterfactual([arm for arm in arms if arm.plant is not None and not arm.is_twin]), metric, DETECTION),
        tuple(_reactions(arms)),
        budgets,
        at_budget,
        tuple(left_out),
    )


def _arms(entries: Iterable[Entry], metric: str) -> tuple[list[Arm], list[tuple[str, str]]]:
    """Return the arms on the items that most experiments were scored on, and what is left out, with the reason."""
    runs: list[Run] = []
    left_out: list[tuple[str, str]] = []
    for entry in entries:
        if entry.record is None or entry.record.status != "completed":
            left_out.append((entry.name, "not completed"))
            continue
        try:
            run = compare.load(entry)
        except StoreError as error:
            left_out.append((entry.name, str(error)))
            continue
        if metric in run.scores:
            runs.append(run)
        else:
            left_out.append((entry.name, f"no {label(metric)} per item"))
    counted: dict[Any, int] = {}
    for run in runs:
        counted[_asked(run)] = counted.get(_asked(run), 0) + 1
    chosen = max(counted, key=lambda key: counted[key], default=None)
    left_out += [(run.name, "scored on other items than the rest") for run in runs if _asked(run) != chosen]
    groups: dict[Any, list[Run]] = {}
    for run in runs:
        if _asked(run) == chosen:
            groups.setdefault(compare.seed_key(run.entry), []).append(run)
    return [Arm(Side(tuple(sorted(group, key=lambda run: run.record.seed)))) for group in groups.values()], left_out


def _asked(run: Run) -> Any:
    return run.record.dataset, tuple(sorted((item, reference) for item, (_, reference) in run.items.items()))


def _counterfactual(arms: Sequence[Arm]) -> list[tuple[Arm, Arm]]:
    """Pair what may undo with the same weights where undo is banned, given the same beginnings."""
    pairs = []
    for arm in arms:
        if arm.is_banned or not arm.training or arm.bias:
            continue
        banned = [
            other for other in arms if other.is_banned and other.training == arm.training and other.plant == arm.plant
        ]
        pairs += [(other, arm) for other in banned[:1]]
    return pairs


def _family(pairs: Sequence[tuple[Arm, Arm]], metric: str, among: str | None = None) -> tuple[Line, ...]:
    """Test pairs and adjust them together; `among` keeps to the items that have another score on both sides."""
    from unsay import stats

    lines = [_line(a, b, metric, among) for a, b in pairs]
    found = [line for line in lines if line is not None]
    adjusted = stats.holm([line.p for line in found])
    return tuple(replace(line, p_holm=p) for line, p in zip(found, adjusted, strict=True))


def _line(a: Arm, b: Arm, metric: str, among: str | None) -> Line | None:
    items = compare.common_items(a.side, b.side)
    if among is not None:
        runs = (*a.side.runs, *b.side.runs)
        items = tuple(item for item in items if all(item in run.scores.get(among, {}) for run in runs))
    if not items:
        return None
    return _tested(a.name, b.name, _scores(a, metric, items), _scores(b, metric, items))


def _scores(arm: Arm, metric: str, items: Sequence[str]) -> list[list[float]]:
    return [[run.scores[metric][item] for item in items] for run in arm.side.runs]


def _tested(before: str, after: str, a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> Line:
    """Compare two arms, one list of scores per seed each: McNemar for single seeds, else the hierarchical bootstrap.

    Fixed and broken pair the seeds in their order, or every seed with the only one of the other side.
    """
    import numpy as np

    from unsay import stats

    one, two = np.array(a, dtype=np.float64), np.array(b, dtype=np.float64)  # (seeds, items)
    n = one.shape[1]
    if len(one) == len(two) == 1:
        only_a, only_b = stats.discordant(one[0].tolist(), two[0].tolist())
        paired = stats.paired_difference(two[0].tolist(), one[0].tolist())
        p, test = stats.mcnemar(only_b, only_a).p, compare.MCNEMAR
        low, high, stderr = paired.low, paired.high, paired.stderr
    else:
        columns = [_column(at, n) for at in range(len(one) + len(two))]
        contrast = stats.Contrast(tuple(columns[: len(one)]), tuple(columns[len(one) :]))
        rows = np.concatenate([one, two]).T
        (drawn,) = stats.contrasts(rows, [contrast], resamples=compare.RESAMPLES, seed=compare.SEED)
        p, test = 1.0 if drawn.p is None else drawn.p, compare.HIERARCHICAL
        low, high, stderr = drawn.low, drawn.high, drawn.stderr
    count = max(len(one), len(two))
    right_a, right_b = (np.resize(each, (count, n)) > 0 for each in (one, two))
    return Line(
        baseline=before,
        other=after,
        n=n,
        before=float(one.mean()),
        after=float(two.mean()),
        diff=float(two.mean() - one.mean()),
        low=low,
        high=high,
        fixed=100.0 * float((~right_a & right_b).mean()),
        broken=100.0 * float((right_a & ~right_b).mean()),
        p=p,
        test=test,
        smallest=stats.smallest_difference(stderr) if stderr else None,
    )


def _column(at: int, n: int) -> stats.Statistic:
    return lambda totals: totals[:, at] / n


def _reactions(arms: Sequence[Arm]) -> Iterable[Reaction]:
    for arm in arms:
        if arm.plant is None or arm.is_twin or arm.is_banned:
            continue
        twin = next((other for other in arms if _is_twin_of(other, arm)), None)
        yield Reaction(
            name=arm.name,
            bias=arm.bias,
            plant=arm.plant,
            n=len(arm.side.runs[0].scores.get(DETECTION, {})),
            rates={name: _mean(arm, name) for name in (DETECTION, *_BEHIND, STRICT)},
            false_undo=None if twin is None else _mean(twin, FALSE_UNDO),
            auroc=None if twin is None else _auroc(arm, twin),
        )


def _is_twin_of(other: Arm, arm: Arm) -> bool:
    same = (other.training, other.plant, other.context, other.bias) == (arm.training, arm.plant, arm.context, arm.bias)
    return same and other.is_twin and not other.is_banned


def _mean(arm: Arm, metric: str) -> float | None:
    """Return the mean over seeds of the mean over the items that were given a beginning, or over all without any."""
    values = []
    for run in arm.side.runs:
        scores = run.scores.get(metric, {})
        given = run.scores.get(CHANCE, {}) if arm.plant is not None else {}
        kept = [score for item, score in scores.items() if not given or item in given]
        if kept:
            values.append(math.fsum(kept) / len(kept))
    return math.fsum(values) / len(values) if values else None


def _auroc(arm: Arm, twin: Arm) -> stats.Estimate | None:
    """Return the AUROC of p(undo) behind mistakes against twins, over the items, each the mean of its seeds."""
    from unsay import stats

    pairs = [
        (run.scores.get(CHANCE, {}), clean.scores.get(CHANCE, {}))
        for run, clean in zip(arm.side.runs, twin.side.runs, strict=False)
    ]
    found = []
    for planted, clean in pairs:
        items = [item for item in planted if item in clean]
        if items:
            found.append(stats.auroc([planted[item] for item in items], [clean[item] for item in items]))
    if len(found) <= 1:
        return found[0] if found else None
    # Probabilities of differently trained models are on scales of their own: one area per seed, then their mean.
    areas = [each.value for each in found if each.value is not None]
    spread = stats.mean(areas, bounds=(0.0, 1.0))
    return replace(spread, reason=f"over {len(areas)} seeds")


# -- matched tokens ----------------------------------------------------------------------------------------------------


def _budgets(arms: Sequence[Arm], baseline: Arm) -> tuple[tuple[Budget, ...], tuple[tuple[int, tuple[Line, ...]], ...]]:
    """Return every arm at matched sampled tokens, and the tests of greedy arms against the vote of the baseline."""
    import numpy as np

    plain = [arm for arm in arms if arm.plant is None and not arm.is_sampled]
    votes = [arm for arm in arms if arm.plant is None and arm.is_sampled and not arm.training and arm.side.is_group]
    found: list[Budget] = []
    greedy: dict[str, list[dict[int, dict[str, float]]]] = {}
    for arm in plain:
        (curve,) = matched.curves([run.entry for run in arm.side.runs])[:1]
        found.append(Budget(arm.name, curve.points, curve.area, curve.tokens_per_right, curve.reason))
        if not curve.reason:
            greedy[arm.name] = [
                {budget: matched.scores(run.entry, budget) for budget in matched.BUDGETS} for run in arm.side.runs
            ]
    by_config: dict[str, list[Arm]] = {}
    for arm in votes:
        by_config.setdefault(arm.record.config, []).append(arm)
    at_budget: dict[int, list[Line]] = {}
    for config, group in by_config.items():
        entries = [[run.entry for run in arm.side.runs] for arm in group]
        name = f"majority of up to {len(entries[0])}: {config}" + (f" ({len(group)} models)" if len(group) > 1 else "")
        try:
            scored = {budget: [matched.vote_scores(each, budget) for each in entries] for budget in matched.BUDGETS}
        except StoreError as error:
            found.append(Budget(name, (), None, None, str(error)))
            continue
        items = [item for item in scored[matched.BUDGETS[0]][0] if all(item in each for each in scored[64])]
        table = np.array([[[each[item] for each in scored[budget]] for item in items] for budget in matched.BUDGETS])
        tokens = [
            math.fsum(_vote_tokens(each, budget) for each in entries) / len(entries) for budget in matched.BUDGETS
        ]
        points = matched.summarise(table, matched.BUDGETS, tokens)
        curve = matched.Curve("majority", tuple(entries[0]), points)
        found.append(Budget(name, points, curve.area, curve.tokens_per_right))
        for budget in matched.BUDGETS:
            for arm_name, runs in greedy.items():
                if arm_name == baseline.name and len(greedy) > 1:
                    continue
                common = [item for item in items if all(item in run[budget] for run in runs)]
                if common:
                    at_budget.setdefault(budget, []).append(
                        _tested(
                            name,
                            arm_name,
                            [[each[item] for item in common] for each in scored[budget]],
                            [[run[budget][item] for item in common] for run in runs],
                        )
                    )
    from unsay import stats

    adjusted = stats.holm([line.p for lines in at_budget.values() for line in lines])
    left = iter(adjusted)
    tested = tuple(
        (budget, tuple(replace(line, p_holm=next(left)) for line in lines)) for budget, lines in at_budget.items()
    )
    return tuple(found), tested


def _vote_tokens(entries: Sequence[Entry], budget: int) -> float:
    curves = matched.curves(entries, (budget,))
    return next((curve.points[0].tokens for curve in curves if curve.kind == "majority" and curve.points), math.nan)


# -- words -------------------------------------------------------------------------------------------------------------


def _said(question: str, lines: Sequence[Line], against: str) -> str:
    if not lines:
        return ""

    def listed(found: Sequence[Line]) -> str:
        return ", ".join(f"{line.other} ({line.diff:+.1f} points, {numbers.p_words(line.p_holm)})" for line in found)

    higher = [line for line in lines if line.beyond_chance and line.diff > 0]
    lower = [line for line in lines if line.beyond_chance and line.diff < 0]
    unclear = [line for line in lines if not line.beyond_chance]
    parts = []
    if higher:
        parts.append(f"higher for {listed(higher)}")
    if lower:
        parts.append(f"lower for {listed(lower)}")
    if unclear:
        seen = [line.smallest for line in unclear if line.smallest is not None]
        limit = f"; a difference below {max(seen):.1f} points could have gone unseen" if seen else ""
        parts.append(f"no difference beyond chance for {listed(unclear)}{limit}")
    family = f"{len(lines)} comparison{'s' if len(lines) > 1 else ''}"
    return f"**{question}**, {against}: {'; '.join(parts)} (p adjusted by Holm over {family})."


def markdown(found: Study) -> str:
    """Return the page."""
    lines = ["# Does undo help?", ""]
    record = found.arms[0].record
    n = len(found.arms[0].side.runs[0].items)
    total = record.items
    lines += [
        f"{sum(len(arm.side.runs) for arm in found.arms)} experiments in {len(found.arms)} arms on {n} questions of "
        f"{esc(record.dataset)}" + (f" (of {total})" if total not in (None, n) else "") + f", judged by "
        f"{esc(label(found.metric))}. Written by `unsay report --study` from the stored answers; every sentence of the "
        "conclusion is a test in the tables below it.",
        "",
        "## Conclusion",
        "",
        *[f"- {esc_bold(sentence)}" for sentence in found.conclusion()],
        "",
        "## Accuracy, paired",
        "",
        *_test_table(found.accuracy, "Arm", "Baseline"),
    ]
    if found.counterfactual:
        lines += [
            "",
            "## Undo allowed against undo banned, same weights",
            "",
            "Fixed: wrong with undo banned, right with undo allowed; broken: the other way round; their difference is "
            "what undo itself brings.",
            "",
            *_test_table(found.counterfactual, "Undo allowed", "Undo banned"),
        ]
    if found.recovery:
        lines += [
            "",
            "## Recovery from a planted mistake",
            "",
            "Share of right answers that began with a mistake, undo allowed against banned.",
            "",
            *_test_table(found.recovery, "Undo allowed", "Undo banned"),
        ]
    lines += _reaction_table(found.reactions) + _budget_table(found) + _trace_table(found.arms)
    lines += [
        "",
        "## The answers themselves",
        "",
        "| Arm | Seed | Experiment | Training | Answers |",
        "|---|---|---|---|---|",
    ]
    for arm in found.arms:
        for run in arm.side.runs:
            hashes = [f"`{str(run.record.hashes.get(name, '-'))[:16]}`" for name in ("train", "eval")]
            lines.append(_row([esc(arm.record.config), str(run.record.seed), esc(run.name), *hashes]))
    if found.left_out:
        lines += ["", "Left out:", "", *[f"- {esc(name)}: {esc(reason)}" for name, reason in found.left_out]]
    return "\n".join(lines) + "\n"


def esc_bold(sentence: str) -> str:
    """Escape a sentence of the conclusion but for the two asterisks around its question."""
    _, question, rest = sentence.split("**", 2)
    return f"**{esc(question)}**{esc(rest)}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _test_table(found: Sequence[Line], other: str, baseline: str) -> list[str]:
    if not found:
        return ["Nothing to compare."]
    heads = [other, baseline, "n", "Baseline %", "Arm %", "Difference", "95 % interval", "Fixed %", "Broken %",
             "p", "p (Holm)", "Could have seen"]  # fmt: skip
    lines = [_row(heads), "|" + "---|" * len(heads)]
    for line in found:
        mark = "**" if line.beyond_chance else ""
        lines.append(
            _row(
                [
                    esc(line.other), esc(line.baseline), str(line.n), f"{line.before:.1f}", f"{line.after:.1f}",
                    f"{mark}{line.diff:+.1f}{mark}", numbers.interval(line.low, line.high, digits=1, signed=True),
                    f"{line.fixed:.1f}", f"{line.broken:.1f}", numbers.p_value(line.p), numbers.p_value(line.p_holm),
                    numbers.NOTHING if line.smallest is None else f"{line.smallest:.1f}",
                ]
            )
        )  # fmt: skip
    tests = ", ".join(dict.fromkeys(line.test for line in found))
    return [
        *lines,
        "",
        f"Tests: {tests}; bold: beyond chance. Could have seen: the difference found four times in five.",
    ]


def _reaction_table(found: Sequence[Reaction]) -> list[str]:
    if not found:
        return []
    heads = ["Arm", "Planted", "Bias on undo", "n", "Noticed %", "exactly %", "too much %", "too little %",
             "Clean twin undone %", "AUROC", "Right in the end %"]  # fmt: skip
    lines = ["", "## Behind a planted mistake", "", _row(heads), "|" + "---|" * len(heads)]
    for each in found:
        area = each.auroc
        rates = [_percent(each.rates[name]) for name in (DETECTION, *_BEHIND)]
        shown = numbers.NOTHING if area is None else numbers.shown(area.value, area.stderr, digits=3)
        lines.append(
            _row(
                [
                    esc(each.name), esc(each.plant), f"{each.bias:g}", str(each.n), *rates,
                    _percent(each.false_undo), shown, _percent(each.rates[STRICT]),
                ]
            )
        )  # fmt: skip
    return lines


def _budget_table(found: Study) -> list[str]:
    if not found.budgets:
        return []
    heads = ["Arm", *[f"{budget}" for budget in matched.BUDGETS], "Mean over log tokens", "Tokens per right answer"]
    lines = [
        "",
        "## Accuracy at matched sampled tokens",
        "",
        "Per cent right when every question gets at most so many sampled tokens, undone ones and undos included.",
        "",
        _row(heads),
        "|" + "---|" * len(heads),
    ]
    for each in found.budgets:
        points = [numbers.shown(point.value, point.stderr, digits=1) for point in each.points]
        points = points or [esc(each.reason or "")] + [numbers.NOTHING] * (len(matched.BUDGETS) - 1)
        lines.append(_row([esc(each.name), *points, _percent(each.area), _percent(each.tokens_per_right)]))
    for budget, tests in found.at_budget:
        lines += ["", f"At {budget} sampled tokens:", "", *_test_table(tests, "Arm", "Vote")]
    return lines


def _trace_table(arms: Sequence[Arm]) -> list[str]:
    plain = [arm for arm in arms if arm.plant is None and not arm.is_sampled]
    heads = ["Arm", *[esc(label(name)) for name in _TRACE]]
    lines = ["", "## What the answers did", "", _row(heads), "|" + "---|" * len(heads)]
    for arm in plain:
        cells = []
        for name in _TRACE:
            values = [run.values[name].value for run in arm.side.runs if name in run.values]
            known = [value for value in values if value is not None]
            cells.append(_percent(math.fsum(known) / len(known) if known else None))
        lines.append(_row([esc(arm.name), *cells]))
    return lines


def _percent(value: float | None) -> str:
    return numbers.NOTHING if value is None else f"{value:.1f}"


def entries_of(entries: Iterable[Entry]) -> list[Entry]:
    """Return what a study is about: whole results, or where there are none the runs with the most common limit."""
    there = [entry for entry in entries if not entry.archived]
    whole = [entry for entry in there if entry.limit is None and entry.record and entry.record.status == "completed"]
    if whole:
        return [entry for entry in there if entry.limit is None]
    limits = [entry.limit for entry in there if entry.limit is not None]
    most = max(set(limits), key=limits.count, default=None)
    return [entry for entry in there if entry.limit == most]


def write(lab_entries: Iterable[Entry]) -> tuple[Study, str]:
    found = study(entries_of(lab_entries))
    return found, markdown(found)


__all__ = ["Study", "entries_of", "markdown", "study", "write"]
