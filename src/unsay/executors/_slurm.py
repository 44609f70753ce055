"""Slurm's commands: what is in its queue, which nodes there are, ending a job and queueing it again.

Works without an accounting database: what `squeue` and `scontrol` have forgotten is not known.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from unsay.errors import ExecutorError

COMMANDS = ("sbatch", "squeue", "scancel", "scontrol", "sinfo")

ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
    "TIMEOUT",
}  # fmt: skip
"""States of a job that is over; in any other one it waits, runs or is being cleared away."""

_PATIENCE = 60.0
"""Seconds that a command may take: a busy controller answers late."""
_AT_A_TIME = 1000
"""Jobs that one command line asks about."""


@dataclass(frozen=True)
class State:
    """A job as Slurm knows it."""

    name: str
    reason: str = ""
    nodes: str = ""

    @property
    def has_ended(self) -> bool:
        return self.name in ENDED

    def __str__(self) -> str:
        waits = self.name == "PENDING" and self.reason not in ("", "None")
        return self.name + (f", {self.reason}" if waits else f" on {self.nodes}" if self.name == "RUNNING" else "")


def missing() -> list[str]:
    """Return the commands that are not on the path."""
    return [name for name in COMMANDS if shutil.which(name) is None]


def call(*words: str, patience: float = _PATIENCE, stdin: str | None = None) -> str:
    """Run one of Slurm's commands; ExecutorError with what it said where it fails or does not answer."""
    try:
        done = subprocess.run(words, input=stdin or "", capture_output=True, text=True, timeout=patience, check=False)
    except FileNotFoundError:
        raise ExecutorError(
            f"expected Slurm's `{words[0]}` on the path, found none; do this where jobs are submitted, on a login node"
        ) from None
    except subprocess.TimeoutExpired as error:
        raise ExecutorError(f"Slurm's `{words[0]}` gave no answer in {patience:.0f} s; try again later") from error
    if done.returncode:
        raise ExecutorError(" ".join(done.stderr.split()) or f"`{' '.join(words)}` ended with {done.returncode}")
    return done.stdout


def states(jobs: Sequence[str], *, patience: float = _PATIENCE) -> Mapping[str, State]:
    """Return what Slurm knows of these jobs (`12`, `12_3`); those it does not know are left out."""
    found: dict[str, State] = {}
    jobs = _numbers(jobs)
    for begin in range(0, len(jobs), _AT_A_TIME):
        asked = ",".join(jobs[begin : begin + _AT_A_TIME])
        words = ("squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%r|%N", f"--jobs={asked}")
        try:
            text = call(*words, patience=patience)
        except ExecutorError as error:
            if "Invalid job id" not in str(error):
                raise
            continue
        for row in text.splitlines():
            job, name, reason, nodes = (*row.strip().split("|"), "", "", "")[:4]
            found[job] = State(name, reason, nodes)
    return found


def _numbers(jobs: Sequence[str]) -> list[str]:
    """Leave out what is no job's number: anybody who writes in the lab folder could have written it."""
    return [job for job in jobs if re.fullmatch(r"\d+(_\d+)?", job, re.ASCII)]


def facts(job: str) -> Mapping[str, str]:
    """Return what `scontrol` says of one job, as `JobState`, `Restarts`, `Reason`, …"""
    text = call("scontrol", "show", "job", "--oneliner", job)
    return dict(re.findall(r"(\S+?)=(\S*)", text))


def cancel(jobs: Sequence[str]) -> None:
    """End jobs, waiting or running."""
    jobs = _numbers(jobs)
    for begin in range(0, len(jobs), _AT_A_TIME):
        call("scancel", *jobs[begin : begin + _AT_A_TIME])


def requeue(job: str) -> None:
    """Queue a running job again; its processes are ended."""
    call("scontrol", "requeue", job)


# -- what there is ----------------------------------------------------------------


@dataclass(frozen=True)
class Nodes:
    """Nodes of one partition that are alike. `limit` is in seconds (None: no limit), `memory` in MiB."""

    partition: str
    is_default: bool
    is_up: bool
    limit: int | None
    cpus: int
    memory: int
    gpus: Mapping[str, int]
    """How many of each kind a node has; kinds without a name are `gpu`."""
    features: frozenset[str]
    hosts: str


def nodes() -> list[Nodes]:
    """Return what `sinfo` lists; ExecutorError where the controller does not answer."""
    text = call("sinfo", "--noheader", "--exact", "--format=%P|%a|%l|%c|%m|%G|%f|%N")
    return [_nodes(*row.strip().split("|")) for row in text.splitlines() if row.count("|") == 7]


def _nodes(partition: str, up: str, limit: str, cpus: str, memory: str, gres: str, features: str, hosts: str) -> Nodes:
    return Nodes(
        partition.removesuffix("*"),
        partition.endswith("*"),
        up == "up",
        seconds(limit),
        int(cpus.rstrip("+") or 0),
        int(memory.rstrip("+") or 0),
        dict(_gpus(gres)),
        frozenset() if features == "(null)" else frozenset(features.split(",")),
        hosts,
    )


def _gpus(gres: str) -> Iterator[tuple[str, int]]:
    """`gpu:a100:4(S:0-1),gpu:2` has four of kind a100 and two of no kind."""
    for kind, count in re.findall(r"(?:^|,)gpu:(?:([A-Za-z][^:,(]*):)?(\d+)", gres):
        yield kind or "gpu", int(count)


def seconds(time: str) -> int | None:
    """Return a time as Slurm writes it in seconds; None for no limit. ValueError for anything else.

    `30` (minutes), `30:00`, `4:00:00`, `2-0`, `2-12:30` and `2-12:30:00`, as sbatch's manual lists them.
    """
    if time.casefold() in ("infinite", "unlimited"):
        return None
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", time.strip())
    if match is None:
        raise ValueError(time)
    days, *parts = match.groups()
    numbers = [int(part) for part in parts if part is not None]
    if days is not None:
        hours, minutes, rest = (*numbers, 0, 0)[:3]
        return int(days) * 86_400 + hours * 3_600 + minutes * 60 + rest
    if len(numbers) == 3:
        return numbers[0] * 3_600 + numbers[1] * 60 + numbers[2]
    return numbers[0] * 60 + (numbers[1] if len(numbers) == 2 else 0)


def mebibytes(memory: str) -> int:
    """Return a size as Slurm writes it (`32G`, `4000`, `1T`) in MiB; ValueError for anything else."""
    match = re.fullmatch(r"(\d+)([KMGT]?)B?", memory.strip(), re.IGNORECASE)
    if match is None:
        raise ValueError(memory)
    scale = {"K": 1 / 1024, "": 1, "M": 1, "G": 1024, "T": 1024**2}[match[2].upper()]
    return max(1, int(int(match[1]) * scale)) if int(match[1]) else 0
