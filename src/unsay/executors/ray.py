"""Runs experiments as tasks of a Ray cluster: one that runs already, or one of this machine alone.

    executor: {name: ray, address: "head:6379", num_gpus: 1, shards: 4}

Each experiment is a task that starts the same worker process as everywhere, on whatever node has room; its events come
back while it works. With `shards` the worker's prompts are answered by further tasks, too. A task whose node is lost is
submitted again, and goes on where it was: what it finished lies in the output folder, which all nodes see
(`results: folder`), or is sent back every few seconds (`results: store`).
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from unsay.errors import ConfigError, ExecutorError, LockedError, UnsayError, may_pass
from unsay.executors import Outcome, _ray_node
from unsay.job import Event, Job, Report
from unsay.store import claims, layout, stopping, write

LOCAL = "local"
_STARTING = 60.0
"""Seconds that a node may take to start a Python process for its first task."""
_LOOK_EVERY = 0.2
_ASKED_EVERY = 2.0
"""Seconds between two looks whether somebody cancelled what waits in the cluster."""
_STOPPING = 30.0
"""Seconds a cancelled task may take to write down where it stopped."""


@dataclass(frozen=True)
class Ray:
    """Where the cluster is, and what each task asks for."""

    at_once: ClassVar[int | None] = None
    address: str = LOCAL
    """local: a cluster of this machine, for this run; auto: the one this machine belongs to; host:port of a head."""
    num_cpus: float = 1
    num_gpus: float | None = None
    """None: one where the cluster has any and the run is not told to use the processor."""
    memory_gb: float | None = None
    """Main memory that Ray sets aside for each task."""
    resources: dict[str, Any] = field(default_factory=dict)
    """Resources of your own that nodes were started with, as `{"a100": 1}`."""
    shards: int = 1
    """Tasks that generate one evaluation's answers together."""
    max_retries: int = 3
    """How often a task is submitted again whose node or process was lost."""
    results: Literal["folder", "store"] = "folder"
    """folder: every node sees the output folder; store: none need to, files come back through Ray's object store."""
    timeout: float = 20
    """Seconds the cluster may take to answer at first."""

    def __post_init__(self) -> None:
        least: dict[str, float] = {"num_cpus": 0, "num_gpus": 0, "memory_gb": 0, "max_retries": 0, "shards": 1}
        mistakes = [
            f"{name}: expected at least {value:g}, got {getattr(self, name):g}"
            for name, value in least.items()
            if getattr(self, name) is not None and getattr(self, name) < value
        ]
        mistakes += [
            f"resources: expected a number for each, got {name}: {value!r}"
            for name, value in self.resources.items()
            if isinstance(value, bool) or not isinstance(value, int | float) or value < 0
        ]
        if self.timeout <= 0:
            mistakes.append(f"timeout: expected seconds above 0, got {self.timeout:g}")
        if self.address.startswith("ray://"):
            mistakes.append(
                f"address: expected the address of the head node, host:port, got {self.address}; Ray's client "
                "connections pass no events on. Start the run on a node of the cluster, as with `ray job submit`"
            )
        elif self.address not in (LOCAL, "auto") and not _host_and_port(self.address):
            mistakes.append(f"address: expected local, auto or host:port, got {self.address!r}")
        if self.results == "store" and self.shards > 1:
            mistakes.append(
                "shards: the parts of one evaluation need a folder that all nodes see, got `results: store`; leave out "
                "one of the two"
            )
        if mistakes:
            raise ConfigError(mistakes)

    def check(self, jobs: Sequence[Job]) -> list[str]:
        try:
            _connect(self)
        except ExecutorError as error:
            return [str(error)]
        nodes, wanted = _nodes(), self._wanted(jobs)
        able = [node for node in nodes if all(node["Resources"].get(name, 0) >= n for name, n in wanted.items())]
        if not able:
            return _cannot(nodes, wanted)
        return _look_around(able, jobs, share=self.results == "folder")

    def submit(self, job: Job, report: Report) -> _Running:
        _connect(self)
        return _Running(
            replace(job, output_dir=job.output_dir.absolute(), shards=self.shards, place={"executor": "ray"}),
            report,
            self,
            self._options([job]),
        )

    def divided(self, job: Job) -> Job:
        return replace(job, shards=self.shards, takes_part=False)

    def helpers(self, job: Job, folder: Path, count: int) -> Helpers:
        if self.results == "store":
            raise ExecutorError(
                "expected a folder that all nodes see, to answer prompts in parts, got `results: store`; leave it out"
            )
        _connect(self)
        return Helpers(folder.absolute(), count, self._options([job]) | {"max_retries": self.max_retries})

    def _wanted(self, jobs: Sequence[Job]) -> dict[str, float]:
        """Return what a task asks for, as Ray names it; nothing that is zero."""
        gpus = self.num_gpus
        if gpus is None:
            on_cpu = all(job.device in ("cpu", "mps") for job in jobs)
            gpus = 0 if on_cpu or not any(node["Resources"].get("GPU") for node in _nodes()) else 1
        memory = None if self.memory_gb is None else self.memory_gb * 1024**3
        wanted = {"CPU": self.num_cpus, "GPU": gpus, "memory": memory, **self.resources}
        return {name: float(value) for name, value in wanted.items() if value}

    def _options(self, jobs: Sequence[Job]) -> dict[str, Any]:
        wanted = self._wanted(jobs)
        named = {
            "num_cpus": wanted.pop("CPU", 0),
            "num_gpus": wanted.pop("GPU", 0),
            "memory": wanted.pop("memory", None),
        }
        # A task that is lost is submitted again here: what it had reported already would else be expected once more.
        return named | {"resources": wanted, "max_retries": 0}


