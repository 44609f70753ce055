"""Why a run would skip an experiment, go on with it, or make a new result: what differs from what is on disk.

    explain(entry)                         # what it was finished with, and what lies in superseded/
    explain(entry, plan=config.load(file)) # what a run of this file would do with it

Nothing is loaded, downloaded or written; the answer is that of `unsay run` without --force and --dtype.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unsay.config import Experiment, Plan
from unsay.errors import StoreError
from unsay.identity import identity, spec
from unsay.job import Job
from unsay.records import ExperimentRecord
from unsay.report.differing import flat
from unsay.runner import known_id
from unsay.store import layout, read, shared
from unsay.store.read import Entry

SKIP, RESUME, COMPLETE, NEW, START, RUNNING = "skip", "resume", "complete", "new", "start", "running"
"""`complete`: it is finished, and files of the result are gone; they are made again from what is there."""
OTHER = "other"
"""The file has it, if at all, as an experiment with another folder."""


@dataclass(frozen=True)
class Change:
    """One thing that counts for numbers and differs: its dotted name, its value on disk, and the other one."""

    name: str
    before: Any
    now: Any

    def to_json(self) -> dict[str, Any]:
        return vars(self)


@dataclass(frozen=True)
class Earlier:
    """One folder below `superseded/`; `changes` lead from it to what is there now. None where it has no record."""

    folder: Path
    record: ExperimentRecord | None
    changes: tuple[Change, ...] | None
    names: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        record = self.record
        return {
            "folder": str(self.folder),
            "identity": record.identity if record else None,
            "status": record.status if record else None,
            "end": record.end if record else None,
            "changes": None if self.changes is None else [change.to_json() for change in self.changes],
            "files": list(self.names),
        }


@dataclass(frozen=True)
class Explanation:
    """What a run would do with an experiment (`outcome`, None without a file), and why.

    `wanted` is the file's experiment: with the outcome `other` the one most like it, None where there is none.
    `keeps_training` says whether only how it decodes differs; None for what is not trained.
    """

    entry: Entry
    record: ExperimentRecord
    outcome: str | None
    wanted: Experiment | None
    wanted_identity: str | None
    changes: tuple[Change, ...]
    keeps_training: bool | None
    earlier: tuple[Earlier, ...]

    def to_json(self) -> dict[str, Any]:
        record = self.record
        return {
            "schema": 1,
            "id": record.id,
            "folder": self.entry.relative,
            "status": record.status,
            "end": record.end,
            "identity": record.identity,
            "hashes": record.hashes,
            "outcome": self.outcome,
            "wanted_folder": None if self.wanted is None else self.wanted.folder,
            "wanted_identity": self.wanted_identity,
            "changes": [change.to_json() for change in self.changes],
            "keeps_training": self.keeps_training,
            "superseded": [each.to_json() for each in self.earlier],
        }


def explain(entry: Entry, plan: Plan | None = None) -> Explanation:
    """Explain one experiment; StoreError where its record cannot be read.

    Raises what reading the files that count does, as where a data set of the plan is not there.
    """
    record = entry.record
    if record is None:
        raise StoreError(entry.problem or f"{entry.folder / layout.EXPERIMENT} cannot be read")
    earlier = tuple(_earlier(entry.folder, record))
    if plan is None:
        return Explanation(entry, record, None, None, None, (), None, earlier)
    wanted, outcome = _wanted(entry, record, plan)
    if wanted is None:
        return Explanation(entry, record, outcome, None, None, (), None, earlier)
    now, wanted_identity = spec(wanted), identity(wanted)
    if outcome is None:
        job = Job(wanted, plan.output_dir, limit=entry.limit)
        outcome = _outcome(entry, record, job, same=record.identity == wanted_identity)
    trained = wanted.settings.training is not None
    keeps = shared.trained_as(record.spec) == shared.trained_as(now) if trained else None
    changes = differences(record.spec, now)
    return Explanation(entry, record, outcome, wanted, wanted_identity, changes, keeps, earlier)


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[Change, ...]:
    """Return what differs between two specs (`unsay.identity.spec`); what only one has is None in the other."""
    one, two = flat(before), flat(now)
    names = [*one, *(name for name in two if name not in one)]
    return tuple(Change(name, one.get(name), two.get(name)) for name in names if one.get(name) != two.get(name))


def _outcome(entry: Entry, record: ExperimentRecord, job: Job, *, same: bool) -> str:
    if record.status == "running" and read.liveness(record, entry.folder) is None:
        return RUNNING
    if job.is_finished():
        return COMPLETE if job.missing_files() else SKIP
    if not record.attempts:
        return START
    return RESUME if same and record.status != "completed" else NEW


def _wanted(entry: Entry, record: ExperimentRecord, plan: Plan) -> tuple[Experiment | None, str | None]:
    """Return the plan's experiment, and `other` where it is not this one."""
    inner = read.limit_of(entry.folder.name) is not None
    folder = (entry.folder.parent if inner else entry.folder).absolute()
    for each in plan.experiments:
        if (plan.output_dir / each.folder).absolute() == folder:
            return each, None
    for each in plan.experiments:
        if record.id and record.id == (each.id or known_id(plan.output_dir, each)):
            return each, OTHER
    alike = [
        (len(differences(record.spec, spec(each))), at)
        for at, each in enumerate(plan.experiments)
        if (each.model.name, each.dataset.name, each.method) == (record.model, record.dataset, record.method)
    ]
    return (plan.experiments[min(alike)[1]] if alike else None), OTHER


def _earlier(folder: Path, record: ExperimentRecord) -> list[Earlier]:
    found = []
    place = folder / layout.SUPERSEDED
    for each in sorted(place.iterdir()) if place.is_dir() else ():
        if not each.is_dir():
            continue
        try:
            before = read.record(each)
        except StoreError:
            before = None
        changes = None if before is None else differences(before.spec, record.spec)
        names = tuple(sorted(path.name for path in each.iterdir()))
        found.append(Earlier(each, before, changes, names))
    return found
