"""Rows and comparisons of a lab, as numbers and plain words. Knows nothing about Markdown, HTML or terminals.

rows = [row(entry) for entry in read.find(output_dir)]
headline(differences(entries))
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unsay.errors import StoreError
from unsay.records import ExperimentRecord, MetricValue
from unsay.report import costs, differing, numbers
from unsay.report.differing import flat as flat
from unsay.report.names import ALWAYS_SHOWN, COLUMNS, NEEDS_A_KIND, is_undo_measure, label
from unsay.report.names import BLEU as BLEU
from unsay.report.names import FLEXIBLE as FLEXIBLE
from unsay.report.names import LABELS as LABELS
from unsay.report.names import ROUGE as ROUGE
from unsay.report.names import STRICT as STRICT
from unsay.report.numbers import ALPHA as ALPHA
from unsay.store import layout, read, tickets
from unsay.store.read import Entry, Progress
from unsay.store.tickets import Ticket

if TYPE_CHECKING:
    from unsay.report.compare import Run, Side


OWN_SHOWN = 2
"""Metrics of a task's own that the results table has room for."""


@dataclass(frozen=True)
class Row:
    """One line of the page. Metrics are shown for completed experiments only; `problem` says why there is no record."""

    entry: Entry
    name: str
    model: str = ""
    dataset: str = ""
    method: str = ""
    config: str = ""
    seed: int = 0
    status: str = ""
    liveness: str | None = None
    progress: Progress | None = None
    metrics: Mapping[str, MetricValue] = field(default_factory=dict)
    notes: str = ""
    error: str | None = None
    problem: str | None = None
    ticket: Ticket | None = None
    """Where it waits or runs in a batch system, or did so when it was last heard of."""
    standing: str = ""
    """What the batch system says of it, where that was asked."""

    @property
    def shown_status(self) -> str:
        job = f"{self.ticket}{f': {self.standing}' if self.standing else ''}" if self.ticket is not None else ""
        said = ", ".join(filter(None, (self.liveness, job)))
        return f"{self.status} ({said})" if said else self.status

    @property
    def log(self) -> Path | None:
        """The log of the last attempt."""
        record = self.entry.record
        name = record.attempts[-1].log if record is not None and record.attempts else None
        return None if name is None else Path(os.path.normpath(self.entry.folder / name))

    @property
    def output(self) -> Path | None:
        """What the shell of the job in the batch system printed."""
        name = self.ticket.output if self.ticket is not None else None
        return None if name is None else Path(os.path.normpath(self.entry.folder / name))

    def metric(self, name: str) -> MetricValue | None:
        return self.metrics.get(name)

    def to_json(self) -> dict[str, Any]:
        record = self.entry.record
        return {
            "id": record.id if record else None,
            "folder": self.entry.relative,
            "model": self.model,
            "dataset": self.dataset,
            "method": self.method,
            "config": self.config,
            "seed": self.seed,
            "limit": self.entry.limit,
            "items": items_of(self)[1],
            "status": self.status,
            "liveness": self.liveness,
            "progress": None if self.progress is None else vars(self.progress),
            "start": record.start if record else None,
            "end": record.end if record else None,
            "metrics": {name: value.to_json() for name, value in self.metrics.items()},
            "notes": self.notes,
            "error": self.error,
            "problem": self.problem,
            "log": None if self.log is None else str(self.log),
            "job": None if self.ticket is None else self._job(self.ticket),
            "archived": self.entry.archived,
            "took": costs.of(self.entry),
        }

    def _job(self, ticket: Ticket) -> dict[str, Any]:
        output = None if self.output is None else str(self.output)
        return asdict(ticket) | {"output": output, "standing": self.standing or None}


