"""The arms of a study: which experiments of a lab can be compared with each other, and what each of them is for.

Arms are sorted by the model they began with and the dataset; what an arm is for is read from the settings it recorded,
never from its name. Seeds of one experiment are one arm; where a seed is there twice, each experiment stands alone.

    for group in groups(read.find(lab), STRICT):
        print(group.model, group.dataset, [arm.name for arm in group.arms])
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from unsay.errors import StoreError
from unsay.records import ExperimentRecord
from unsay.report import compare, differing, tables
from unsay.report.compare import Run, Side
from unsay.report.names import label
from unsay.store.read import Entry

SFT = "sft"
PURPOSE = {"undo", "undo_bias", "undo_context", "plant", "plant_twin"}
"""Settings of decoding that make an arm what it is."""
SAMPLING = {"do_sample", "temperature", "top_p", "top_k"}
"""Those that make answers for a vote."""


@dataclass(frozen=True)
class Arm:
    """All seeds of one experiment, and what of its settings decides which question it answers.

    `source` is the training whose answers were sampled, where the model of the experiment is another experiment.
    `alone` marks one of several experiments of the same seed.
    """

    side: Side
    source: ExperimentRecord | None = None
    alone: bool = False

    @property
    def record(self) -> ExperimentRecord:
        return self.side.record

    @property
    def name(self) -> str:
        if self.alone:
            return f"{self.record.config} ({self.side.runs[0].name})"
        seeds = len(self.side.runs)
        return self.record.config + (f" ({seeds} seeds)" if seeds > 1 else "")

    @property
    def decode(self) -> Mapping[str, Any]:
        return self._settings("decode")

    @property
    def recipe(self) -> Mapping[str, Any]:
        """How it was trained, apart from the data."""
        return self._settings("training")

    @property
    def mistakes(self) -> Mapping[str, Any]:
        """What the data with mistakes are, apart from how they are taken back."""
        return {key: value for key, value in self._settings("undo").items() if key != "say"}

    def _settings(self, part: str) -> Mapping[str, Any]:
        return tables.settings_of(self.record, part)

    @cached_property
    def training(self) -> tuple[str, ...]:
        """The hashes of what was trained, one per seed; empty where nothing was. Of a vote, of what was sampled."""
        if self.source is not None:
            return (str(self.source.hashes["train"]),) if "train" in self.source.hashes else ()
        return tuple(training for training in self.side.trainings if training is not None)

    def with_trainings(self, trainings: Collection[str]) -> Arm:
        """Return the arm with the seeds of these trainings alone."""
        return replace(self, side=self.side.with_trainings(trainings))

    @property
    def is_trained(self) -> bool:
        return self.record.method == SFT

    @property
    def has_undo_data(self) -> bool:
        return tables.has_undo_data(self.record)

    @property
    def is_banned(self) -> bool:
        return self.decode.get("undo") == "ban"

    @property
    def in_words(self) -> bool:
        """Whether it was trained to correct mistakes in words."""
        return self._settings("undo").get("say") == "words"

    @property
    def may_undo(self) -> bool:
        return self.is_trained and self.has_undo_data and not self.is_banned

    @property
    def as_trained(self) -> bool:
        """Whether what is taken back is handled in decoding as it was in training."""
        return self.context == str(self._settings("undo").get("context", "keep"))

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

    @property
    def is_plain(self) -> bool:
        """Whether its answers are the model's own from the first token on, one per question."""
        return self.plant is None and not self.is_sampled


@dataclass(frozen=True)
class Group:
    """The arms of one model and dataset; `cautions` are differences in asking and answering that no arm is about."""

    model: str
    dataset: str
    arms: tuple[Arm, ...]
    baseline: Arm | None
    cautions: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...]


def groups(entries: Iterable[Entry], metric: str) -> list[Group]:
    """Return what can be compared, by model and dataset, in the order of the lab."""
    entries = list(entries)
    by_identity = {entry.record.identity: entry.record for entry in entries if entry.record is not None}
    runs: dict[tuple[str, str], list[Run]] = {}
    left_out: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for entry in entries:
        where = ("", "") if entry.record is None else (_origin(entry.record, by_identity), entry.record.dataset)
        found = _run(entry, metric)
        if isinstance(found, str):
            left_out.setdefault(where, []).append((entry.name, found))
        else:
            runs.setdefault(where, []).append(found)
    return [
        _group(where, runs.get(where, []), left_out.get(where, []), by_identity, metric)
        for where in dict.fromkeys([*runs, *left_out])
    ]


def _origin(record: ExperimentRecord, by_identity: Mapping[str, ExperimentRecord]) -> str:
    """Return the model that an experiment began with, through the experiments whose trainings it goes on with."""
    seen: set[str] = set()
    while (source := _source(record, by_identity)) is not None and source.identity not in seen:
        seen.add(source.identity)
        record = source
    return record.model


