"""Runs each experiment as a job of a Slurm cluster, submitted through submitit; a run need not wait for them.

A job runs `python -m unsay.executors._slurm_job` with a JSON file that says everything: nothing is pickled. What was
submitted, and what the jobs' shells printed, lies in the lab's `.submitted` folder.
"""

from __future__ import annotations

import os
import shlex
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

from unsay import catalog
from unsay.errors import ConfigError, ExecutorError, LockedError
from unsay.executors import Outcome, Queued, Running, Standing, _slurm
from unsay.job import Event, Job, Report
from unsay.store import claims, layout, read, stopping, tickets, write
from unsay.store.tickets import Ticket

NAME = "slurm"
_OURS = (
    "account", "array", "constraint", "cpus_per_task", "dependency", "gpus_per_node", "job_name", "mem", "nodes",
    "output", "partition", "qos", "requeue", "no_requeue", "signal", "time",
)  # fmt: skip
"""Options of sbatch that have a field of their own, or are decided here."""
_SHARED_KINDS = (
    "nfs", "nfs4", "lustre", "gpfs", "beegfs", "beegfs_nodev", "ceph", "cifs", "smb3", "afs", "panfs", "pvfs2",
    "wekafs", "glusterfs", "9p", "virtiofs", "ocfs2", "gfs2", "dvs", "autofs", "fuse", "davfs",
)  # fmt: skip
"""File systems that other machines see, too, as /proc/self/mountinfo calls them; `fuse` with whatever follows."""
_ALL = 1_000_000
"""Tasks of an array at a time where nothing limits them; submitit would allow 256."""
_SETTLES = 20.0
"""Seconds after a job's end until its last files are seen from here: network file systems show them late."""
_LOOK = (2.0, 20.0)
"""Seconds between two looks at the queue: at first, and when the jobs take long."""

# Set up at its import, submitit's log would close every log that others have set up.
os.environ.setdefault("SUBMITIT_LOG_LEVEL", "NOCONFIG")


