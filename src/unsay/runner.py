"""Carry out a plan: give experiments their ids, skip what is finished, hand the rest to an executor, keep the page.

Several runs share the work of a lab: what another one is at is looked at again later, what it ended is not done again.
Imports nothing heavy: the computing happens in the processes that executors start.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from unsay import catalog
from unsay.backend import Backend
from unsay.config import Experiment, Plan
from unsay.errors import ConfigError, LockedError, UnsayError
from unsay.executors import Executor, Outcome, Queue, Queued, Running
from unsay.identity import identity, spec
from unsay.interrupt import Interrupt
from unsay.job import Event, Job
from unsay.placement import Placement
from unsay.records import ExperimentRecord, next_id
from unsay.report.markdown import write_page
from unsay.store import claims, layout, read, stopping, tickets, write

_PAGE_SHARE = 20
"""So many times as long as the page took to write, experiments go on before it is written again."""
_LOOK_AGAIN = 1.0
"""Seconds between two looks at what others are at, when there is nothing else to do."""


@dataclass(frozen=True)
class Options:
    """How to run, besides what the experiment file says; `placement` says where."""

    placement: Placement = field(default_factory=Placement)
    limit: int | None = None
    force: bool = False
    device: str = "auto"
    dtype: str = "auto"
    batch_size: int | None = None
    check_batch: int = 0
    check_with: Backend | None = None
    processes: Mapping[str, Any] | None = None
    """An accelerate config (`unsay.accelerate_file`) for trainings with several processes."""
    rehearsal: bool = False
    """Nothing of the run is kept; see `Job.rehearsal`."""
    retries: int = 0
    """How often an experiment is tried again whose failure may pass (`unsay.errors.may_pass`)."""
    wait: bool = False
    """Whether to wait for jobs that outlive this run; all others are always waited for."""


@dataclass(frozen=True)
class Ended:
    """How one experiment of a run ended. `status` is completed, skipped, failed, cancelled or queued.

    `elsewhere` says that another run did it meanwhile, or is at it, or that it was cancelled meanwhile.
    """

    experiment: Experiment
    status: str
    error: str | None = None
    log: Path | None = None
    elsewhere: bool = False
    where: str = ""
    """Which job a queued one is."""


class Watcher(Protocol):
    """Whoever shows the run to a person."""

    def started(self, experiment: Experiment) -> None: ...

    def event(self, experiment: Experiment, event: Event) -> None: ...

    def later(self, experiment: Experiment, why: str) -> None: ...

    def ended(self, ended: Ended) -> None: ...


def run(plan: Plan, chosen: Sequence[Experiment], options: Options, watcher: Watcher) -> list[Ended]:
    """Carry out the chosen experiments, as many at a time as the executor takes; one that fails stops no other.

    What another run is at comes later, when that one has ended, in whatever way. SIGTERM, SIGHUP and Ctrl-C ask the
    running experiments to stop and end the run; what is finished stays. Raises ConfigError before anything is written
    where the executor cannot run them. Jobs of a queue go on without this run, which waits for them if it is asked to.
    """
    executor: Executor = options.placement.executor()
    mistakes = executor.check([job_of(plan, experiment, options) for experiment in chosen])
    if isinstance(executor, Queue) and options.retries and not options.wait:
        mistakes.append("--retries needs --wait here: nobody is there to try again once the jobs are submitted")
    if mistakes:
        raise ConfigError(mistakes)
    write_page(plan.output_dir)  # a page that must not be overwritten is found before anything is written
    experiments = _with_ids(plan, chosen)
    with Interrupt() as interrupt:
        run = _Run(plan, options, executor, watcher, interrupt)
        return run.through(executor, experiments) if isinstance(executor, Queue) else run.all(experiments)


class _Run:
    """One run of a plan, and what it knows of other runs on the same lab."""

    def __init__(
        self, plan: Plan, options: Options, executor: Executor, watcher: Watcher, interrupt: Interrupt
    ) -> None:
        self._plan = plan
        self._options = options
        self._executor = executor
        self._watcher = watcher
        self._interrupt = interrupt
        self._known: dict[Path, tuple[str, int]] = {}
        """How the records were when this run last looked: what differs is somebody else's doing."""
        self._tries: dict[str, int] = {}
        self._said: dict[str, str] = {}
        self._flying: dict[str, tuple[Job, Running]] = {}
        """What was submitted and has not ended, by the experiment's folder."""
        self._messages: queue.SimpleQueue[tuple[Job, Event | Outcome | BaseException]] = queue.SimpleQueue()
        self._outcomes: dict[str, Ended] = {}
        self._page_is_old = False
        self._page_due = 0.0
        """When the page may be written again, by the monotonic clock."""
        self._others = False
        """Whether another run is at something that this one wants."""

    def all(self, experiments: Sequence[Experiment]) -> list[Ended]:
        """Carry out experiments and wait for them."""
        jobs = self._jobs(experiments)
        try:
            self._carry_out(jobs)
        except BaseException:
            for _, running in self._flying.values():
                running.cancel()
            raise
        finally:
            if self._page_is_old:
                self._write_page()
        return self._found(jobs)

    def through(self, executor: Queue, experiments: Sequence[Experiment]) -> list[Ended]:
        """Hand experiments to a queue, and wait for them where that is asked for.

        A signal ends the submitting and the waiting; what is in the queue stays there.
        """
        jobs = self._jobs(experiments)
        stop = _Stop()
        self._interrupt.stop_too(stop)
        waiting: Sequence[Job] = jobs
        while waiting and not stop.asked.is_set():
            chosen, later = self._sorted_out(waiting)
            queued = []
            for each in executor.submit_all(chosen, stop.asked.is_set):
                queued.append(each)
                if self._options.wait:
                    self._watcher.started(each.job.experiment)
                else:
                    self._note(_queued(each))
            if not self._options.wait:
                for job in later:
                    self._note(Ended(job.experiment, "queued", elsewhere=True, where=self._said[job.experiment.folder]))
                break
            ended = set()
            tell = lambda job, event: self._watcher.event(job.experiment, event)  # noqa: E731
            for job, outcome in executor.watch(queued, tell, stop.asked):
                ended.add(job.result_folder)
                if not self._ended(job, outcome):
                    later.append(job)
            for each in queued:
                if each.job.result_folder not in ended:
                    self._note(_queued(each))
            if later and not queued:
                stop.asked.wait(_LOOK_AGAIN)
            waiting = later
        self._write_page()
        return self._found(jobs)

    def _jobs(self, experiments: Sequence[Experiment]) -> list[Job]:
        jobs = [job_of(self._plan, experiment, self._options) for experiment in experiments]
        self._known = {folder: _state(folder) for job in jobs for folder in (job.folder, job.result_folder)}
        return jobs

    def _found(self, jobs: Sequence[Job]) -> list[Ended]:
        return [self._outcomes[job.experiment.folder] for job in jobs if job.experiment.folder in self._outcomes]

    def _sorted_out(self, jobs: Sequence[Job]) -> tuple[list[Job], list[Job]]:
        """Return what goes into the queue now, and what has to wait; take note of what needs nothing."""
        chosen: list[Job] = []
        later: list[Job] = []
        for job in jobs:
            experiment = job.experiment
            # Where a training may be tried again, what needs it is submitted when it is there.
            before = {each.experiment.folder for each in (*later, *(chosen if self._options.retries else ()))}
            ended = self._meanwhile(job) or (Ended(experiment, "skipped") if job.is_done() else None)
            if ended is not None:
                self._note(ended)
                continue
            busy = None if tickets.of(job.result_folder) is not None else _at_work(job)
            if busy is not None:
                self._later(experiment, busy)
            (later if busy is not None or experiment.model.experiment in before else chosen).append(job)
        return chosen, later

    def _carry_out(self, jobs: Sequence[Job]) -> None:
        waiting = list(jobs)
        while waiting or self._flying:
            later: list[Job] = []
            ended = len(self._outcomes)
            self._others = False
            for job in waiting:
                later += self._when_there_is_room()
                if self._interrupt.asked:
                    break
                if not self._begin(job, later):
                    later.append(job)
            if self._flying:
                later += self._await_one(_LOOK_AGAIN if self._others else None)
            elif len(self._outcomes) == ended and not self._interrupt.asked:
                time.sleep(_LOOK_AGAIN)
            waiting = [] if self._interrupt.asked else later

    def _begin(self, job: Job, later: Collection[Job]) -> bool:
        """Submit an experiment, or see that it needs nothing; False where it has to wait: for another one or run."""
        experiment = job.experiment
        before = {each.experiment.folder for each in later} | self._flying.keys()
        writing = {folder for each, _ in self._flying.values() for folder in each.written_folders}
        if experiment.model.experiment in before or writing & {*job.written_folders, *job.read_folders}:
            return False
        ended = self._meanwhile(job) or (Ended(experiment, "skipped") if job.is_done() else None)
        if ended is not None:
            self._end(ended)
            return True
        busy = _at_work(job)
        if busy is not None:
            self._others = True
            self._later(experiment, busy)
            return False
        self._watcher.started(experiment)
        running = self._executor.submit(job, lambda event: self._messages.put((job, event)))
        self._flying[experiment.folder] = (job, running)
        self._interrupt.stop_too(running)
        threading.Thread(target=self._wait, args=(job, running), daemon=True).start()
        return True

    def _wait(self, job: Job, running: Running) -> None:
        try:
            self._messages.put((job, running.wait()))
        except BaseException as error:
            self._messages.put((job, error))

    def _when_there_is_room(self) -> list[Job]:
        again: list[Job] = []
        while self._executor.at_once is not None and len(self._flying) >= self._executor.at_once:
            again += self._await_one()
        return again

    def _await_one(self, patience: float | None = None) -> list[Job]:
        """Wait until an experiment in flight ends; return it where it has to be carried out again later.

        Nothing ended where `patience` is over (seconds without any event; None: forever).
        """
        while True:
            try:
                job, message = self._messages.get(timeout=patience)
            except queue.Empty:
                return []
            if isinstance(message, BaseException):
                raise message
            if isinstance(message, Outcome):
                _, running = self._flying.pop(job.experiment.folder)
                self._interrupt.leave(running)
                return [] if self._ended(job, message) else [job]
            self._watcher.event(job.experiment, message)

    def _ended(self, job: Job, outcome: Outcome) -> bool:
        """Take note of how a submitted job ended; False where it has to be carried out again later."""
        experiment = job.experiment
        if self._interrupt.asked and (outcome.silent or outcome.status == "busy"):  # stopped before it could say so
            outcome = replace(outcome, status="cancelled", error=f"stopped by {self._interrupt.asked}")
        if outcome.silent:
            with suppress(UnsayError):  # whoever carries it on will see what happened
                stopping.close(job.folder, job.result_folder, outcome.status, outcome.error or "", wait=2.0)
        if outcome.status == "busy":
            self._others = True
            self._later(experiment, outcome.error or "")
            return False
        self._known[job.result_folder] = _state(job.result_folder)
        if outcome.status == "failed" and outcome.may_pass and not self._interrupt.asked:
            tried = self._tries[experiment.folder] = self._tries.get(experiment.folder, 0) + 1
            if tried <= self._options.retries:
                again = f"tried again later ({tried} of {self._options.retries})"
                self._later(experiment, f"failed: {outcome.error}; {again}")
                return False
        self._end(Ended(experiment, outcome.status, outcome.error, outcome.log))
        return True

    def _end(self, ended: Ended) -> None:
        self._note(ended)
        self._page_is_old = True
        if time.monotonic() >= self._page_due:
            self._write_page()

    def _note(self, ended: Ended) -> None:
        self._outcomes[ended.experiment.folder] = ended
        self._watcher.ended(ended)

    def _meanwhile(self, job: Job) -> Ended | None:
        """Return how an experiment ended that another run ended, or a person, since this one last looked."""
        changed = [
            folder for folder in (job.result_folder, job.folder) if _state(folder) != self._known.get(folder, _NOTHING)
        ]
        if stopping.are_called_off(changed):
            return Ended(job.experiment, "cancelled", stopping.CALLED_OFF, elsewhere=True)
        record = read.record(job.result_folder) if job.result_folder in changed else None
        if record is None or not record.attempts:
            return None
        if replace(job, force=False).is_done():
            return Ended(job.experiment, "skipped", elsewhere=True)
        with suppress(UnsayError):  # what cannot be compared is tried, and says why
            if record.status == "failed" and record.identity == identity(job.experiment):
                return Ended(job.experiment, "failed", record.attempts[-1].error, elsewhere=True)
        return None

    def _later(self, experiment: Experiment, why: str) -> None:
        if self._said.get(experiment.folder) != why:
            self._said[experiment.folder] = why
            self._watcher.later(experiment, why)

    def _write_page(self) -> None:
        """Write the page; one run at a time, so that it never becomes older. A long one is written less often."""
        began = time.monotonic()
        with ExitStack() as held:
            with suppress(LockedError):  # as where results are imported for hours
                held.enter_context(write.lock(self._plan.output_dir, wait=5.0))
            write_page(self._plan.output_dir)
        self._page_is_old = False
        self._page_due = time.monotonic() + _PAGE_SHARE * (time.monotonic() - began)