def _source(record: ExperimentRecord, by_identity: Mapping[str, ExperimentRecord]) -> ExperimentRecord | None:
    model = record.spec.get("model")
    return by_identity.get(str(model.get("experiment"))) if isinstance(model, dict) else None


def _run(entry: Entry, metric: str) -> Run | str:
    """Return an experiment with its scores, or why it is left out."""
    if entry.record is None or entry.record.status != "completed":
        return "not completed"
    try:
        run = compare.load(entry)
    except StoreError as error:
        return str(error)
    return run if metric in run.scores else f"no {label(metric)} per item"


def _group(
    where: tuple[str, str],
    runs: Sequence[Run],
    left_out: Sequence[tuple[str, str]],
    by_identity: Mapping[str, ExperimentRecord],
    metric: str,
) -> Group:
    kept, dropped = _alike(runs, metric)
    seeds: dict[Any, list[Run]] = {}
    for run in kept:
        seeds.setdefault(compare.seed_key(run.entry), []).append(run)
    arms: list[Arm] = []
    for group in seeds.values():
        group.sort(key=lambda run: run.record.seed)
        source = _source(group[0].record, by_identity)
        if len({run.record.seed for run in group}) == len(group):
            arms.append(Arm(Side(tuple(group)), source))
        else:
            arms += [Arm(Side((run,)), source, alone=True) for run in group]
    baseline = baseline_of(arms)
    cautions = () if baseline is None else tuple(dict.fromkeys(_cautions(arms, baseline, metric)))
    return Group(*where, tuple(arms), baseline, cautions, (*left_out, *dropped))


def _alike(runs: Sequence[Run], metric: str) -> tuple[list[Run], list[tuple[str, str]]]:
    """Keep what was scored on the items, and by the definition, of most experiments; say why the others are not."""

    def most(keys: Sequence[Any]) -> Any:
        return max(dict.fromkeys(keys), key=keys.count, default=None)

    asked = [tuple(sorted((item, reference) for item, (_, reference) in run.items.items())) for run in runs]
    chosen = most(asked)
    same = [run for run, key in zip(runs, asked, strict=True) if key == chosen]
    dropped = [
        (run.name, "scored on other items than the rest") for run, key in zip(runs, asked, strict=True) if key != chosen
    ]
    definition = most([known for run in same if (known := run.definition(metric)) is not None])
    kept = [run for run in same if run.definition(metric) in (None, definition)]
    dropped += [
        (run.name, f"{label(metric)} is {run.definition(metric)!r} there and {definition!r} in the rest")
        for run in same
        if run.definition(metric) not in (None, definition)
    ]
    return kept, dropped


def baseline_of(arms: Sequence[Arm]) -> Arm | None:
    """Return the fine-tuning without undo data that is trained like the first one with it, else the first there is."""
    trained = [arm for arm in arms if arm.is_trained and arm.is_plain]
    plain = [arm for arm in trained if not arm.has_undo_data]
    wanted = next((arm.recipe for arm in trained if arm.has_undo_data), None)
    return next((arm for arm in plain if arm.recipe == wanted), plain[0] if plain else None)


def is_longer_or_shorter(arm: Arm, baseline: Arm) -> bool:
    """Say whether an arm is the baseline's training over another number of steps or epochs, and nothing else."""

    def rest(recipe: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in recipe.items() if key not in ("max_steps", "num_train_epochs")}

    plain = arm.is_trained and arm.is_plain and not arm.has_undo_data
    return plain and arm.recipe != baseline.recipe and rest(arm.recipe) == rest(baseline.recipe)


def shared_trainings(one: Arm, two: Arm) -> list[str]:
    """Return the trainings that two arms have in common."""
    return [training for training in one.training if training in two.training]


def same_mistakes(words: Arm, arm: Arm) -> bool:
    """Say whether an arm was trained with undo tokens on the rows that another corrects in words."""
    same = words.mistakes == arm.mistakes and words.recipe == arm.recipe
    return same and arm.has_undo_data and not arm.in_words and arm.as_trained


def _cautions(arms: Sequence[Arm], baseline: Arm, metric: str) -> Iterable[str]:
    """Say what differs from the baseline in asking and answering that is not what an arm is about."""
    for arm in arms:
        found = differing.protocol(baseline.record, arm.record)
        meant = PURPOSE | (SAMPLING if arm.is_sampled else set())
        differs = [text for text in found.differing if text.split()[0] not in meant]
        yield from (f"{arm.name} against {baseline.name}: {text}" for text in differs)
        yield from (f"{arm.name} against {baseline.name}: unknown: {text}" for text in found.unknown)
        first, *others = arm.side.runs
        for run in others:
            if unlike := differing.arms(first.record, run.record, seeds=False):
                yield f"the seeds of {arm.name} are not set up alike: {', '.join(unlike)} in {run.name}"
        unknown = [run.name for run in arm.side.runs if run.definition(metric) is None]
        if unknown:
            yield f"the definition of {label(metric)} in {', '.join(unknown)} is not known"