@dataclass(frozen=True)
class Slurm:
    """What sbatch is told. Texts are sbatch's own: `time: "4:00:00"`, `memory: 32G`, `gpus: a100:1`."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    time: str | None = None
    """None: the partition's own limit."""
    gpus: int | str | None = None
    """A number, or KIND:NUMBER."""
    cpus: int | None = None
    memory: str | None = None
    setup: tuple[str, ...] = ()
    """Shell lines before Python is started: modules, environments."""
    python: str | None = None
    """The command that starts Python in a job; None: this very one."""
    array: bool = False
    """One job array for what needs nothing else, instead of a job for each."""
    parallel: int | None = None
    """How many tasks of an array may run at a time."""
    requeues: int = 3
    """How often an experiment is queued again that came to its time limit."""
    warning: int = 90
    """Seconds before the time limit at which an experiment is stopped and written down."""
    shared: bool = False
    """Says that the nodes see the lab folder and this Python although they lie on a disk of this machine."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Any other option of sbatch, such as `{reservation: demo}`; true for one without a value."""

    at_once: ClassVar[None] = None

    def __post_init__(self) -> None:
        mistakes = [
            f"{name} must be at least {least}; got {value}"
            for name, value, least in (
                ("cpus", self.cpus, 1), ("parallel", self.parallel, 1), ("requeues", self.requeues, 0),
                ("warning", self.warning, 1),
            )
            if value is not None and value < least
        ]  # fmt: skip
        for name, read_it, such_as in (
            ("time", _slurm.seconds, '30 (minutes), "4:00:00" or "2-12:00"'),
            ("memory", _slurm.mebibytes, "32G or 4000 (MiB)"),
            ("gpus", _asked_gpus, "1 or a100:2"),
        ):
            value = getattr(self, name)
            try:
                if value is not None:
                    read_it(value)
            except ValueError:
                mistakes.append(f"{name}: expected a value such as {such_as}, got {value!r}")
        if not mistakes and self.limit is not None and self.limit <= self.warning:
            mistakes.append(
                f"warning ({self.warning} s) must be shorter than time ({self.time}: {self.limit} s); it is when an "
                "experiment begins to stop"
            )
        for key in self.extra:
            if key.replace("-", "_") in _OURS:
                mistakes.append(f"extra: {key} is an option of its own or decided by unsay; take it out of `extra:`")
        if self.parallel is not None and not self.array:
            mistakes.append("parallel limits a job array; write `array: true` beside it")
        if mistakes:
            raise ConfigError(mistakes)

    @property
    def limit(self) -> int | None:
        """Seconds that a job may take; None where the partition says."""
        return None if self.time is None else _slurm.seconds(self.time)

    # -- before anything is submitted ---------------------------------------------------

    def check(self, jobs: Sequence[Job]) -> list[str]:
        if absent := _slurm.missing():
            return [
                f"executor slurm: expected Slurm's commands on the path, there is no {', '.join(absent)}. Do this on a "
                "login node of the cluster, or run here: --executor local"
            ]
        try:
            import submitit  # noqa: F401
        except ImportError:
            return ["executor slurm: it submits through submitit, which is not installed: pip install 'unsay[slurm]'"]
        try:
            known = _slurm.nodes()
        except ExecutorError as error:
            return [f"executor slurm: Slurm does not answer ({error}). `sinfo` shows whether its controller is up"]
        chosen = self._partitions(known)
        if isinstance(chosen, str):
            return [f"executor slurm: {chosen}"]
        mistakes = [*self._too_much(chosen), *self._not_seen(chosen, jobs), *self._devices(jobs)]
        return [f"executor slurm: {each}" for each in mistakes or self._refused()]

    def _partitions(self, known: Sequence[_slurm.Nodes]) -> list[_slurm.Nodes] | str:
        """Return the nodes a job may get, or what is wrong with the partition."""
        names = sorted({each.partition for each in known})
        wanted = self.partition.split(",") if self.partition else [each.partition for each in known if each.is_default]
        if not wanted:
            return f"this cluster has no default partition; write `partition:`, one of {', '.join(names) or 'none'}"
        for name in wanted:
            if name not in names:
                return catalog.unknown("partition", name, names)
        down = {each.partition for each in known if each.partition in wanted and not each.is_up}
        if down == set(wanted):
            return f"partition {', '.join(sorted(down))} is down; `sinfo` lists those that are up"
        return [each for each in known if each.partition in wanted and each.is_up]

    def _too_much(self, chosen: Sequence[_slurm.Nodes]) -> Iterator[str]:
        where = f"in partition {', '.join(sorted({each.partition for each in chosen}))}"
        limits = [each.limit for each in chosen]
        most = None if None in limits else max((limit for limit in limits if limit is not None), default=None)
        if self.limit is not None and most is not None and self.limit > most:
            yield f"time is {self.time}, but {where} a job may take at most {_clock(most)}; ask for less"
        fitting = list(chosen)
        if self.gpus is not None:
            kind, count = _asked_gpus(self.gpus)
            fitting = [each for each in chosen if _has(each.gpus, kind, count)]
            if not fitting:
                there = sorted({f"{kind}:{count}" for each in chosen for kind, count in each.gpus.items()})
                yield (
                    f"gpus is {self.gpus}, but no node {where} has that many; the nodes there have "
                    f"{', '.join(there) or 'no GPUs'}"
                )
        for name, asked, offered, unit in (
            ("cpus", self.cpus, [each.cpus for each in chosen], ""),
            ("memory", self.memory and _slurm.mebibytes(self.memory), [each.memory for each in chosen], " MiB"),
        ):
            if asked and asked > max(offered, default=0):
                written = getattr(self, name)
                yield f"{name} is {written}, but the largest node {where} has {max(offered, default=0)}{unit}"
        plain = self.constraint is not None and self.constraint.replace("_", "a").replace("-", "a").isalnum()
        if plain and not any(self.constraint in each.features for each in chosen):
            features = sorted({feature for each in chosen for feature in each.features})
            yield f"constraint: {catalog.unknown('feature', str(self.constraint), features)}"

    def _not_seen(self, chosen: Sequence[_slurm.Nodes], jobs: Sequence[Job]) -> Iterator[str]:
        """Say what lies on a disk of this machine while the jobs run on others."""
        here = {claims.hostname(), claims.hostname().split(".")[0]}
        if self.shared or not jobs or all(each.hosts in here for each in chosen):
            return
        places = {"the lab folder": jobs[0].output_dir}
        if self.python is None:
            places["this Python environment"] = Path(sys.prefix)
        for what, path in places.items():
            kind = _file_system(path)
            if kind is not None:
                yield (
                    f"expected {what} where the nodes ({', '.join(sorted({each.hosts for each in chosen}))}) see it, "
                    f"got {path} on {kind}, a disk of {claims.hostname()}. Move it to a file system that they share; "
                    "where they do see it under this name, say so: --option shared=true"
                )

    def _devices(self, jobs: Sequence[Job]) -> Iterator[str]:
        if self.gpus is None and any(job.device.startswith("cuda") for job in jobs):
            yield f"--device {jobs[0].device} needs GPUs, but the jobs ask for none; write `gpus: 1`"
        together = max((job.processes["num_processes"] for job in jobs if job.processes is not None), default=1)
        if self.gpus is not None and together > _asked_gpus(self.gpus)[1]:
            yield f"{together} processes train together, one per GPU, but a job asks for gpus: {self.gpus}"

    def _refused(self) -> Iterator[str]:
        """Ask Slurm itself whether it would take such a job: accounts, limits and whatever else it knows."""
        try:
            _slurm.call("sbatch", "--test-only", stdin=self._text("true", "unsay", Path("/dev")))
        except ExecutorError as error:
            yield f"Slurm refuses such a job: {error}. `unsay run … --print-script` shows what it is asked for"

    # -- submitting ---------------------------------------------------------------------

    def submit(self, job: Job, report: Report) -> Running:
        (queued,) = self.submit_all([job], lambda: False)
        return _One(self, queued, report)

    def submit_all(self, jobs: Sequence[Job], enough: Callable[[], bool]) -> Iterator[Queued]:
        if not jobs:
            return
        folder = jobs[0].output_dir / layout.SUBMITTED / datetime.now().strftime("%Y-%m-%dT%H-%M-%S.%f")
        order = _Order(self._in_queue(jobs))
        together = self._together(jobs, order.tickets) if self.array else []
        if len(together) > 1 and not enough():
            yield from self._submit_array(together, folder, order)
        else:
            together = []
        submitted = {job.result_folder for job in together}
        for number, job in enumerate(jobs, 1):
            there = order.tickets.get(job.result_folder)
            if job.result_folder in submitted:
                continue
            if there is not None:
                order.takes(job, there.job)
                yield Queued(job, there)
            elif enough():
                return
            else:
                yield self._submit_one(job, folder, number, order)

    def _together(self, jobs: Sequence[Job], there: Mapping[Path, Ticket]) -> list[Job]:
        """Return the jobs that need to come after no other one."""
        order, found = _Order(there), []
        for job in jobs:
            if job.result_folder not in there and not order.before(job):
                found.append(job)
            order.takes(job, "")
        return found

    def _submit_one(self, job: Job, folder: Path, number: int, order: _Order) -> Queued:
        path = folder / f"{number:05d}.job.json"
        self._write_job(job, path)
        name = f"unsay-{job.experiment.id or number}"
        command = self._command(shlex.quote(str(path)))
        submitted = self._sbatch(command, name, folder, [job], order.before(job))
        order.takes(job, submitted)
        return _numbered(job, submitted, folder / f"{submitted}.out")

    def _submit_array(self, jobs: Sequence[Job], folder: Path, order: _Order) -> Iterator[Queued]:
        for number, job in enumerate(jobs):
            self._write_job(job, folder / "array" / f"{number}.job.json")
        command = self._command(shlex.quote(f"{folder / 'array'}/") + '"$SLURM_ARRAY_TASK_ID".job.json')
        array = self._sbatch(command, "unsay", folder, jobs, (), array=len(jobs))
        for number, job in enumerate(jobs):
            order.takes(job, f"{array}_{number}")
            yield _numbered(job, f"{array}_{number}", folder / f"{array}_{number}.out")

    def _write_job(self, job: Job, path: Path) -> None:
        write.write_json(path, job.to_json() | {"requeues": self.requeues})

    def _sbatch(
        self,
        command: str,
        name: str,
        folder: Path,
        jobs: Sequence[Job],
        after: Sequence[str],
        *,
        array: int | None = None,
    ) -> str:
        """Submit a command and return the job's number; the experiments get tickets first, and lose them on failure."""
        from submitit.core.utils import FailedJobError, FailedSubmissionError
        from submitit.slurm.slurm import SlurmExecutor

        executor = SlurmExecutor(folder)
        executor.update_parameters(**self._parameters(name, folder, after))
        if array is not None:
            executor.parameters["map_count"] = array
            executor.parameters["additional_parameters"]["output"] = str(folder / "%A_%a.out")
        for job in jobs:
            tickets.leave(job.result_folder, Ticket(NAME, "", _now()))
            with suppress(LockedError):  # whoever is at work there has the last word
                stopping.await_turn(job.folder, job.result_folder)
        try:
            number: str = executor._submit_command(command).job_id  # its `submit` would pickle
        except (FailedJobError, FailedSubmissionError, OSError) as error:
            for job in jobs:
                tickets.drop(job.result_folder)
            said = " ".join(str(error).split())
            raise ExecutorError(
                f"sbatch refused {name}: {said}. What was submitted before it stays in the queue (`unsay status`); the "
                "same command submits the rest when there is room"
            ) from error
        for link in folder.glob(".submission_file_*"):
            link.unlink()
        return number

    def _in_queue(self, jobs: Sequence[Job]) -> dict[Path, Ticket]:
        """Return the tickets of these jobs' folders that stand for something still in the queue."""
        folders = {folder for job in jobs for folder in (*job.written_folders, *job.read_folders)}
        found = {place: ticket for folder in folders for place, ticket in tickets.below(folder).items() if ticket.job}
        states = _slurm.states([ticket.job for ticket in found.values()]) if found else {}
        return {
            place: ticket
            for place, ticket in found.items()
            if ticket.job in states and not states[ticket.job].has_ended
        }

    # -- what sbatch is told --------------------------------------------------------------

    def _command(self, job_file: str) -> str:
        python = self.python or shlex.quote(sys.executable)
        # Until Python listens, the warning must not end the job; `exec`, as it is sent to the shell's own process.
        return f"trap '' USR2\nexec {python} -u -m unsay.executors._slurm_job {job_file}"

    def _parameters(self, name: str, folder: Path, after: Sequence[str] = ()) -> dict[str, Any]:
        """Return what submitit is asked for; its own defaults for time and labels are switched off."""
        additional: dict[str, Any] = {
            "output": str(folder / "%j.out"),
            "signal": f"B:USR2@{self.warning}",
            "requeue" if self.requeues else "no_requeue": True,
        }
        if self.memory is not None:
            additional["mem"] = self.memory
        return {
            "job_name": name,
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "time": self.time,
            "gpus_per_node": self.gpus,
            "cpus_per_task": self.cpus,
            "setup": list(self.setup) or None,
            "dependency": f"afterany:{':'.join(after)}" if after else None,
            "array_parallelism": self.parallel or _ALL,
            "stderr_to_stdout": True,
            "use_srun": False,
            "wckey": None,
            "additional_parameters": additional | self.extra,
        }

    def _text(self, command: str, name: str, folder: Path, **changes: Any) -> str:
        from submitit.slurm.slurm import _make_sbatch_string

        text: str = _make_sbatch_string(command=command, folder=folder, **self._parameters(name, folder) | changes)
        return text

    def script(self, commands: Sequence[Sequence[str]], output_dir: Path) -> str:
        many = len(commands) > 1
        changes = self._parameters("unsay", output_dir)["additional_parameters"]
        changes |= {"output": "unsay-%A_%a.out" if many else "unsay-%j.out"}
        changes |= {"array": f"1-{len(commands)}%{min(len(commands), self.parallel or _ALL)}"} if many else {}
        changes["signal"] = f"B:TERM@{self.warning}"  # so that `unsay run` ends its experiment in time
        lines = [f"cd {shlex.quote(str(Path.cwd()))}"]
        if many:
            lines += [f'TASK="{_TASK}"', 'case "$TASK" in']
            lines += [f"  {number}) exec {shlex.join(words)} ;;" for number, words in enumerate(commands, 1)]
            lines += [f'  *) echo "expected a task from 1 to {len(commands)}, got: $TASK" >&2; exit 2 ;;', "esac"]
        else:
            lines += [f"exec {shlex.join(words)}" for words in commands]
        return self._text("\n".join(lines), "unsay", output_dir, additional_parameters=changes)

    # -- afterwards -----------------------------------------------------------------------

    def watch(
        self, queued: Sequence[Queued], report: Callable[[Job, Event], None], over: threading.Event
    ) -> Iterator[tuple[Job, Outcome]]:
        waiting = {each.ticket.job: each for each in queued}
        seen: dict[str, Event] = {}
        changed = time.monotonic()
        while waiting and not over.wait(_until_next_look(len(waiting), time.monotonic() - changed)):
            try:
                states = _slurm.states(list(waiting))
            except ExecutorError:  # a controller that is restarted; the jobs are not harmed
                continue
            for number, each in list(waiting.items()):
                state = states.get(number)
                if state is None or state.has_ended:
                    yield each.job, _ended(each, state)
                    del waiting[number]
                    changed = time.monotonic()
                elif state.name == "RUNNING":
                    _tell(each.job, seen, report)

    def look(self, jobs: Sequence[str], *, patience: float = 60.0) -> Mapping[str, Standing]:
        found = _slurm.states(jobs, patience=patience)
        return {number: Standing(str(state), state.has_ended) for number, state in found.items()}

    def stop(self, jobs: Sequence[str]) -> None:
        _slurm.cancel(jobs)


