"""The arms of a study at matched sampled tokens, and the tests of those that may undo against what else tokens buy.

    budgets, lines = budgets_of(group.arms, group.baseline)

Against an arm that may undo, decoded as it was trained, stand the baseline, a vote over its sampled answers, the same
weights with undo banned, and the correction of the same mistakes in words (`unsay.report.matched`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from unsay.errors import StoreError
from unsay.report import matched
from unsay.report.study_arms import Arm, same_mistakes, shared_trainings
from unsay.report.study_lines import Line, family, paired
from unsay.store import read

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Budget:
    """An arm at matched sampled tokens; `points` as in `unsay.report.matched`, or a reason.

    The figure shows what is tested against each other: what may undo with the context it was trained with, and its
    controls. `most` is how many answers there are to a vote over one question.
    """

    name: str
    points: tuple[matched.Point, ...]
    area: float | None
    tokens_per_right: float | None
    reason: str | None = None
    in_figure: bool = False
    most: int = 1

    def to_json(self) -> dict[str, Any]:
        return vars(self) | {"points": [point.to_json() for point in self.points]}


@dataclass(frozen=True)
class _Scored:
    """Scores of one arm at every budget, (budgets, items, seeds or models), and the tokens spent on average.

    Items are in natural order, whatever order their answers ended in.
    """

    name: str
    items: tuple[str, ...]
    scores: NDArray[np.float64]
    tokens: tuple[float, ...]
    training: tuple[str, ...]
    seeds: tuple[int, ...]
    trained: bool
    most: int = 1

    def with_trainings(self, trainings: Sequence[str]) -> _Scored:
        """Return the columns of these trainings alone."""
        columns = [self.training.index(training) for training in trainings]
        seeds = tuple(self.seeds[column] for column in columns)
        return replace(self, scores=self.scores[:, :, columns], training=tuple(trainings), seeds=seeds)

    def budget(self, *, in_figure: bool) -> Budget:
        points = matched.summarise(self.scores, matched.BUDGETS, self.tokens)
        curve = matched.Curve("one answer", (), points)
        return Budget(
            self.name, points, curve.area, curve.tokens_per_right, in_figure=in_figure, most=self.most
        )  # fmt: skip

    def against(self, control: _Scored) -> list[Line]:
        """Test this arm against another one at every budget at which something changes, question by question."""
        import numpy as np

        shared = [training for training in self.training if training in control.training]
        if any(len(one.training) != one.scores.shape[2] for one in (self, control)):
            shared = []  # a training that is not known
        elif shared and (len(shared), len(shared)) != (len(self.training), len(control.training)):
            return self.with_trainings(shared).against(control.with_trainings(shared))
        places = [{item: place for place, item in enumerate(one.items)} for one in (control, self)]
        common = [item for item in self.items if item in places[0]]
        rows = [[at[item] for item in common] for at in places]
        if not common:
            return []
        lines = []
        before: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
        for at, budget in enumerate(matched.BUDGETS):
            a, b = control.scores[at, rows[0]].T, self.scores[at, rows[1]].T
            if before is None or not (np.array_equal(a, before[0]) and np.array_equal(b, before[1])):
                line = paired(
                    control.name,
                    self.name,
                    a.tolist(),
                    b.tolist(),
                    same_training=bool(shared),
                    trained=(control.trained, self.trained),
                    seeds=(control.seeds, self.seeds),
                    budget=budget,
                )
                lines.append(line)
            before = a, b
        return lines


def budgets_of(arms: Sequence[Arm], baseline: Arm) -> tuple[tuple[Budget, ...], tuple[Line, ...]]:
    """Return every arm at matched sampled tokens, and the tests of arms that may undo against what else there is."""
    found: list[Budget] = []
    plain: list[tuple[Arm, _Scored]] = []
    votes: list[_Scored] = []
    tested = [arm for arm in arms if arm.is_plain and arm.may_undo and arm.as_trained and not arm.bias]
    for arm in arms:
        if not arm.is_plain:
            continue
        try:
            scored = _one_answer(arm)
        except StoreError as error:
            found.append(Budget(arm.name, (), None, None, str(error)))
            continue
        shown = arm in tested or any(_is_control(arm, one, baseline) for one in tested) or arm is baseline
        found.append(scored.budget(in_figure=shown))
        plain.append((arm, scored))
    for group in _voting(arms):
        of_baseline = bool(set(baseline.training) & {hash for arm in group for hash in arm.training})
        try:
            vote = _vote(group)
        except StoreError as error:
            found.append(Budget(_vote_name(group), (), None, None, str(error)))
            continue
        found.append(vote.budget(in_figure=of_baseline))
        votes += [vote] if of_baseline else []
    lines: list[Line] = []
    for arm, scored in plain:
        if arm in tested:
            controls = [other_scored for other, other_scored in plain if _is_control(other, arm, baseline)]
            for control in (*controls, *votes):
                lines += scored.against(control)
    return tuple(found), family(lines)


def _is_control(other: Arm, arm: Arm, baseline: Arm) -> bool:
    """Say whether an arm is the baseline, the same weights with undo banned, or has the same mistakes in words."""
    banned = other.is_banned and bool(shared_trainings(other, arm))
    return other is baseline or banned or (other.in_words and same_mistakes(other, arm))


def _one_answer(arm: Arm) -> _Scored:
    rows, golds = matched.together([run.entry for run in arm.side.runs])
    items = tuple(sorted(rows, key=read.natural))
    answers = [rows[item] for item in items]
    scores = matched.single(answers, [golds[item] for item in items], matched.BUDGETS)
    spent = tuple(matched.spent(answers, matched.BUDGETS).tolist())
    return _Scored(arm.name, items, scores, spent, arm.training, arm.side.seeds, arm.is_trained)


def _voting(arms: Sequence[Arm]) -> list[list[Arm]]:
    """Return the arms with several sampled answers of one model, those of the seeds of one training together."""
    found: dict[Any, list[Arm]] = {}
    for arm in arms:
        if arm.plant is None and arm.is_sampled and not arm.is_trained and arm.side.is_group:
            source = arm.source
            of = arm.record.model if source is None else (source.model, source.method, source.config)
            found.setdefault((arm.record.config, of), []).append(arm)
    return [sorted(group, key=_source_seed) for group in found.values()]


def _source_seed(arm: Arm) -> int:
    return 0 if arm.source is None else arm.source.seed


def _vote_name(group: Sequence[Arm]) -> str:
    models = f" ({len(group)} models)" if len(group) > 1 else ""
    return f"{group[0].record.config}, majority of up to {min(len(arm.side.runs) for arm in group)}{models}"


def _vote(group: Sequence[Arm]) -> _Scored:
    """Return the votes over the answers of each model of a group, one column per model."""
    import numpy as np

    models = [matched.together([run.entry for run in arm.side.runs]) for arm in group]
    items = tuple(sorted(set.intersection(*(set(rows) for rows, _ in models)), key=read.natural))
    scores = np.zeros((len(matched.BUDGETS), len(items), len(models)))
    tokens = np.zeros_like(scores)
    for at, budget in enumerate(matched.BUDGETS):
        for column, (rows, golds) in enumerate(models):
            for row, item in enumerate(items):
                final, used = matched.vote(rows[item], budget)
                scores[at, row, column], tokens[at, row, column] = 100.0 * (final == golds[item]), used
    return _Scored(
        _vote_name(group),
        items,
        scores,
        tuple(tokens.mean(axis=(1, 2)).tolist()),
        tuple(hash for arm in group for hash in arm.training),
        tuple(_source_seed(arm) for arm in group),
        any(arm.training for arm in group),
        min(len(arm.side.runs) for arm in group),
    )
