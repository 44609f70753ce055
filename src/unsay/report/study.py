"""Does undo help? What a lab answers, every claim from a paired test, nulls said as nulls.

    for found in studies(entries_of(read.find(lab))):
        print(found.model, found.conclusion())

There is one study for each model and dataset. What an experiment is for is decided by the settings that it records
(`study_arms`): the baseline is the fine-tuning without undo data that is trained like those with it; `undo: ban` on the
same training is the counterfactual; experiments with `plant:` are judged by what happens behind a mistake; several
sampled seeds of one trained model are put to a vote. Each question is one family of tests, adjusted by Holm
(`study_lines`). Reads files only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from unsay.errors import StoreError
from unsay.report import compare, numbers
from unsay.report.digests import Digests, digests
from unsay.report.names import STRICT
from unsay.report.results import FEW
from unsay.report.study_arms import Arm, Group, groups, is_longer_or_shorter, same_mistakes, shared_trainings
from unsay.report.study_budgets import Budget, budgets_of
from unsay.report.study_lines import Line, family, paired
from unsay.store import read
from unsay.store.read import Entry

DETECTION, FALSE_UNDO, CHANCE = "planted_detection", "planted_false_undo", "undo_chance"
BEHIND = ("planted_exact", "planted_over", "planted_under")


@dataclass(frozen=True)
class Question:
    """One question and the tests that answer it: `other` minus `baseline` in each, one family.

    `ask` is the question, `compared` what stands against what, in words; `missing` what an experiment file needs for an
    answer, where there is none.
    """

    key: str
    title: str
    ask: str
    compared: str
    missing: str
    lines: tuple[Line, ...]

    def answer(self) -> str:
        """Answer in one sentence or two what the tests say, no more."""
        if not self.lines:
            return f"Not asked: {self.missing}."
        higher = [line for line in self.lines if line.beyond_chance and line.diff > 0]
        lower = [line for line in self.lines if line.beyond_chance and line.diff < 0]
        unclear = [line for line in self.lines if not line.beyond_chance]
        parts = []
        if higher:
            parts.append(f"higher for {self._listed(higher)}")
        if lower:
            parts.append(f"lower for {self._listed(lower)}")
        count = len(self.lines)
        family = f"{count} comparison{'s' if count > 1 else ''}"
        if not unclear:
            return f"{_sentence(parts)} ({'one comparison' if count == 1 else f'all of {family}, p adjusted by Holm'})."
        seen = [line.smallest for line in unclear if line.smallest is not None]
        limit = (
            f" By the spread seen, true differences below {_range(seen)} points could have gone unseen." if seen else ""
        )
        if len(seen) < len(unclear):
            limit += f" Where fewer than {FEW} answers differ nothing is known of how large one would have to be."
        if not parts:
            furthest = max(unclear, key=lambda line: abs(line.diff))
            return (
                f"Nothing beyond chance in {family}; the largest difference seen is {self._listed([furthest])}.{limit}"
            )
        rest = f"no difference beyond chance in the other {len(unclear)} of {family} (p adjusted by Holm)"
        return f"{_sentence([*parts, rest])}.{limit}"

    def answer_these(self) -> str:
        """Answer for these trainings themselves, where only the questions are drawn by chance; empty if not tested."""
        tested = [replace(line, p_holm=line.p_these_holm) for line in self.lines if line.p_these_holm is not None]
        if not tested:
            return ""
        clear = [line for line in tested if line.beyond_chance]
        parts = [
            f"{word} for {self._listed(found)}"
            for word, found in (
                ("higher", [line for line in clear if line.diff > 0]),
                ("lower", [line for line in clear if line.diff < 0]),
            )
            if found
        ]
        rest = len(tested) - len(clear)
        if rest:
            parts.append(f"nothing beyond chance in {'the other ' if clear else ''}{rest} of {len(tested)}")
        return f"Of these trainings themselves: {'; '.join(parts)}."

    def _listed(self, found: Sequence[Line]) -> str:
        """Name lines with difference and p, and against what where an arm is tested against several."""
        arms = {line.other for line in self.lines}
        return _named(found, against=len(arms) < len({(line.other, line.baseline) for line in self.lines}))

    def to_json(self) -> dict[str, Any]:
        shown = {key: value for key, value in vars(self).items() if key != "lines"}
        answers = {"answer": self.answer(), "answer_these": self.answer_these()}
        return shown | answers | {"lines": [line.to_json() for line in self.lines]}


@dataclass(frozen=True)
class Rate:
    """A share of answers, mean over seeds, in % (an AUROC: 0 to 1), with its error and 95 % interval."""

    value: float | None
    stderr: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Reaction:
    """What one arm does behind planted mistakes, and how often it takes back the right line of a clean twin.

    `right` are the right answers behind a mistake, `twin_right` those behind the right line. With undo banned there are
    no other rates.
    """

    name: str
    bias: float
    plant: str
    n: int
    rates: Mapping[str, Rate]
    right: Rate
    false_undo: Rate
    twin_right: Rate
    auroc: Rate

    def to_json(self) -> dict[str, Any]:
        shown = {name: dict(vars(rate)) for name, rate in self.rates.items()}
        others = {name: getattr(self, name) for name in ("right", "false_undo", "twin_right", "auroc")}
        return vars(self) | {"rates": shown} | {name: dict(vars(rate)) for name, rate in others.items()}


@dataclass(frozen=True)
class Study:
    """Everything that is said of one model on one dataset."""

    model: str
    dataset: str
    metric: str
    baseline: Arm
    arms: tuple[Arm, ...]
    questions: tuple[Question, ...]
    reactions: tuple[Reaction, ...]
    budgets: tuple[Budget, ...]
    hashes: tuple[Digests, ...]
    cautions: tuple[str, ...]
    """What differs in asking and answering that no arm is about."""
    left_out: tuple[tuple[str, str], ...]

    def lines(self, key: str) -> tuple[Line, ...]:
        """Return the tests of one question by its key."""
        return next(question.lines for question in self.questions if question.key == key)

    @property
    def seeds(self) -> tuple[int, ...]:
        """How many trainings the arms have, fewest and most."""
        found = sorted(len(arm.side.runs) for arm in self.arms if arm.is_trained)
        return tuple(dict.fromkeys((found[0], found[-1])))

    def conclusion(self) -> list[tuple[str, str]]:
        """Return every question with its answer."""
        return [(one.ask, " ".join(filter(None, (one.answer(), one.answer_these())))) for one in self.questions]

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "dataset": self.dataset,
            "metric": self.metric,
            "baseline": self.baseline.name,
            "arms": [arm.side.to_json() for arm in self.arms],
            "questions": [question.to_json() for question in self.questions],
            "reactions": [each.to_json() for each in self.reactions],
            "budgets": [each.to_json() for each in self.budgets],
            "hashes": [vars(each) for each in self.hashes],
            "cautions": list(self.cautions),
            "left_out": [{"experiment": name, "reason": reason} for name, reason in self.left_out],
        }


# -- from a lab --------------------------------------------------------------------------------------------------------


def studies(entries: Iterable[Entry], metric: str = STRICT) -> list[Study]:
    """Read a lab, one study for each model and dataset that has a finished fine-tuning without undo data.

    Raises StoreError where none has, as there is nothing to compare with. What belongs to no study is left out of the
    first one, with the reason.
    """
    found = groups(entries, metric)
    there = [group for group in found if group.baseline is not None]
    if not there:
        raise StoreError(
            "expected a finished fine-tuning without undo data to compare with, got none; run one (config lora/train)"
        )
    others: list[tuple[str, str]] = []
    for group in found:
        if group.baseline is None:
            others += group.left_out
            names = [run.name for arm in group.arms for run in arm.side.runs]
            reason = f"no finished fine-tuning of {group.model} on {group.dataset} without undo data to compare with"
            others += [(name, reason) for name in names]
    made = [_study(group, group.baseline, metric) for group in there if group.baseline is not None]
    made[0] = replace(made[0], left_out=(*made[0].left_out, *others))
    return made


def _study(group: Group, baseline: Arm, metric: str) -> Study:
    arms = group.arms
    plain = [arm for arm in arms if arm.is_plain]
    planted = [arm for arm in arms if arm.plant is not None and not arm.is_twin]
    undoing = [arm for arm in plain if arm.may_undo and not arm.bias]
    reacting = [arm for arm in planted if arm.is_trained and not arm.is_banned and not arm.bias]
    budgets, at_budget = budgets_of(arms, baseline)

    def tests(
        pairs: Iterable[tuple[Arm, Arm]], metrics: tuple[str, str] = (metric, metric), among: str | None = None
    ) -> tuple[Line, ...]:
        lines = [_line(a, b, metrics, among) for a, b in pairs]
        return family([line for line in lines if line is not None])

    against_plain = [(baseline, arm) for arm in plain if arm is not baseline]
    longer = [arm for arm in plain if is_longer_or_shorter(arm, baseline)]
    words = [arm for arm in plain if arm.in_words]
    questions = (
        Question(
            "accuracy",
            "Accuracy",
            "Is any arm more often right than plain fine-tuning, or less often?",
            "Share of right answers against the fine-tuning without undo data.",
            "it needs a second arm",
            tests(against_plain),
        ),
        Question(
            "tokens",
            "Accuracy, trained on as many tokens",
            "Is training with undo data better than plain fine-tuning on as many tokens?",
            "Rows with mistakes are longer, some kinds more than others. Here stands against all of them a plain "
            "fine-tuning over other steps.",
            "it needs a fine-tuning like the baseline with other max_steps",
            tests([(other, arm) for other in longer for arm in undoing if arm.as_trained]),
        ),
        Question(
            "counterfactual",
            "Undo allowed against banned, same weights",
            "Does taking back, by itself, change how often the same weights are right?",
            "Fixed: wrong with undo banned, right with undo allowed; broken: the other way round; their difference is "
            "what undo itself brings.",
            "it needs a training decoded with undo allowed and with undo: ban",
            tests(_counterfactual(undoing, plain)),
        ),
        Question(
            "words",
            "Undo against a correction in words",
            "Is training with undo tokens better than with the same corrections in words?",
            "The same rows with the same mistakes: undo tokens against words. Where the difference is there with undo "
            "banned, too, it is one of training and not of taking back; what the model knew of either before is in it.",
            "it needs a training with say: words beside the same one without",
            tests([(other, arm) for other in words for arm in plain if not arm.bias and same_mistakes(other, arm)]),
        ),
        Question(
            "recovery",
            "Recovery from a planted mistake",
            "Does undo help to get over a mistake that is already there?",
            "Share of right answers that began with a mistake, undo allowed against banned, same weights.",
            "it needs planted mistakes (plant:) with undo allowed and banned",
            tests(_counterfactual(reacting, planted), among=DETECTION),
        ),
        Question(
            "taught",
            "Recovery, trained with undo against trained without",
            "Does training with undo data help to get over a planted mistake?",
            "The same share with undo allowed: trained with undo data against plain fine-tuning of a model that may "
            "know the undo tokens already, and against the training that corrects in words.",
            "it needs planted mistakes (plant:) for the plain fine-tuning or for the one in words",
            tests(_against_untaught(planted, reacting, baseline), among=DETECTION),
        ),
        Question(
            "notice",
            "Planted mistakes against their clean twins",
            "Does a mistake call forth an undo more often than the right line in its place?",
            "Share of answers with an undo within a few tokens behind the beginning: behind the mistake (arm) against "
            "behind its clean twin (against). Fixed: only the mistake was taken back; broken: only the right line.",
            "it needs planted mistakes (plant:) with their twins (plant_twin:)",
            tests(_twins(arms, planted), (FALSE_UNDO, DETECTION)),
        ),
        Question(
            "budget",
            "Accuracy at matched sampled tokens",
            "Is undo better than what else the same number of sampled tokens buys?",
            "Every question gets at most so many sampled tokens, undone ones and undos included. Against arms that may "
            "undo, decoded as they were trained, stand the baseline, a vote over its sampled answers, the same weights "
            "with undo banned, and the correction of the same mistakes in words. All budgets are one family; where "
            "both sides have the same scores as at the budget before, that is no further test.",
            "it needs the traces of arms that may undo and of the baseline",
            at_budget,
        ),
    )
    return Study(
        group.model,
        group.dataset,
        metric,
        baseline,
        arms,
        questions,
        tuple(_reactions(arms, metric)),
        budgets,
        tuple(
            sorted(
                (digests(run.entry) for arm in arms for run in arm.side.runs),
                key=lambda each: read.natural(each.folder),
            )
        ),
        group.cautions,
        group.left_out,
    )


def _counterfactual(arms: Sequence[Arm], among: Sequence[Arm]) -> list[tuple[Arm, Arm]]:
    """Pair arms with the same weights where undo is banned, given the same beginnings, on the seeds that both have."""
    pairs = []
    for arm in arms:
        banned = [other for other in among if other.is_banned and other.plant == arm.plant]
        other = next((other for other in banned if shared_trainings(other, arm)), None)
        if other is not None:
            shared = shared_trainings(other, arm)
            pairs.append((other.with_trainings(shared), arm.with_trainings(shared)))
    return pairs


def _against_untaught(planted: Sequence[Arm], reacting: Sequence[Arm], baseline: Arm) -> list[tuple[Arm, Arm]]:
    """Pair what was trained with undo data, behind a mistake, with the baseline and with the correction in words."""
    plain = [arm for arm in reacting if shared_trainings(arm, baseline)]
    trained = [arm for arm in reacting if arm.may_undo and arm.as_trained]
    pairs = [(other, arm) for other in plain for arm in trained if other.plant == arm.plant]
    words = [arm for arm in planted if arm.in_words]
    return pairs + [
        (other, arm) for other in words for arm in trained if other.plant == arm.plant and same_mistakes(other, arm)
    ]


def _twins(arms: Sequence[Arm], planted: Sequence[Arm]) -> list[tuple[Arm, Arm]]:
    """Pair what may undo behind a mistake with its clean twin, on the seeds that both have."""
    pairs = []
    for arm in planted:
        if not arm.is_banned and (twin := _twin_of(arm, arms)) is not None:
            shared = shared_trainings(twin, arm)
            pairs.append((twin.with_trainings(shared), arm.with_trainings(shared)))
    return pairs


def _line(a: Arm, b: Arm, metrics: tuple[str, str], among: str | None = None) -> Line | None:
    """Test two arms on the items that both have; `among` keeps to those with another score on both sides."""
    of_runs = [(run, metric) for arm, metric in zip((a, b), metrics, strict=True) for run in arm.side.runs]
    wanted = [run.scores.get(name, {}) for run, metric in of_runs for name in (metric, among) if name is not None]
    items = [item for item in compare.common_items(a.side, b.side) if all(item in scores for scores in wanted)]
    if not items:
        return None
    one, two = (
        [[run.scores[metric][item] for item in items] for run in arm.side.runs]
        for arm, metric in zip((a, b), metrics, strict=True)
    )
    return paired(
        a.name,
        b.name,
        one,
        two,
        same_training=bool(a.training) and a.training == b.training,
        trained=(a.is_trained, b.is_trained),
        seeds=(a.side.seeds, b.side.seeds),
        these=True,
    )


# -- behind a mistake --------------------------------------------------------------------------------------------------


def _reactions(arms: Sequence[Arm], metric: str) -> Iterable[Reaction]:
    for arm in arms:
        if arm.plant is None or arm.is_twin or (arm.is_banned and _may_undo(arm, arms)):
            continue
        twin = _twin_of(arm, arms)
        reactions = () if arm.is_banned else (DETECTION, *BEHIND)
        yield Reaction(
            name=arm.name,
            bias=arm.bias,
            plant=arm.plant,
            n=len(arm.side.runs[0].scores.get(DETECTION, {})),
            rates={name: _rate(arm, name) for name in reactions},
            right=_rate(arm, metric),
            false_undo=Rate(None) if twin is None else _rate(twin, FALSE_UNDO),
            twin_right=Rate(None) if twin is None else _rate(twin, metric),
            auroc=Rate(None) if twin is None else _auroc(arm, twin),
        )


def _may_undo(banned: Arm, arms: Sequence[Arm]) -> bool:
    """Say whether the same training is there with undo allowed; where it corrects in words it is not."""
    return any(shared_trainings(arm, banned) and arm.plant == banned.plant and not arm.is_banned for arm in arms)


def _twin_of(arm: Arm, arms: Sequence[Arm]) -> Arm | None:
    def same(other: Arm) -> bool:
        alike = (other.plant, other.context, other.bias) == (arm.plant, arm.context, arm.bias)
        return alike and bool(shared_trainings(other, arm)) and other.is_twin and not other.is_banned

    return next((other for other in arms if same(other)), None)


def _rate(arm: Arm, metric: str) -> Rate:
    """Return the mean of a score over seeds and the items that all of them gave a beginning (or all, without any)."""
    from unsay import stats
    from unsay.metrics import share

    kept = []
    for run in arm.side.runs:
        scores, given = run.scores.get(metric, {}), run.scores.get(CHANCE, {})
        kept.append({item: score for item, score in scores.items() if not given or item in given})
    items = _common(kept)
    if not items:
        return Rate(None)
    table = [[scores[item] for item in items] for scores in kept]
    if len(table) == 1 or all(score == table[0][0] for row in table for score in row):
        # Nothing differs: an interval from the items of one seed is the honest one.
        found = share(table[0], "")
        return Rate(found.value, found.stderr, found.low, found.high)
    over = stats.seeded_mean(table, bounds=(0.0, 100.0))
    return Rate(over.value, over.stderr, over.low, over.high)


def _common(scores: Sequence[Mapping[str, float]]) -> list[str]:
    """Return the items that every seed has, in natural order."""
    return sorted(set.intersection(*(set(each) for each in scores)), key=read.natural) if scores else []


def _auroc(arm: Arm, twin: Arm) -> Rate:
    """Return the AUROC of p(undo) behind mistakes against twins, the mean over the seeds that both have."""
    from unsay import stats

    twins = {run.record.seed: run.scores.get(CHANCE, {}) for run in twin.side.runs}
    pairs = [(run.scores.get(CHANCE, {}), twins[run.record.seed]) for run in arm.side.runs if run.record.seed in twins]
    items = _common([each for pair in pairs for each in pair])
    if not items:
        return Rate(None)
    seeds = [([planted[item] for item in items], [clean[item] for item in items]) for planted, clean in pairs]
    found = stats.auroc(*seeds[0]) if len(seeds) == 1 else stats.auroc_over_seeds(seeds)
    return Rate(found.value, found.stderr, found.low, found.high)


# -- words -------------------------------------------------------------------------------------------------------------


def _sentence(parts: Sequence[str]) -> str:
    said = "; ".join(parts)
    return said[:1].upper() + said[1:]


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.1f}", f"{max(values):.1f}"
    return low if low == high else f"{low} to {high}"


def _named(found: Sequence[Line], *, against: bool) -> str:
    """Name lines with difference and p; the budgets of one pair together."""
    pairs: dict[tuple[str, str], list[Line]] = {}
    for line in found:
        pairs.setdefault((line.other, line.baseline), []).append(line)
    said = []
    for (other, baseline), lines in pairs.items():
        other += f" against {baseline}" if against else ""
        each = ", ".join(
            f"{line.diff:+.1f} points{'' if line.budget is None else f' at {line.budget} tokens'}, "
            f"{numbers.p_words(line.p_holm)}"
            for line in lines
        )
        said.append(f"{other} ({each})")
    return ("; " if against else ", ").join(said)


def entries_of(entries: Iterable[Entry]) -> list[Entry]:
    """Return what a study is about: whole results, or where there are none the runs with the most common limit."""
    there = [entry for entry in entries if not entry.archived]
    whole = [entry for entry in there if entry.limit is None and entry.record and entry.record.status == "completed"]
    if whole:
        return [entry for entry in there if entry.limit is None]
    limits = [entry.limit for entry in there if entry.limit is not None]
    most = max(set(limits), key=limits.count, default=None)
    return [entry for entry in there if entry.limit == most]