def _until_next_look(waiting: int, quiet: float) -> float:
    """Return the seconds until Slurm is asked again: few where little is left and a job has just ended."""
    return min(_LOOK[1], max(_LOOK[0], quiet / 20, waiting / 50))


_TASK = "${SLURM_ARRAY_TASK_ID:-${PBS_ARRAY_INDEX:-${LSB_JOBINDEX:-${SGE_TASK_ID:-$1}}}}"
"""The number of an array's task, as batch systems call it; else the script's argument."""


class _Order:
    """Which jobs an experiment has to come after: those at a folder that it writes, or whose training it reads."""

    def __init__(self, there: Mapping[Path, Ticket]) -> None:
        self.tickets = there
        self._writers: dict[Path, str] = {}
        self._readers: defaultdict[Path, list[str]] = defaultdict(list)
        for place, ticket in there.items():
            folder = place.parent if place.name.startswith(layout.LIMIT_PREFIX) else place
            self._writers[folder] = ticket.job

    def before(self, job: Job) -> list[str]:
        found = [
            self._writers[folder] for folder in (*job.written_folders, *job.read_folders) if folder in self._writers
        ]
        found += [number for folder in job.written_folders for number in self._readers[folder]]
        return list(dict.fromkeys(found))

    def takes(self, job: Job, number: str) -> None:
        for folder in job.written_folders:
            self._writers[folder] = number
            self._readers.pop(folder, None)
        for folder in job.read_folders:
            self._readers[folder].append(number)