@dataclass(frozen=True)
class Difference:
    """One paired comparison on the same items: `other` minus `baseline`, in points of the page's 0-100 scale.

    A side is one experiment or all its seeds. `p` is McNemar's exact p (of a t test over seeds and questions where a
    side has several seeds: `test` says which), `p_holm` the same adjusted for the `family` comparisons made on these
    items; `arms` says how the two evaluations were set up differently.
    """

    baseline: Side
    other: Side
    metric: str
    n: int
    diff: float | None
    stderr: float | None
    low: float | None
    high: float | None
    only_baseline: int | None
    only_other: int | None
    p: float
    p_holm: float
    test: str
    family: int
    smallest: float | None
    """Smallest true difference this pair would have found four times in five."""
    arms: tuple[str, ...] = ()

    @property
    def beyond_chance(self) -> bool:
        return self.p_holm < ALPHA

    def to_json(self) -> dict[str, Any]:
        plain = {key: value for key, value in vars(self).items() if key not in ("baseline", "other", "arms")}
        return {
            "baseline": self.baseline.name,
            "other": self.other.name,
            "baseline_experiments": [run.name for run in self.baseline.runs],
            "other_experiments": [run.name for run in self.other.runs],
            **plain,
            "beyond_chance": self.beyond_chance,
            "arms": list(self.arms),
        }


@dataclass(frozen=True)
class SeedRow:
    """Several finished seeds of one experiment: mean and standard deviation over seeds of each metric of the page.

    A metric that is not defined alike in all of them, or has no value in one, is left out.
    """

    entries: tuple[Entry, ...]
    record: ExperimentRecord
    seeds: tuple[int, ...]
    metrics: Mapping[str, tuple[float, float | None]]

    def to_json(self) -> dict[str, Any]:
        record = self.record
        return {
            "experiments": [entry.name for entry in self.entries],
            "model": record.model,
            "dataset": record.dataset,
            "method": record.method,
            "config": record.config,
            "seeds": list(self.seeds),
            "metrics": {name: {"mean": mean, "sd": sd} for name, (mean, sd) in self.metrics.items()},
        }


# -- rows -------------------------------------------------------------------------


def row(entry: Entry, *, live: bool = True) -> Row:
    """Read what the page and the terminal show of one experiment; never raises for what is on disk.

    `live` asks whether a running experiment is still there and how far it is.
    """
    record = entry.record
    if record is None:
        return Row(entry, entry.name, status="unreadable", problem=entry.problem)
    problem, values, progress, liveness = None, {}, None, None
    waits = live and record.status in ("pending", "running")
    if record.status == "completed":
        try:
            values = {name: numbers.believable(value) for name, value in read.metrics(entry.folder).items()}
        except StoreError as error:
            problem = str(error)
    elif record.status == "running" and live:
        liveness = read.liveness(record, entry.folder)
        progress = read.progress(entry.folder)
    last = record.attempts[-1] if record.attempts else None
    return Row(
        entry=entry,
        name=entry.name,
        model=record.model,
        dataset=record.dataset,
        method=record.method,
        config=record.config,
        seed=record.seed,
        status=record.status,
        liveness=liveness,
        progress=progress,
        metrics=values,
        notes=record.notes,
        error=last.error if last and record.status in ("failed", "cancelled") else None,
        problem=problem,
        ticket=next(iter(tickets.below(entry.folder).values()), None) if waits else None,
    )


def items_of(row: Row) -> tuple[int | None, int | None]:
    """Return how many items were scored, and how many the whole split has; None where that is not known."""
    scored = max((value.n for value in row.metrics.values()), default=0) or None
    record = row.entry.record
    return scored, differing.total_items(record) if record else None


def undo_names(row: Row) -> tuple[str, ...]:
    """Return the undo measures worth showing: all of them where an answer could have used one."""
    names = [
        name for name, value in row.metrics.items() if is_undo_measure(value.definition) and not _is_idle(name, value)
    ]
    table = row.entry.record.facts.get("undo_table") if row.entry.record else None
    used = row.metric("undo_rate_token")
    if (isinstance(table, dict) and table.get("controls")) or (used is not None and used.value):
        return tuple(names)
    return tuple(name for name in names if name in ALWAYS_SHOWN)


