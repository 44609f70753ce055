"""The dataclasses that both halves of unsay share and that end up on disk.

Knows nothing about where the records are kept (`unsay.store`) or how they are made. Token ids are plain ints.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

SCHEMA = 1
"""Version of every JSON format defined here; written as `schema` into each file and line."""

# Provenance of one token of a training trace, one letter each so that a row stays readable on disk.
CLEAN, ERROR, UNDO, CORRECTION = "c", "e", "u", "k"
PROVENANCE = (CLEAN, ERROR, UNDO, CORRECTION)

STATUSES = ("pending", "running", "completed", "failed", "cancelled")

BUDGET_REASONS = ("max_steps", "max_survivors", "max_undos", "max_visits", "max_context", "banned")
"""Finish reasons that mean a limit ended the answer; `eos` and `stop` mean the model ended it."""


@dataclass(frozen=True)
class Example:
    """One question of a dataset with its gold answer, as text."""

    id: str
    question: str
    answer: str


@dataclass(frozen=True)
class Row:
    """One training row: prompt ids, then the trace with the origin of every token.

    `ids` ends with the end token. `provenance` has one letter of `PROVENANCE` per token of `ids`.
    """

    id: str
    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    provenance: str

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "id": self.id,
            "prompt_ids": list(self.prompt_ids),
            "ids": list(self.ids),
            "provenance": self.provenance,
        }

    @classmethod
    def from_json(cls, line: dict[str, Any]) -> Row:
        return cls(line["id"], tuple(line["prompt_ids"]), tuple(line["ids"]), line["provenance"])


@dataclass(frozen=True)
class Counts:
    """What happened in one trace. `sampled == survivors + popped + undos + underflows` always holds.

    An end token counts as sampled and as a survivor. `depths` are stack heights after each episode (a maximal run of
    undos), `run_lengths` the lengths of those runs, `first_undo` the index of the first undo in the trace, `undo_left`
    the control ids left in the visible ids (always 0 unless something is broken).
    """

    sampled: int
    survivors: int
    popped: int
    undos: int
    underflows: int
    episodes: int
    run_lengths: tuple[int, ...]
    depths: tuple[int, ...]
    first_undo: int | None
    undo_left: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"run_lengths": list(self.run_lengths), "depths": list(self.depths)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Counts:
        return cls(**{**value, "run_lengths": tuple(value["run_lengths"]), "depths": tuple(value["depths"])})


@dataclass(frozen=True)
class Key:
    """Which generation request of which item: lm-eval's task name, document, request index and repeat."""

    task: str
    doc_id: int
    request: int = 0
    repeat: int = 0

    def to_json(self) -> list[Any]:
        return [self.task, self.doc_id, self.request, self.repeat]

    @classmethod
    def from_json(cls, value: list[Any]) -> Key:
        return cls(str(value[0]), int(value[1]), int(value[2]), int(value[3]))


@dataclass(frozen=True)
class Beginning:
    """What an answer was made to begin with: `given` ids, the last ones, from `place` on, a mistake.

    In a `twin` the right ids stand in the place of the mistake.
    """

    given: int
    place: int
    twin: bool = False


@dataclass(frozen=True)
class Trace:
    """One finished sequence: every sampled id, and what survives.

    `ids` excludes the prompt and ends with the end token when the model wrote one. `pieces` is the display text of each
    id, so that no reader needs a tokenizer. `visible` is the text of the survivors, cut before a stop string.
    """

    key: Key
    prompt_sha256: str
    eval_hash: str
    seed: int
    ids: tuple[int, ...]
    pieces: tuple[str, ...]
    visible_ids: tuple[int, ...]
    visible: str
    finish_reason: str
    counts: Counts
    logprobs: tuple[float, ...] = ()
    """The model's own, one per sampled id."""
    sampler_logprobs: tuple[float, ...] = ()
    """Those of the distribution drawn from, after bans, bias, temperature and filters; empty where none was drawn."""
    stop_in_raw: bool = False
    """Whether a stop string lies in what was sampled, undos left out, but not in what survived."""
    beginning: Beginning | None = None
    """What of it the model did not write; counts and log-probabilities have it like the rest."""
    undo_logprobs: tuple[float, ...] = ()
    """Behind a beginning: the model's log-probability of any control token, one per id."""

    def to_json(self) -> dict[str, Any]:
        line = {
            "schema": SCHEMA,
            "key": self.key.to_json(),
            "prompt_sha256": self.prompt_sha256,
            "eval": self.eval_hash,
            "seed": self.seed,
            "ids": list(self.ids),
            "pieces": list(self.pieces),
            "visible_ids": list(self.visible_ids),
            "visible": self.visible,
            "finish_reason": self.finish_reason,
            "counts": self.counts.to_json(),
            "logprobs": [round(value, 5) for value in self.logprobs],
        }
        if self.sampler_logprobs:
            line["sampler_logprobs"] = [round(value, 5) for value in self.sampler_logprobs]
        if self.stop_in_raw:
            line["stop_in_raw"] = True
        if self.beginning is not None:
            line["beginning"] = asdict(self.beginning)
        if self.undo_logprobs:
            line["undo_logprobs"] = [round(value, 5) for value in self.undo_logprobs]
        return line

    @classmethod
    def from_json(cls, line: dict[str, Any]) -> Trace:
        return cls(
            key=Key.from_json(line["key"]),
            prompt_sha256=line["prompt_sha256"],
            eval_hash=line["eval"],
            seed=line["seed"],
            ids=tuple(line["ids"]),
            pieces=tuple(line["pieces"]),
            visible_ids=tuple(line["visible_ids"]),
            visible=line["visible"],
            finish_reason=line["finish_reason"],
            counts=Counts.from_json(line["counts"]),
            logprobs=tuple(line["logprobs"]),
            sampler_logprobs=tuple(line.get("sampler_logprobs", ())),
            stop_in_raw=line.get("stop_in_raw", False),
            beginning=Beginning(**line["beginning"]) if line.get("beginning") else None,
            undo_logprobs=tuple(line.get("undo_logprobs", ())),
        )


