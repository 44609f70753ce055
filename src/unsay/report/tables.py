"""Rows and comparisons of a lab, as numbers and plain words. Knows nothing about Markdown, HTML or terminals.

rows = [row(entry) for entry in read.find(output_dir)]
headline(differences(entries))
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unsay.errors import StoreError
from unsay.records import ExperimentRecord, MetricValue
from unsay.store import layout, read
from unsay.store.read import Entry, Progress

STRICT, FLEXIBLE = "exact_match_strict", "exact_match_flexible"
BLEU, ROUGE = "bleu4_lf", "rouge_l_lf"

LABELS: Mapping[str, str] = {
    STRICT: "EM (strict)",
    FLEXIBLE: "EM (flex)",
    BLEU: "BLEU-4 (LLaMA-Factory)",
    "rouge_1_lf": "ROUGE-1 (LLaMA-Factory)",
    "rouge_2_lf": "ROUGE-2 (LLaMA-Factory)",
    ROUGE: "ROUGE-L (LLaMA-Factory)",
    "bleu": "BLEU (sacreBLEU)",
    "rouge_l": "ROUGE-L (rouge-score)",
    "sampled_tokens": "Sampled tokens per answer",
    "truncated": "Answers ended by a limit (%)",
    "undo_rate_token": "Undo tokens (% of sampled)",
    "undo_per_answer": "Undos per answer",
    "undo_answers": "Answers with an undo (%)",
    "episodes_per_answer": "Undo episodes per answer",
    "undo_run_length": "Undos per episode",
    "undo_depth": "Tokens left after an episode",
    "undo_first_position": "Position of the first undo",
    "waste": "Tokens spent on what was taken back (%)",
    "underflow_per_answer": "Undos with nothing to take back, per answer",
    "undo_left": "Undo tokens left in answers",
}
ALWAYS_SHOWN = ("sampled_tokens", "truncated")
"""Measures of the undo family that say something about answers without any undo too."""

ALPHA = 0.05
# lm-eval's names of the filters behind our exact match.
_FILTERS = {STRICT: "strict-match", FLEXIBLE: "flexible-extract"}


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

    @property
    def shown_status(self) -> str:
        return f"{self.status} ({self.liveness})" if self.liveness else self.status

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
        }


@dataclass(frozen=True)
class Difference:
    """One paired comparison on the same items: `other` minus `baseline`, in points of the page's 0-100 scale.

    `p` is McNemar's exact p, `p_holm` the same adjusted for the `family` comparisons made on these items; `arms` says
    how the two evaluations were set up differently.
    """

    baseline: Entry
    other: Entry
    metric: str
    n: int
    diff: float | None
    stderr: float | None
    low: float | None
    high: float | None
    only_baseline: int
    only_other: int
    p: float
    p_holm: float
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
            **plain,
            "beyond_chance": self.beyond_chance,
            "arms": list(self.arms),
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
    if record.status == "completed":
        try:
            values = read.metrics(entry.folder)
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
    )


def items_of(row: Row) -> tuple[int | None, int | None]:
    """Return how many items were scored, and how many the whole split has; None where that is not known."""
    scored = max((value.n for value in row.metrics.values()), default=0) or None
    record = row.entry.record
    total = record.items if record else None
    if record and record.limit is not None and (total is None or total <= record.limit):
        known = record.facts.get("total")
        total = known if isinstance(known, int) else None
    return scored, total


def undo_names(row: Row) -> tuple[str, ...]:
    """Return the undo measures worth showing: all of them where an answer could have used one."""
    names = [name for name, value in row.metrics.items() if value.definition.startswith("unsay undo")]
    table = row.entry.record.facts.get("undo_table") if row.entry.record else None
    used = row.metric("undo_rate_token")
    if (isinstance(table, dict) and table.get("controls")) or (used is not None and used.value):
        return tuple(names)
    return tuple(name for name in names if name in ALWAYS_SHOWN)


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
    return {kind: path for kind, path in wanted.items() if path is not None and path.is_file()}


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings to dotted names."""
    found: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, dict) and item:
            found |= flat(item, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = item
    return found


# -- comparisons ------------------------------------------------------------------


def differences(entries: Iterable[Entry], metric: str = STRICT) -> list[Difference]:
    """Compare experiments that finished on the same items: each with the baseline of its model.

    The baseline is the first fine-tuning without undo, else the first vanilla run. Vanilla runs of one config on
    several models are compared too, with the first of them. Experiments are on the same items when dataset, item
    numbers, gold answers and the metric's definition agree; McNemar's p is adjusted (Holm) within each such group.
    """
    found: list[Difference] = []
    for group in _groups(entries, metric):
        pairs = _pairs([entry for entry, _ in group])
        scores = {id(entry): scored for entry, scored in group}
        found += _compare([(a, b, scores[id(a)], scores[id(b)]) for a, b in pairs], metric)
    return found


def uncompared(entries: Iterable[Entry], metric: str = STRICT) -> list[tuple[Entry, str]]:
    """Return the completed experiments that `differences` has nothing to compare with, each with the reason."""
    entries = [entry for entry in entries if _completed(entry)]
    grouped = {id(entry): len(group) for group in _groups(entries, metric) for entry, _ in group}
    left: list[tuple[Entry, str]] = []
    for entry in entries:
        size = grouped.get(id(entry))
        if size is None:
            left.append((entry, f"no {LABELS.get(metric, metric)} per item on disk (a samples file of lm-eval)"))
        elif size == 1:
            left.append((entry, "no other experiment was scored on the same items in the same way"))
    return left


def item_scores(entry: Entry, metric: str = STRICT) -> dict[int, tuple[str, float]]:
    """Return gold answer and score (0-1, mean over repeats) of every item; empty where none are on disk."""
    wanted = _FILTERS[metric]
    found: dict[int, tuple[str, list[float]]] = {}
    for line in read.samples(entry.folder, entry.record):
        score = line.get("exact_match")
        if line.get("filter") != wanted or not isinstance(score, int | float) or "doc_id" not in line:
            continue
        target = line.get("target_hash") if line.get("target") is None else line["target"]
        found.setdefault(int(line["doc_id"]), (str(target), []))[1].append(float(score))
    return {item: (target, sum(values) / len(values)) for item, (target, values) in sorted(found.items())}


def headline(found: Sequence[Difference]) -> str:
    """Say in one sentence what differs beyond chance and what does not."""
    if not found:
        return "No two experiments have finished on the same items yet, so nothing can be compared."
    metric = LABELS.get(found[0].metric, found[0].metric)
    names = short_names(found)
    if len(found) == 1:
        one = found[0]
        first, second = names[id(one.other)], names[id(one.baseline)]
        if one.beyond_chance:
            word = "higher" if (one.diff or 0) > 0 else "lower"
            size = _points(one, signed=False)
            return f"{metric} of {first} is {size} points {word} than that of {second}, {_p(one.p_holm)}."
        return (
            f"{metric} of {first} and {second} does not differ beyond chance: {_points(one)} points, {_p(one.p_holm)}."
        )

    def listed(items: list[Difference]) -> str:
        texts = [f"{names[id(d.other)]} against {names[id(d.baseline)]} ({_points(d)}, {_p(d.p_holm)})" for d in items]
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
    """Name the compared experiments as briefly as their differences allow, keyed by id() of the entry."""
    entries = {id(entry): entry for one in found for entry in (one.baseline, one.other)}
    forms = (
        lambda record: record.config,
        lambda record: f"{record.model} {record.config}",
        lambda record: f"{record.model} {record.config} seed {record.seed}",
    )
    for form in forms:
        names = {key: form(entry.record) for key, entry in entries.items() if entry.record is not None}
        if len(set(names.values())) == len(entries):
            return names
    return {key: entry.name for key, entry in entries.items()}


def has_undo_data(record: ExperimentRecord) -> bool:
    """Say whether an experiment was trained on answers with undo."""
    settings = record.spec.get("settings")
    if isinstance(settings, dict) and "undo" in settings:
        return settings["undo"] is not None
    return bool(re.search(r"(^|[/_+])(bt|undo)", record.config))  # imported: only the name is known


def _completed(entry: Entry) -> bool:
    return entry.record is not None and entry.record.status == "completed"


def _groups(entries: Iterable[Entry], metric: str) -> list[list[tuple[Entry, list[float]]]]:
    """Group completed experiments by what was asked and how it was scored; scores in the order of the items."""
    groups: dict[Any, list[tuple[Entry, list[float]]]] = {}
    for entry in entries:
        if entry.record is None or not _completed(entry):
            continue
        try:
            scores = item_scores(entry, metric)
            value = read.metrics(entry.folder).get(metric)
        except (StoreError, ValueError, OSError):
            continue
        if scores:
            definition = value.definition if value else None
            key = (entry.record.dataset, definition, tuple((item, gold) for item, (gold, _) in scores.items()))
            groups.setdefault(key, []).append((entry, [score for _, score in scores.values()]))
    return list(groups.values())


def _pairs(group: Sequence[Entry]) -> list[tuple[Entry, Entry]]:
    by_model: dict[str, list[Entry]] = {}
    by_config: dict[str, list[Entry]] = {}
    for entry in group:
        assert entry.record is not None
        by_model.setdefault(entry.record.model, []).append(entry)
        if entry.record.method == "vanilla":
            by_config.setdefault(entry.record.config, []).append(entry)
    pairs: list[tuple[Entry, Entry]] = []
    for entries in by_model.values():
        baseline = min(entries, key=_baseline_rank)  # the first of the best rank
        pairs += [(baseline, other) for other in entries if other is not baseline]
    for first, *others in by_config.values():
        pairs += [(first, o) for o in others if o.record and first.record and o.record.model != first.record.model]
    return pairs


def _baseline_rank(entry: Entry) -> int:
    record = entry.record
    if record is not None and record.method == "sft" and not has_undo_data(record):
        return 0
    return 1 if record is not None and record.method == "vanilla" else 2


def _compare(pairs: Sequence[tuple[Entry, Entry, list[float], list[float]]], metric: str) -> list[Difference]:
    if not pairs:
        return []
    from unsay import stats

    tests = [stats.mcnemar(*stats.discordant(b, a)) for _, _, a, b in pairs]
    adjusted = stats.holm([test.p for test in tests])
    found = []
    for (baseline, other, a, b), test, p_holm in zip(pairs, tests, adjusted, strict=True):
        paired = stats.paired_difference([100 * score for score in b], [100 * score for score in a])
        found.append(
            Difference(
                baseline=baseline,
                other=other,
                metric=metric,
                n=paired.n,
                diff=paired.diff,
                stderr=paired.stderr,
                low=paired.low,
                high=paired.high,
                only_baseline=test.only_b,
                only_other=test.only_a,
                p=test.p,
                p_holm=p_holm,
                family=len(pairs),
                smallest=stats.smallest_difference(paired.stderr) if paired.stderr else None,
                arms=_arms(baseline.record, other.record),
            )
        )
    return found


def _arms(a: ExperimentRecord | None, b: ExperimentRecord | None) -> tuple[str, ...]:
    """Say how two evaluations were set up differently: prompts, decoding; and whether model or training differ."""
    if a is None or b is None:
        return ()
    left, right = (record.spec.get("settings") for record in (a, b))
    if not isinstance(left, dict) or not isinstance(right, dict):
        return ("settings unknown",)
    words = [f"model {b.model} instead of {a.model}"] if a.model != b.model else []
    for part in ("prompting", "decode"):
        one, two = (flat(side.get(part) or {}) for side in (left, right))
        for name in sorted({*one, *two}):
            if one.get(name) != two.get(name):
                words.append(f"{name} {two.get(name)} instead of {one.get(name)}")
    for part, word in (("training", "training"), ("undo", "undo data")):
        if left.get(part) != right.get(part):
            words.append(f"another {word}" if left.get(part) and right.get(part) else f"{word} in only one")
    if a.seed != b.seed:
        words.append(f"seed {b.seed} instead of {a.seed}")
    return tuple(words)


def _points(one: Difference, *, signed: bool = True) -> str:
    if one.diff is None:
        return "unknown"
    size = f"{one.diff:+.1f}" if signed else f"{abs(one.diff):.1f}"
    return size + (f" ± {one.stderr:.1f}" if one.stderr is not None else "")


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"