def _is_idle(name: str, value: MetricValue) -> bool:
    """Say whether a measure asks for something that no answer of an experiment has: a planted beginning, a step."""
    return value.value is None and name.startswith(NEEDS_A_KIND)


def result_files(entry: Entry) -> dict[str, Path]:
    """Return the files of an experiment that exist, by what they hold, in the order of the page."""
    record, folder = entry.record, entry.folder
    newest = {kind: sorted(folder.glob(f"{kind}_*")) for kind in ("results", "samples")}
    wanted: dict[str, Path | None] = {
        "results": newest["results"][-1] if newest["results"] else None,
        "samples": read.samples_file(folder, record),
        "predictions": folder / layout.PREDICTIONS,
        "metrics": folder / layout.METRICS,
        "traces": folder / layout.TRACES,
        "prompts": folder / layout.PROMPTS,
        "training log": layout.train(folder) / layout.TRAINER_LOG,
        "training data": layout.data(folder) / layout.MANIFEST,
        "record": folder / layout.EXPERIMENT,
    }
    for kind in ("results", "samples", "predictions"):
        wanted[kind] = read.named_file(folder, record, kind) or wanted[kind]
    if record is not None and record.attempts:
        log = folder / (record.attempts[-1].log or "")
        wanted["log"] = log if log.resolve().is_relative_to(folder.parent.resolve()) else None
    return originals(record) | {kind: path for kind, path in wanted.items() if path is not None and path.is_file()}


def own_metrics(row: Row) -> str:
    """Return the metrics of a task of its own kind, for a row that has no exact match to show; "" where it has."""
    if any(value is not None and value.value is not None for value in map(row.metric, (STRICT, FLEXIBLE))):
        return ""
    own = [name for name, value in row.metrics.items() if name not in LABELS and value.value is not None]
    more = f" and {len(own) - OWN_SHOWN} more" if len(own) > OWN_SHOWN else ""
    return ", ".join(f"{name} {numbers.of(row.metrics[name])}" for name in own[:OWN_SHOWN]) + more


def originals(record: ExperimentRecord | None) -> dict[str, Path]:
    """Return the files an imported result was made from, as far as they are still there, each with what to call it."""
    found: dict[str, Path] = {}
    for each in (record.imported or {}).get("files") or () if record is not None else ():
        path = Path(str(each.get("path")))
        try:
            size = path.stat().st_size
        except (OSError, ValueError):
            continue
        changed = "" if size == each.get("bytes") else ", changed since"
        found[f"original {path.name}{changed}"] = path
    return found


def seed_rows(rows: Sequence[Row]) -> list[SeedRow]:
    """Return the experiments that finished with two seeds or more, in the order of their first seeds.

    Two results of one seed are no two seeds: such experiments have no line.
    """
    from unsay.report import compare

    groups: dict[Any, list[Row]] = {}
    for row in rows:
        if row.status == "completed" and row.entry.record is not None:
            groups.setdefault(compare.seed_key(row.entry), []).append(row)
    found = []
    for group in groups.values():
        seeds = [row.seed for row in group]
        if 1 < len(seeds) == len(set(seeds)):
            ordered = sorted(group, key=lambda row: row.seed)
            record = ordered[0].entry.record
            assert record is not None
            found.append(
                SeedRow(tuple(row.entry for row in ordered), record, tuple(sorted(seeds)), _over_seeds(ordered))
            )
    return found


def _over_seeds(rows: Sequence[Row]) -> dict[str, tuple[float, float | None]]:
    from unsay.report.results import seeds_of

    found = {}
    for name in COLUMNS:
        values = [value for row in rows if (value := row.metric(name)) is not None and value.value is not None]
        if len(values) == len(rows) and len({value.definition for value in values}) == 1:
            found[name] = seeds_of([value.value for value in values if value.value is not None])
    return found