@dataclass(frozen=True)
class Prompt:
    """One rendered prompt: text, ids and the display text of each id. `cut` counts ids dropped on the left."""

    key: Key
    text: str
    ids: tuple[int, ...]
    pieces: tuple[str, ...]
    sha256: str
    cut: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "key": self.key.to_json(),
            "text": self.text,
            "ids": list(self.ids),
            "pieces": list(self.pieces),
            "sha256": self.sha256,
            "cut": self.cut,
        }

    @classmethod
    def from_json(cls, line: dict[str, Any]) -> Prompt:
        return cls(
            key=Key.from_json(line["key"]),
            text=line["text"],
            ids=tuple(line["ids"]),
            pieces=tuple(line["pieces"]),
            sha256=line["sha256"],
            cut=line["cut"],
        )


@dataclass(frozen=True)
class Written:
    """An answer token by token, for measures that look at what was taken back.

    `takes` has one entry per id: None for an ordinary token, for a control token how many survivors it took back (0 in
    an underflow). The end token, and what follows it, is left out.
    """

    pieces: tuple[str, ...]
    ids: tuple[int, ...]
    takes: tuple[int | None, ...]
    beginning: Beginning | None = None
    undo_chance: float | None = None
    """The model's probability of any control token right behind the beginning."""


@dataclass(frozen=True)
class Sample:
    """What a metric sees of one item: `predict` is the visible text, `label` the dataset's gold answer."""

    key: str
    question: str
    label: str
    predict: str
    finish_reason: str | None = None
    counts: Counts | None = None
    written: Written | None = None


@dataclass(frozen=True)
class ItemScores:
    """One line of `scores.jsonl`: what every metric gave one item, and what the item is, so that runs can be paired.

    `question` and `label` are `short_hash` of the question (None where only a rendered prompt is known) and of the
    reference answer. `scores` maps a metric's name to its 0-100 score; one without a score for the item is left out.
    """

    item: str
    question: str | None
    label: str
    scores: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA} | asdict(self)

    @classmethod
    def from_json(cls, line: dict[str, Any]) -> ItemScores:
        scores = {str(name): float(score) for name, score in line["scores"].items()}
        question = line["question"]
        return cls(str(line["item"]), None if question is None else str(question), str(line["label"]), scores)


def short_hash(text: str) -> str:
    """Name a text by 16 hex digits: its sha256 without white space at the ends and with line breaks as LF."""
    plain = text.replace("\r\n", "\n").strip()
    return hashlib.sha256(plain.encode("utf-8", "surrogatepass")).hexdigest()[:16]


@dataclass(frozen=True)
class MetricValue:
    """One metric over n items on the 0-100 scale of the page; `value` is None only together with a `reason`."""

    value: float | None
    stderr: float | None
    low: float | None
    high: float | None
    n: int
    definition: str
    reason: str | None = None

    def to_json(self) -> dict[str, Any]:
        line = dict(vars(self))
        if self.reason is None:
            del line["reason"]
        return line

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> MetricValue:
        return cls(**value)


@dataclass(frozen=True)
class Attempt:
    """One try at carrying out an experiment. Times are ISO 8601 with the zone, read from the clock."""

    started: str
    host: str
    pid: int
    boot_id: str
    ended: str | None = None
    outcome: str | None = None
    error: str | None = None
    log: str | None = None
    hardware: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    """Seconds per stage (`open`, `data`, `train`, `evaluate`)."""
    usage: dict[str, Any] = field(default_factory=dict)
    """Per stage: tokens, GPU seconds, energy, highest memory, `reasons` of what is None; see `unsay.accounting`."""
    code: dict[str, Any] = field(default_factory=dict)
    """`commit` and `dirty` of this package (`unsay`) and of the experiment file's folder (`file`), where known."""


@dataclass(frozen=True)
class ExperimentRecord:
    """`experiment.json`: what an experiment is, how far it got, and everything needed to doubt its numbers."""

    id: str
    model: str
    dataset: str
    method: str
    config: str
    seed: int
    status: str
    identity: str
    """sha256 over everything that can change the numbers; a different one means a different result."""
    spec: dict[str, Any]
    """The resolved settings the identity was taken from."""
    hashes: dict[str, str] = field(default_factory=dict)
    """`data`, `train`, `eval`: see `unsay.identity`."""
    notes: str = ""
    limit: int | None = None
    items: int | None = None
    """Items of the whole evaluation split, once known."""
    start: str | None = None
    end: str | None = None
    attempts: tuple[Attempt, ...] = ()
    warnings: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    """Names of the result files inside the folder (`results`, `samples`, `predictions`, …)."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Measured or resolved along the way: model revision, dtype, prompt 0, trained-token share, …"""
    imported: dict[str, Any] | None = None
    """Where an imported result comes from: `tool` that made it, `files` (path, bytes, sha256), `part` of the files."""

    def to_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA} | asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ExperimentRecord:
        known = {key: item for key, item in value.items() if key != "schema"}
        known["attempts"] = tuple(Attempt(**item) for item in known.get("attempts", ()))
        known["warnings"] = tuple(known.get("warnings", ()))
        return cls(**known)


def next_id(taken: Iterable[str]) -> str:
    """Return the first free id: EXP-001, or one more than the highest of its kind."""
    numbers = [int(match[1]) for id in taken if (match := re.fullmatch(r"EXP-(\d{1,9})", id))]
    return f"EXP-{max(numbers, default=0) + 1:03d}"