# -- one experiment ---------------------------------------------------------------


class _Running:
    """A task, and, once its node was lost, those that go on with its experiment."""

    def __init__(self, job: Job, report: Report, executor: Ray, options: Mapping[str, Any]) -> None:
        self._job = job
        self._report = report
        self._executor = executor
        self._options = dict(options)
        self._stopped = threading.Event()
        self._why: str | None = None
        self._helpers: list[Helpers] = []
        self._task: Any = None
        self._mirror = _ray_node.Mirror(self._job) if executor.results == "store" else None

    def wait(self) -> Outcome:
        try:
            with self._mirror or contextlib.nullcontext():
                return self._wait()
        except LockedError as error:
            return Outcome("busy", str(error), None)
        except (UnsayError, OSError) as error:
            return Outcome("failed", str(error), None, may_pass(error))
        finally:
            for helpers in self._helpers:
                helpers.stop()

    def _wait(self) -> Outcome:
        lost = 0
        while True:
            try:
                outcome = self._one_task()
            except _LostError as error:
                lost += 1
                if lost <= self._executor.max_retries and not self._stopped.is_set():
                    self._report({"event": "lost", "error": str(error), "try": lost})
                    continue
                return Outcome("failed", str(error), None, may_pass=True, silent=True)
            return outcome or self._cancelled()

    def _one_task(self) -> Outcome | None:
        """Follow one task to its end; None where it was cancelled before it could say anything."""
        ray, mirror, before = _ray(), self._mirror, stopping.asked(self._job.result_folder)
        run = ray.remote(_ray_node.carry_out).options(num_returns="streaming", **self._options)
        files = None if mirror is None else dict(mirror.files())
        contents = [ray.put(path.read_bytes()) for path in (files or {}).values()]
        self._task = run.remote(self._job.to_json(), None if files is None else list(files), *contents)
        if self._stopped.is_set():
            self.cancel()
        outcome = None
        with _losses():
            for reference in self._task_says(before):
                batch = ray.get(reference)
                if mirror is not None:
                    mirror.write(batch["files"], batch["gone"])
                for event in batch["events"]:
                    outcome = self._take(event) or outcome
        return outcome

    def _task_says(self, before: str | None) -> Iterator[Any]:
        """Yield references to what the task reports; cancel it when somebody asks for that before its worker could."""
        ray, looks = _ray(), True
        while True:
            ready, _ = ray.wait([self._task], timeout=_ASKED_EVERY)
            if not ready or self._mirror is not None:
                why = stopping.asked(self._job.result_folder) if looks else None
                if why is not None and why != before:
                    self._why, looks = why, False
                    self.cancel()
            if ready:
                reference = next(self._task, None)
                if reference is None:
                    return
                yield reference
                looks = looks and self._mirror is not None  # from here on the worker itself looks

    def _cancelled(self) -> Outcome:
        """Return how a cancelled task ended, whose worker was asked to stop."""
        deadline = time.monotonic() + _STOPPING
        while time.monotonic() < deadline and self._mirror is None and _is_claimed(self._job):
            time.sleep(_LOOK_EVERY)
        return Outcome("cancelled", self._why or "the task was cancelled", None, silent=True)

    def _take(self, event: Event) -> Outcome | None:
        if event["event"] == "outcome":
            log = None if event["log"] is None else self._job.result_folder / event["log"]
            return Outcome(event["status"], event["error"], log, event["may_pass"], event["silent"])
        if event["event"] == "shards":
            self._helpers.append(self._executor.helpers(self._job, Path(event["folder"]), event["helpers"]))
        else:
            self._report(event)
        return None

    def cancel(self) -> None:
        self._stopped.set()
        if self._task is not None:
            _ray().cancel(self._task)

    def kill(self) -> None:
        self._stopped.set()
        if self._task is not None:
            _ray().cancel(self._task, force=True)