@dataclass(frozen=True)
class _Stop:
    """Stands for the jobs of a queue where a signal comes: it ends the waiting, and leaves them alone."""

    asked: threading.Event = field(default_factory=threading.Event)

    def cancel(self) -> None:
        self.asked.set()

    kill = cancel


def _queued(queued: Queued) -> Ended:
    return Ended(queued.job.experiment, "queued", where=str(queued.ticket))


_NOTHING = ("", 0)


def _state(folder: Path) -> tuple[str, int]:
    """Return what changes about a record when somebody works on its experiment: its status, its attempts."""
    record = read.record(folder)
    return _NOTHING if record is None else (record.status, len(record.attempts))


def _at_work(job: Job) -> str | None:
    """Say who is at work on what a job needs; None where nobody is."""
    with suppress(OSError):  # whoever is to write there will say what is wrong
        for folder in (*job.written_folders, *job.read_folders):
            other = claims.in_the_way(folder, shared=folder in job.read_folders)
            if other is not None:
                return other.who()
    return None


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
    job = Job(
        experiment,
        plan.output_dir,
        limit=options.limit,
        force=options.force,
        device=options.device,
        dtype=options.dtype,
        batch_size=options.batch_size,
        check_batch=options.check_batch,
        check_with=options.check_with,
        processes=options.processes,
        rehearsal=options.rehearsal,
        place={"executor": options.placement.name},
        file=plan.file,
        evaluated=tuple(other for other in evaluated.values() if other != experiment.dataset),
    )
    return replace(job, called_off=stopping.are_called_off((job.folder, job.result_folder)))


def register(plan: Plan, chosen: Sequence[Experiment]) -> list[Experiment]:
    """Give every experiment of the plan its id, as a run does first, and return the chosen ones with theirs."""
    return _with_ids(plan, chosen)


def _with_ids(plan: Plan, chosen: Sequence[Experiment]) -> list[Experiment]:
    """Give every experiment of the plan its id, in file order, and leave a `pending` record for new ones."""
    with write.lock(plan.output_dir, wait=300.0):  # many runs that begin at once take their turns
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
