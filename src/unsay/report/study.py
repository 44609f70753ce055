"""Does undo help? One page that answers it from a lab, every claim from a paired test, nulls said as nulls.

    found = study(entries_of(read.find(lab)))
    print(study_page.markdown(found))

What the page holds is decided by the settings that the experiments record, not by their names: the baseline is the
fine-tuning without undo data that is trained like those with it; `undo: ban` on the same training is the
counterfactual; experiments with `plant:` are judged by what happens behind a mistake; several sampled seeds of one
trained model are put to a vote. Seeds of one experiment are one arm. Each question is one family of tests, adjusted by
Holm. Reads files only.
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
from unsay.report.names import STRICT, label
from unsay.store import read
from unsay.store.read import Entry

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from unsay import stats

DETECTION, FALSE_UNDO, CHANCE = "planted_detection", "planted_false_undo", "undo_chance"
SFT = "sft"
SAME_TRAINING = f"{compare.HIERARCHICAL}, paired by training"
BEHIND = ("planted_exact", "planted_over", "planted_under")


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
        return self._settings("decode")

    @property
    def recipe(self) -> Mapping[str, Any]:
        """How it was trained, apart from the data."""
        return self._settings("training")

    def _settings(self, part: str) -> Mapping[str, Any]:
        settings = self.record.spec.get("settings")
        found = settings.get(part) if isinstance(settings, dict) else None
        return found if isinstance(found, dict) else {}

    @cached_property
    def training(self) -> tuple[str, ...]:
        """The hashes of what was trained, one per seed; empty where nothing was."""
        return tuple(str(run.record.hashes["train"]) for run in self.side.runs if "train" in run.record.hashes)

    @property
    def is_trained(self) -> bool:
        return self.record.method == SFT

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
    def trained_context(self) -> str:
        return str(self._settings("undo").get("context", "keep"))

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
    """An arm at matched sampled tokens; `points` as in `unsay.report.matched`, or a reason.

    The figure shows the baseline, the votes and what may undo with the context it was trained with.
    """

    name: str
    points: tuple[matched.Point, ...]
    area: float | None
    tokens_per_right: float | None
    reason: str | None = None
    in_figure: bool = False


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
    baseline = _baseline(plain)
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


def _baseline(arms: Sequence[Arm]) -> Arm | None:
    """Return the fine-tuning without undo data that is trained like the first one with it, else the first there is."""
    trained = [arm for arm in arms if arm.is_trained]
    plain = [arm for arm in trained if not tables.has_undo_data(arm.record)]
    wanted = next((arm.recipe for arm in trained if tables.has_undo_data(arm.record)), None)
    return next((arm for arm in plain if arm.recipe == wanted), plain[0] if plain else None)


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
    lines = [_line(a, b, metric, among) for a, b in pairs]
    return _adjusted([line for line in lines if line is not None])


def _adjusted(lines: Sequence[Line]) -> tuple[Line, ...]:
    from unsay import stats

    adjusted = stats.holm([line.p for line in lines])
    return tuple(replace(line, p_holm=p) for line, p in zip(lines, adjusted, strict=True))


def _line(a: Arm, b: Arm, metric: str, among: str | None) -> Line | None:
    items = compare.common_items(a.side, b.side)
    if among is not None:
        runs = (*a.side.runs, *b.side.runs)
        items = tuple(item for item in items if all(item in run.scores.get(among, {}) for run in runs))
    if not items:
        return None
    same = bool(a.training) and a.training == b.training
    return _tested(a.name, b.name, _scores(a, metric, items), _scores(b, metric, items), same_training=same)


def _scores(arm: Arm, metric: str, items: Sequence[str]) -> list[list[float]]:
    return [[run.scores[metric][item] for item in items] for run in arm.side.runs]


def _tested(
    before: str,
    after: str,
    a: Sequence[Sequence[float]],
    b: Sequence[Sequence[float]],
    *,
    same_training: bool = False,
) -> Line:
    """Compare two arms, one list of scores per seed each: McNemar for single seeds, else the hierarchical bootstrap.

    With the `same_training` on both sides the seeds are drawn once for both: what differs between trainings is no
    chance of the comparison. Fixed and broken pair the seeds in their order, or every seed with the only one of the
    other side.
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
        columns = [matched.column(at, n) for at in range(len(one) + len(two))]
        if same_training:
            contrast = stats.Contrast((matched.nothing,), tuple(columns[: len(two)]))
            rows = (two - one).T
        else:
            contrast = stats.Contrast(tuple(columns[: len(one)]), tuple(columns[len(one) :]))
            rows = np.concatenate([one, two]).T
        (drawn,) = stats.contrasts(rows, [contrast], resamples=compare.RESAMPLES, seed=compare.SEED)
        p, test = 1.0 if drawn.p is None else drawn.p, SAME_TRAINING if same_training else compare.HIERARCHICAL
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


def _reactions(arms: Sequence[Arm]) -> Iterable[Reaction]:
    for arm in arms:
        if arm.plant is None or arm.is_twin or (arm.is_banned and _may_undo(arm, arms)):
            continue
        twin = next((other for other in arms if _is_twin_of(other, arm)), None)
        yield Reaction(
            name=arm.name,
            bias=arm.bias,
            plant=arm.plant,
            n=len(arm.side.runs[0].scores.get(DETECTION, {})),
            rates={name: _mean(arm, name) for name in (DETECTION, *BEHIND, STRICT)},
            false_undo=None if twin is None else _mean(twin, FALSE_UNDO),
            auroc=None if twin is None else _auroc(arm, twin),
        )


