"""Carry out a plan: give experiments their ids, skip what is finished, hand the rest to an executor, keep the page.

Imports nothing heavy: the computing happens in the processes that executors start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from unsay import catalog
from unsay.config import Experiment, Plan
from unsay.errors import ConfigError, UnsayError
from unsay.executors import Executor
from unsay.identity import identity, spec
from unsay.job import Event, Job
from unsay.records import ExperimentRecord, next_id
from unsay.report.markdown import write_page
from unsay.store import layout, read, write


@dataclass(frozen=True)
class Options:
    """How to run, besides what the experiment file says. `executor` is the name of a file in `executors/`."""

    executor: str = "local"
    limit: int | None = None
    force: bool = False
    device: str = "auto"
    dtype: str = "auto"
    batch_size: int | None = None
    check_batch: int = 0
    processes: Mapping[str, Any] | None = None
    """An accelerate config (`unsay.accelerate_file`) for trainings with several processes."""
    rehearsal: bool = False
    """Nothing of the run is kept; see `Job.rehearsal`."""


@dataclass(frozen=True)
class Ended:
    """How one experiment of a run ended. `status` is completed, skipped, failed or cancelled."""

    experiment: Experiment
    status: str
    error: str | None = None
    log: Path | None = None


class Watcher(Protocol):
    """Whoever shows the run to a person."""

    def started(self, experiment: Experiment) -> None: ...

    def event(self, experiment: Experiment, event: Event) -> None: ...

    def ended(self, ended: Ended) -> None: ...


def run(plan: Plan, chosen: Sequence[Experiment], options: Options, watcher: Watcher) -> list[Ended]:
    """Carry out the chosen experiments one after another; one that fails does not stop the next.

    Ctrl-C asks the running one to stop and ends the run; what is finished stays.
    """
    executor: Executor = catalog.plugin("executors", options.executor)()
    write_page(plan.output_dir)  # a page that must not be overwritten is found before anything is written
    experiments = _with_ids(plan, chosen)
    outcomes: list[Ended] = []
    for experiment in experiments:
        job = job_of(plan, experiment, options)
        if job.is_done():
            ended = Ended(experiment, "skipped")
        else:
            watcher.started(experiment)
            ended = _carry_out(executor, job, watcher)
        outcomes.append(ended)
        watcher.ended(ended)
        write_page(plan.output_dir)
        if ended.status == "cancelled":
            break
    return outcomes


def choose(plan: Plan, ids: Sequence[str]) -> list[Experiment]:
    """Return the experiments with these ids (or folders), all of them when none is given; raises ConfigError."""
    if not ids:
        return list(plan.experiments)
    named = {name: each for each in plan.experiments for name in (each.folder, known_id(plan.output_dir, each)) if name}
    missing = [id for id in ids if id not in named]
    if missing:
        raise ConfigError([catalog.unknown("experiment", id, named) for id in missing])
    return [named[id] for id in dict.fromkeys(ids)]


def known_id(output_dir: Path, experiment: Experiment) -> str | None:
    """Return an experiment's id: the one in its file, else the one it was given at its first run."""
    record = read.record(output_dir / experiment.folder)
    return experiment.id or (record.id if record else None)


def job_of(plan: Plan, experiment: Experiment, options: Options) -> Job:
    """Return what carries out one experiment of a plan."""
    evaluated = {each.dataset.name: each.dataset for each in plan.experiments}
    return Job(
        experiment,
        plan.output_dir,
        limit=options.limit,
        force=options.force,
        device=options.device,
        dtype=options.dtype,
        batch_size=options.batch_size,
        check_batch=options.check_batch,
        processes=options.processes,
        rehearsal=options.rehearsal,
        file=plan.file,
        evaluated=tuple(other for other in evaluated.values() if other != experiment.dataset),
    )


def _carry_out(executor: Executor, job: Job, watcher: Watcher) -> Ended:
    running = executor.submit(job, lambda event: watcher.event(job.experiment, event))
    try:
        outcome = running.wait()
    except KeyboardInterrupt:  # stop the worker too, and wait until it has written down where it stopped
        running.cancel()
        outcome = running.wait()
        if outcome.status != "completed":  # it may have been stopped before it could say so
            return Ended(job.experiment, "cancelled", "stopped from the keyboard", outcome.log)
    return Ended(job.experiment, outcome.status, outcome.error, outcome.log)


def register(plan: Plan, chosen: Sequence[Experiment]) -> list[Experiment]:
    """Give every experiment of the plan its id, as a run does first, and return the chosen ones with theirs."""
    return _with_ids(plan, chosen)


def _with_ids(plan: Plan, chosen: Sequence[Experiment]) -> list[Experiment]:
    """Give every experiment of the plan its id, in file order, and leave a `pending` record for new ones."""
    with write.lock(plan.output_dir, wait=60.0):
        records = [(entry.record, entry.relative) for entry in read.find(plan.output_dir)]
        folders = {record.id: folder for record, folder in records if record is not None and record.limit is None}
        _refuse_taken_ids(plan, folders)
        taken = {*folders, *(experiment.id for experiment in plan.experiments if experiment.id)}
        numbered: dict[str, Experiment] = {}
        for experiment in plan.experiments:
            id = known_id(plan.output_dir, experiment) or next_id(taken)
            taken.add(id)
            numbered[experiment.folder] = replace(experiment, id=id)
            folder = plan.output_dir / experiment.folder
            if read.record(folder) is None:
                write.write_json(folder / layout.EXPERIMENT, _pending(numbered[experiment.folder]).to_json())
    return [numbered[experiment.folder] for experiment in chosen]


def _refuse_taken_ids(plan: Plan, folders: Mapping[str, str]) -> None:
    """Refuse an id that another experiment of the lab has already."""
    mistakes = [
        f"{plan.file}:{experiment.line}: id {experiment.id} belongs to {folders[experiment.id]} in {plan.output_dir}; "
        "choose another id or another output_dir"
        for experiment in plan.experiments
        if experiment.id and folders.get(experiment.id, experiment.folder) != experiment.folder
    ]
    if mistakes:
        raise ConfigError(mistakes)


def _pending(experiment: Experiment) -> ExperimentRecord:
    assert experiment.id is not None
    try:
        known: dict[str, Any] = {"identity": identity(experiment), "spec": spec(experiment)}
    except UnsayError:  # its files are not there yet; whoever runs it will be told so
        known = {"identity": "", "spec": {}}
    return ExperimentRecord(
        id=experiment.id,
        model=experiment.model.name,
        dataset=experiment.dataset.name,
        method=experiment.method,
        config=experiment.config,
        seed=experiment.seed,
        status="pending",
        notes=experiment.notes,
        **known,
    )