class Helpers:
    """Tasks that answer parts of somebody's prompts; Ray starts one again that is lost."""

    def __init__(self, folder: Path, count: int, options: Mapping[str, Any]) -> None:
        run = _ray().remote(_ray_node.help_with).options(retry_exceptions=[ChildProcessError], **options)
        self._tasks = [run.remote(str(folder), number + 1) for number in range(count)]

    def failed(self) -> list[str]:
        """Return why helpers failed, once none is left that works or may begin."""
        ray = _ray()
        _, pending = ray.wait(self._tasks, num_returns=len(self._tasks), timeout=0)
        if pending:
            return []
        found = []
        for task in self._tasks:
            try:
                end = ray.get(task)
            except Exception as error:
                found.append(str(error))
            else:
                found += [end["error"]] if end["status"] != "completed" else []
        return found

    def stop(self) -> None:
        for task in self._tasks:
            with suppress(Exception):  # one that has ended
                _ray().cancel(task)


def _is_claimed(job: Job) -> bool:
    return any(claims.in_the_way(folder) is not None for folder in job.written_folders)


class _LostError(Exception):
    """A node or a process of Ray is gone."""


@contextlib.contextmanager
def _losses() -> Iterator[None]:
    from ray import exceptions

    lost = (
        exceptions.WorkerCrashedError,
        exceptions.NodeDiedError,
        exceptions.LocalRayletDiedError,
        exceptions.OutOfMemoryError,
        exceptions.ObjectLostError,
        exceptions.ActorDiedError,
    )
    try:
        yield
    except exceptions.TaskCancelledError:
        return
    except lost as error:
        raise _LostError(f"the node or process of the task is gone: {str(error).splitlines()[0]}") from error
    except exceptions.RayError as error:
        raise ExecutorError(f"Ray could not carry out the task: {error}") from error


# -- the cluster ------------------------------------------------------------------


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    try:
        import ray
    except ImportError as error:
        raise ExecutorError(f"running on Ray needs its package ({error}); `pip install 'unsay[ray]'`") from error
    return ray