def _may_undo(banned: Arm, arms: Sequence[Arm]) -> bool:
    """Say whether the same training is there with undo allowed; where it corrects in words it is not."""
    return any(arm.training == banned.training and not arm.is_banned for arm in arms)


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
    """Return every arm at matched sampled tokens, and the tests of arms that may undo against the vote."""
    plain = [arm for arm in arms if arm.plant is None and not arm.is_sampled]
    found: list[Budget] = []
    undoing: dict[str, _Scored] = {}
    for arm in plain:
        try:
            scored = _one_answer(arm)
        except StoreError as error:
            found.append(Budget(arm.name, (), None, None, str(error)))
            continue
        may_undo = tables.has_undo_data(arm.record) and not arm.is_banned
        as_trained = arm.context == arm.trained_context
        found.append(scored.budget(arm.name, in_figure=arm is baseline or (may_undo and as_trained)))
        if may_undo:
            undoing[arm.name] = scored
    by_config: dict[str, list[Arm]] = {}
    for arm in arms:
        if arm.plant is None and arm.is_sampled and not arm.is_trained and arm.side.is_group:
            by_config.setdefault(arm.record.config, []).append(arm)
    tested: dict[int, list[Line]] = {budget: [] for budget in matched.BUDGETS}
    for config, group in by_config.items():
        models = f" ({len(group)} models)" if len(group) > 1 else ""
        name = f"{config}, majority of up to {min(len(arm.side.runs) for arm in group)}{models}"
        try:
            vote = _vote(group)
        except StoreError as error:
            found.append(Budget(name, (), None, None, str(error)))
            continue
        found.append(vote.budget(name, in_figure=True))
        for arm_name, scored in undoing.items():
            for at, budget in enumerate(matched.BUDGETS):
                a, b = vote.both(scored, at)
                tested[budget].append(_tested(name, arm_name, a, b))
    return tuple(found), tuple((budget, _adjusted(lines)) for budget, lines in tested.items() if lines)


@dataclass(frozen=True)
class _Scored:
    """Scores of one arm at every budget, (budgets, items, seeds or models), and the tokens spent on average."""

    items: tuple[str, ...]
    scores: NDArray[np.float64]
    tokens: tuple[float, ...]

    def budget(self, name: str, *, in_figure: bool) -> Budget:
        curve = matched.Curve("one answer", (), matched.summarise(self.scores, matched.BUDGETS, self.tokens))
        return Budget(name, curve.points, curve.area, curve.tokens_per_right, in_figure=in_figure)

    def both(self, other: _Scored, at: int) -> tuple[list[list[float]], list[list[float]]]:
        """Return the scores of both, seed by seed, at one of the budgets, on the items that both have, in one order."""
        mine_at, theirs_at = ({item: place for place, item in enumerate(one.items)} for one in (self, other))
        common = sorted(mine_at.keys() & theirs_at.keys(), key=read.natural)
        places = [[at_of[item] for item in common] for at_of in (mine_at, theirs_at)]
        mine, theirs = (one.scores[at, rows].T for one, rows in zip((self, other), places, strict=True))
        return mine.tolist(), theirs.tolist()


def _one_answer(arm: Arm) -> _Scored:
    rows, golds = matched.together([run.entry for run in arm.side.runs])
    answers, right = list(rows.values()), [golds[item] for item in rows]
    spent = matched.spent(answers, matched.BUDGETS)
    return _Scored(tuple(rows), matched.single(answers, right, matched.BUDGETS), tuple(spent.tolist()))


def _vote(group: Sequence[Arm]) -> _Scored:
    """Return the votes over the answers of each model of a group, one column per model."""
    import numpy as np

    models = [matched.together([run.entry for run in arm.side.runs]) for arm in group]
    items = tuple(item for item in models[0][0] if all(item in rows for rows, _ in models))
    scores = np.zeros((len(matched.BUDGETS), len(items), len(models)))
    tokens = np.zeros_like(scores)
    for at, budget in enumerate(matched.BUDGETS):
        for column, (rows, golds) in enumerate(models):
            for row, item in enumerate(items):
                final, used = matched.vote(rows[item], budget)
                scores[at, row, column], tokens[at, row, column] = 100.0 * (final == golds[item]), used
    return _Scored(items, scores, tuple(tokens.mean(axis=(1, 2)).tolist()))


# -- words -------------------------------------------------------------------------------------------------------------

LISTED = 6
"""Arms without a difference that are named one by one."""


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
        limit = f"; differences below {max(seen):.1f} points could have gone unseen" if seen else ""
        which = listed(unclear) if len(unclear) <= LISTED else f"{len(unclear)} of {len(lines)} arms"
        parts.append(f"no difference beyond chance for {which}{limit}")
    family = f"{len(lines)} comparison{'s' if len(lines) > 1 else ''}"
    return f"{question}, {against}: {'; '.join(parts)} (p adjusted by Holm over {family})."


def entries_of(entries: Iterable[Entry]) -> list[Entry]:
    """Return what a study is about: whole results, or where there are none the runs with the most common limit."""
    there = [entry for entry in entries if not entry.archived]
    whole = [entry for entry in there if entry.limit is None and entry.record and entry.record.status == "completed"]
    if whole:
        return [entry for entry in there if entry.limit is None]
    limits = [entry.limit for entry in there if entry.limit is not None]
    most = max(set(limits), key=limits.count, default=None)
    return [entry for entry in there if entry.limit == most]