# -- comparisons ------------------------------------------------------------------


def differences(entries: Iterable[Entry], metric: str = STRICT) -> list[Difference]:
    """Compare experiments that finished on the same items: each with the baseline of its model.

    Seeds of one experiment are compared together. The baseline is the first fine-tuning without undo, else the first
    vanilla run. Vanilla runs of one config on several models are compared too, with the first of them. Experiments are
    on the same items when dataset, item ids, gold answers and the metric's definition agree; p is adjusted (Holm)
    within each such group.
    """
    return compared(entries, metric)[0]


def uncompared(entries: Iterable[Entry], metric: str = STRICT) -> list[tuple[Entry, str]]:
    """Return the completed experiments that `differences` has nothing to compare with, each with the reason."""
    return compared(entries, metric)[1]


@dataclass(frozen=True)
class SameItems:
    """Completed experiments, grouped by the items they were scored on; of their scores only `metric` is kept.

    `without` has the ones that have no scores per item.
    """

    metric: str
    groups: tuple[tuple[Run, ...], ...]
    without: tuple[Entry, ...]


def compared(entries: Iterable[Entry], metric: str = STRICT) -> tuple[list[Difference], list[tuple[Entry, str]]]:
    """Return `differences` and `uncompared` together: the scores are read once."""
    return compared_in(same_items(entries, metric))


def compared_in(same: SameItems) -> tuple[list[Difference], list[tuple[Entry, str]]]:
    """Do what `compared` does with scores that were read before."""
    found: list[Difference] = []
    metric = same.metric
    missing = f"no {label(metric)} per item; `unsay compare` compares it by other metrics, where it has them per item"
    lacking = [run.entry for runs in same.groups for run in runs if not run.scores]
    left = [(entry, missing) for entry in (*same.without, *lacking)]
    for runs in alike(same):
        group = with_seeds(runs)
        pairs = _pairs(group)
        found += _compare(pairs, metric)
        paired = {id(side) for pair in pairs for side in pair}
        alone = [side for side in group if id(side) not in paired]
        if len(group) == 1:
            reason = "no other experiment was scored on the same items in the same way"
        else:
            reason = "no other experiment of its model on these items; `unsay compare` compares it with any other"
        left += [(run.entry, reason) for side in alone for run in side.runs]
    return found, sorted(left, key=lambda one: read.natural(one[0].name))


def headline(found: Sequence[Difference]) -> str:
    """Say in one sentence what differs beyond chance and what does not."""
    if not found:
        return (
            "No two experiments have EM (strict) on the same items, so nothing is compared here; "
            "`unsay compare` compares any two by every metric they share."
        )
    metric = label(found[0].metric)
    names = short_names(found)
    if len(found) == 1:
        one = found[0]
        first, second = names[id(one.other)], names[id(one.baseline)]
        if one.beyond_chance:
            word = "higher" if (one.diff or 0) > 0 else "lower"
            size = _points(one, signed=False)
            return f"{metric} of {first} is {size} points {word} than that of {second}, {numbers.p_words(one.p_holm)}."
        said = f"{_points(one)} points, {numbers.p_words(one.p_holm)}"
        return f"{metric} of {first} and {second} does not differ beyond chance: {said}."

    def listed(items: list[Difference]) -> str:
        texts = [
            f"{names[id(d.other)]} against {names[id(d.baseline)]} ({_points(d)}, {numbers.p_words(d.p_holm)})"
            for d in items
        ]
        shown, more = texts[:6], len(texts) - 6
        return ", ".join(shown) + (f" and {more} more" if more > 0 else "")

    clear = [d for d in found if d.beyond_chance]
    unclear = [d for d in found if not d.beyond_chance]
    if not clear:
        return f"{metric} does not differ beyond chance in any comparison: {listed(unclear)}; p is Holm-adjusted."
    if not unclear:
        return f"{metric} differs beyond chance in every comparison: {listed(clear)}; p is Holm-adjusted."
    return f"{metric} differs beyond chance for {listed(clear)}; it does not for {listed(unclear)}; p is Holm-adjusted."