def _connect(executor: Ray) -> None:
    """Be connected to the cluster; ExecutorError where it does not answer in time."""
    ray = _ray()
    if ray.is_initialized():
        return
    quiet = {"configure_logging": False, "log_to_driver": False, "logging_level": "error"}
    if executor.address == LOCAL:
        folder = tempfile.mkdtemp(prefix="unsay-ray-", dir="/tmp")  # sockets below it must have short names
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        atexit.register(ray.shutdown)
        with _on_loopback():
            ray.init("local", include_dashboard=False, _node_ip_address="127.0.0.1", _temp_dir=folder, **quiet)
        return
    _reach(executor.address, executor.timeout)
    try:
        ray.init(executor.address, **quiet)
    except Exception as error:
        raise ExecutorError(
            f"expected this machine to be a node of the Ray cluster at {executor.address}, got: {error}. Start the run "
            "on the head or on any node (`ray start --address=…` makes this machine one)."
        ) from error


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Let Ray listen on 127.0.0.1 only, as it does where it knows no clusters: else it listens on every interface."""
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _reach(address: str, timeout: float) -> None:
    """See whether a cluster answers: Ray itself would try for minutes."""
    place = _host_and_port(address)
    expected = f"expected a Ray cluster at {address}"
    todo = "Is its head running (`ray start --head`), and is this its address (`ray status` on the head)?"
    if place is not None:
        try:
            socket.create_connection(place, timeout=timeout).close()
        except OSError as error:
            raise ExecutorError(f"{expected}, got {error.strerror or error}. {todo}") from error
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise ExecutorError(f"{expected}, got no answer that Ray understands in {timeout:g} s. {todo}") from None
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise ExecutorError(f"{expected}, got: {lines[-1] if lines else 'no answer'}. {todo}")


def _host_and_port(address: str) -> tuple[str, int] | None:
    host, _, port = address.rpartition(":")
    return (host.strip("[]"), int(port)) if host and port.isdigit() else None


def _nodes() -> list[dict[str, Any]]:
    return [node for node in _ray().nodes() if node["Alive"]]


def _cannot(nodes: Sequence[Mapping[str, Any]], wanted: Mapping[str, float]) -> list[str]:
    """Say what no node has; where each has a part of it, what the nodes have."""
    words = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory_gb"}
    shown = {name: (value / 1024**3 if name == "memory" else value) for name, value in wanted.items()}
    mistakes = []
    for name, value in wanted.items():
        most = max((node["Resources"].get(name, 0) for node in nodes), default=0)
        if most < value:
            most = most / 1024**3 if name == "memory" else most
            option = words.get(name, "resources")
            mistakes.append(
                f"{words.get(name, name)}: expected a node with at least {shown[name]:g}, got {most:g} on the largest "
                f"of the {len(nodes)} node(s) of the cluster; ask for less (`--option {option}=…`), or add a node"
            )
    together = ", ".join(f"{words.get(name, name)} {value:g}" for name, value in shown.items())
    return mistakes or [f"expected a node with {together} together, got none among {len(nodes)}; ask for less of them"]


def _look_around(nodes: Sequence[Mapping[str, Any]], jobs: Sequence[Job], *, share: bool) -> list[str]:
    """See, from every node that could run something, what experiments will look for there."""
    ray = _ray()
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    outputs = sorted({job.output_dir.absolute() for job in jobs})
    paths = sorted({path for job in jobs for path in _read(job)})
    with ExitStack() as held:
        probes = [str(held.enter_context(_probe(folder))) for folder in outputs] if share else []
        look = ray.remote(_ray_node.look)
        asked = {
            look.options(
                num_cpus=0,
                max_retries=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
            ).remote(probes, paths): node["NodeManagerHostname"] + " (" + node["NodeManagerAddress"] + ")"
            for node in nodes
        }
        done, late = ray.wait(list(asked), num_returns=len(asked), timeout=_STARTING)
        mistakes = [f"node {asked[each]}: expected an answer within {_STARTING:g} s, got none" for each in late]
        for each in done:
            try:
                seen = ray.get(each)
            except Exception as error:
                mistakes.append(
                    f"node {asked[each]}: expected unsay there, got: {str(error).strip().splitlines()[-1]}; "
                    "install the same release on every node"
                )
                continue
            mistakes += [f"node {asked[each]}: {what}" for what in seen]
    return mistakes


@contextlib.contextmanager
def _probe(folder: Path) -> Iterator[Path]:
    """Give a file in an output folder that is gone afterwards, and so is the folder where there was none."""
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    path = folder / f"{layout.TEMPORARY_PREFIX}{os.urandom(6).hex()}{layout.TEMPORARY_SUFFIX}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name, encoding="utf-8")
    except OSError as error:
        raise write.cannot_write(path, error) from error
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
        for each in made:
            with suppress(OSError):
                each.rmdir()


def _read(job: Job) -> Iterator[str]:
    """Yield what a job reads besides the output folder: it must be at the same place on every node."""
    experiment = job.experiment
    undo = experiment.settings.undo
    model = experiment.model
    datasets = (part for each in (experiment.dataset, *job.evaluated) for part in (each.path, each.task))
    options = () if undo is None else undo.options.values()
    for path in (model.path, model.adapter, model.template, *datasets, *options):
        if isinstance(path, str) and Path(path).is_absolute():
            yield path