@dataclass(frozen=True)
class _One:
    """One job that somebody waits for."""

    executor: Slurm
    queued: Queued
    report: Report

    def wait(self) -> Outcome:
        never = threading.Event()
        return next(self.executor.watch([self.queued], lambda _, event: self.report(event), never))[1]

    def cancel(self) -> None:
        _slurm.cancel([self.queued.ticket.job])

    def kill(self) -> None:
        _slurm.call("scancel", "--signal=KILL", self.queued.ticket.job)


def _numbered(job: Job, number: str, output: Path) -> Queued:
    """Write a job's number into its ticket."""
    tickets.number(job.result_folder, number, output)
    relative = os.path.relpath(output, job.result_folder)
    return Queued(job, Ticket(NAME, number, _now(), relative))


def _ended(queued: Queued, state: _slurm.State | None) -> Outcome:
    """Return how a job ended: as its experiment's record says, or, where it ended without a word, as Slurm does."""
    folder, number = queued.job.result_folder, queued.ticket.job
    deadline = time.monotonic() + _SETTLES
    while (ticket := tickets.of(folder)) is not None and ticket.job == number and time.monotonic() < deadline:
        if state is not None and state.name not in ("COMPLETED", "FAILED"):  # nothing was left that could say more
            break
        time.sleep(0.5)
    record = read.record(folder)
    last = record.attempts[-1] if record is not None and record.attempts else None
    log = folder / last.log if last is not None and last.log else None
    if ticket is None and record is not None and record.status in ("completed", "failed", "cancelled"):
        return Outcome(record.status, last.error if last else None, log)
    how = "is gone from Slurm's queue" if state is None else f"ended as {state.name}"
    output = None if queued.ticket.output is None else (folder / queued.ticket.output).resolve()
    text = f"Slurm job {number} {how}{_HINTS.get(state.name if state else '', '')}; its shell's output: {output}"
    status = "cancelled" if state is not None and state.name == "CANCELLED" else "failed"
    if ticket is not None and ticket.job == number:
        tickets.drop(folder)
    try:
        stopping.close(queued.job.folder, folder, status, text, of=("pending", "running"), wait=2.0)
    except LockedError as error:  # somebody else is at it
        return Outcome("busy", str(error), log)
    passes = state is None or state.name in ("BOOT_FAIL", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED")
    return Outcome(status, text, log or output, passes)


_HINTS = {
    "OUT_OF_MEMORY": " (give it more `memory:`)",
    "TIMEOUT": " (give it more `time:`, or a longer `warning:` to stop in)",
    "FAILED": " before the experiment began (look at `setup:` and `python:`)",
}


def _tell(job: Job, seen: dict[str, Event], report: Callable[[Job, Event], None]) -> None:
    """Report how far an experiment is, where that changed."""
    beat = read.heartbeat(job.result_folder)
    if beat is None or "stage" not in beat:
        return
    now: Event = {key: beat[key] for key in ("stage", "done", "total", "loss") if key in beat}
    before = seen.get(job.experiment.folder, {})
    if now.get("stage") != before.get("stage"):
        report(job, {"event": "stage", "stage": now["stage"]})
    if now != before and "done" in now and "total" in now:
        report(job, {"event": "progress"} | now)
    seen[job.experiment.folder] = now


def _asked_gpus(gpus: int | str) -> tuple[str | None, int]:
    """Return the kind (None: any) and the number; ValueError for anything else."""
    kind, _, count = str(gpus).rpartition(":")
    number = int(count)
    if number < 1 or (":" in str(gpus) and not kind):
        raise ValueError(gpus)
    return kind or None, number


def _has(there: Mapping[str, int], kind: str | None, count: int) -> bool:
    return (sum(there.values()) if kind is None else there.get(kind, 0)) >= count


def _clock(seconds: int) -> str:
    days, rest = divmod(seconds, 86_400)
    return f"{f'{days}-' if days else ''}{rest // 3_600}:{rest % 3_600 // 60:02d}:{rest % 60:02d}"


def _file_system(path: Path) -> str | None:
    """Return the kind of file system that a path lies on where other machines do not see it; None where they may."""
    place = Path(os.path.realpath(path))
    try:
        rows = [row.split() for row in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()]
    except OSError:
        return None
    mounts = {Path(row[4].replace("\\040", " ")): row[row.index("-") + 1] for row in rows}
    kind = next((mounts[folder] for folder in (place, *place.parents) if folder in mounts), "")
    return None if not kind or kind in _SHARED_KINDS or kind.startswith("fuse.") else kind


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