def short_names(found: Sequence[Difference]) -> dict[int, str]:
    """Name the compared sides as briefly as their differences allow, keyed by id() of the side."""
    sides = {id(side): side for one in found for side in (one.baseline, one.other)}
    forms = (
        lambda record: record.config,
        lambda record: f"{record.model} {record.config}",
        lambda record: f"{record.model} {record.config} seed {record.seed}",
    )
    for form in forms:
        names = {key: form(side.record) for key, side in sides.items()}
        if len(set(names.values())) == len(sides):
            return {key: name + _seeds_in_brackets(sides[key]) for key, name in names.items()}
    return {key: side.name for key, side in sides.items()}


def _seeds_in_brackets(side: Side) -> str:
    return f" ({len(side.runs)} seeds)" if side.is_group else ""


def has_undo_data(record: ExperimentRecord) -> bool:
    """Say whether an experiment was trained on answers with undo."""
    settings = record.spec.get("settings")
    if isinstance(settings, dict) and "undo" in settings:
        return settings["undo"] is not None
    return bool(re.search(r"(^|[/_+])(bt|undo)", record.config))  # imported: only the name is known


def _completed(entry: Entry) -> bool:
    return entry.record is not None and entry.record.status == "completed"


def same_items(entries: Iterable[Entry], metric: str = STRICT) -> SameItems:
    """Read the scores of the completed experiments and group those that were asked the same."""
    from unsay.report import compare
    from unsay.report.compare import Side

    groups: dict[Any, list[list[Run]]] = {}
    without: list[Entry] = []
    for entry in entries:
        if entry.record is None or not _completed(entry):
            continue
        try:
            run = compare.load(entry)
        except (StoreError, ValueError, OSError):
            without.append(entry)
            continue
        scored = tuple(sorted((item, label) for item, (_, label) in run.items.items()))
        known = groups.setdefault((entry.record.dataset, beginning(entry.record), scored), [])
        # gold answers may agree where questions do not
        group = next((each for each in known if compare.why_not(Side((each[0],)), Side((run,))) is None), None)
        if group is None:
            known.append([_only(run, metric, run)])
        else:
            group.append(_only(run, metric, group[0]))
    return SameItems(metric, tuple(tuple(group) for known in groups.values() for group in known), tuple(without))


def alike(same: SameItems) -> list[list[Run]]:
    """Split groups of the same items by how the metric is defined: what is within one of these can be compared."""
    found: list[list[Run]] = []
    for group in same.groups:
        by_definition: dict[str | None, list[Run]] = {}
        for run in group:
            if run.scores:
                by_definition.setdefault(run.definition(same.metric), []).append(run)
        found += by_definition.values()
    return found


def beginning(record: ExperimentRecord) -> tuple[Any, ...]:
    """Return what an experiment's answers were made to begin with: such answers are compared with their like only."""
    decode = settings_of(record, "decode")
    return decode.get("plant"), bool(decode.get("plant_twin"))


def settings_of(record: ExperimentRecord, part: str) -> Mapping[str, Any]:
    """Return a part of the settings that an experiment recorded; empty where it has none, as imports do."""
    settings = record.spec.get("settings")
    found = settings.get(part) if isinstance(settings, dict) else None
    return found if isinstance(found, dict) else {}


def _only(run: Run, metric: str, first: Run) -> Run:
    """Return a run with one metric, sharing what it has in common with the first of its group: labs may be large."""
    items = first.items if run.items == first.items else run.items
    scores = run.scores.get(metric)
    kept = {} if scores is None else {metric: {item: scores[item] for item in items if item in scores}}
    return replace(run, items=items, scores=kept, order=())


def with_seeds(runs: Sequence[Run]) -> list[Side]:
    """Put the seeds of one experiment together, where the first of them stands."""
    from unsay.report.compare import Side, seed_key

    by_key: dict[Any, list[Run]] = {}
    for run in runs:
        by_key.setdefault(seed_key(run.entry), []).append(run)
    found: list[Side] = []
    for each in by_key.values():
        seeds = {run.record.seed for run in each}
        if len(seeds) == len(each):
            found.append(Side(tuple(sorted(each, key=lambda run: run.record.seed))))
        else:
            found += [Side((run,)) for run in each]
    return found


def _pairs(group: Sequence[Side]) -> list[tuple[Side, Side]]:
    by_model: dict[str, list[Side]] = {}
    by_config: dict[str, list[Side]] = {}
    for side in group:
        by_model.setdefault(side.record.model, []).append(side)
        if side.record.method == "vanilla":
            by_config.setdefault(side.record.config, []).append(side)
    pairs: list[tuple[Side, Side]] = []
    for sides in by_model.values():
        baseline = min(sides, key=_baseline_rank)  # the first of the best rank
        pairs += [(baseline, other) for other in sides if other is not baseline]
        pairs += _counterfactual([side for side in sides if side is not baseline])
    for first, *others in by_config.values():
        pairs += [(first, other) for other in others if other.record.model != first.record.model]
    return pairs


def _counterfactual(sides: Sequence[Side]) -> list[tuple[Side, Side]]:
    """Pair what may take back with the same trained weights, decoded alike, where undo is banned."""

    def alike(one: Side, other: Side) -> bool:
        first, second = (dict(settings_of(side.record, "decode")) for side in (one, other))
        for key in ("undo", "undo_context"):
            first.pop(key, None), second.pop(key, None)
        return first == second

    banned = [side for side in sides if settings_of(side.record, "decode").get("undo") == "ban"]
    allowed = [side for side in sides if settings_of(side.record, "decode").get("undo") != "ban"]
    pairs = []
    for one in banned:
        for other in allowed:
            shared = set(one.trainings) & set(other.trainings) - {None}
            if shared and alike(one, other):
                pairs.append((one.with_trainings(shared), other.with_trainings(shared)))
    return pairs


def _baseline_rank(side: Side) -> int:
    record = side.record
    if record.method == "sft" and not has_undo_data(record):
        return 0
    return 1 if record.method == "vanilla" else 2


def _compare(pairs: Sequence[tuple[Side, Side]], metric: str) -> list[Difference]:
    if not pairs:
        return []
    from unsay import stats
    from unsay.report import compare
    from unsay.report.results import results_of

    results = []
    for baseline, other in pairs:
        items = compare.common_items(baseline, other)
        results += results_of(baseline, other, [metric], items, resample=False)
    p_values = [1.0 if result.p is None else result.p for result in results]
    found = []
    for (baseline, other), result, p, p_holm in zip(pairs, results, p_values, stats.holm(p_values), strict=True):
        counts = [None if items is None else len(items) for items in (result.only_baseline, result.only_other)]
        found.append(
            Difference(
                baseline=baseline,
                other=other,
                metric=metric,
                n=result.n,
                diff=result.diff,
                stderr=result.stderr,
                low=result.low,
                high=result.high,
                only_baseline=counts[0],
                only_other=counts[1],
                p=p,
                p_holm=p_holm,
                test=result.test,
                family=len(pairs),
                smallest=result.smallest,
                arms=differing.arms(baseline.record, other.record, seeds=not (baseline.is_group or other.is_group)),
            )
        )
    return found


def _points(one: Difference, *, signed: bool = True) -> str:
    if one.diff is None:
        return "unknown"
    return numbers.shown(one.diff if signed else abs(one.diff), one.stderr, digits=1, signed=signed)
