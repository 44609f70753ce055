"""A Slurm cluster of one node on this machine, with its files in one folder: Debian's slurmctld, slurmd and munge.

    with cluster(folder) as environment:
        subprocess.run(["sinfo"], env=environment)

It needs root (`munged` wants its key read by nobody else, jobs run as whoever submits) and nothing of the system's own
configuration: ports are free ones, and every command finds the cluster by SLURM_CONF. No accounting database.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "sinfo")
PARTITION = "main"
CPUS = 2
KILL_WAIT = 10
"""Seconds between SIGTERM and SIGKILL."""

_CONF = """
ClusterName=unsay
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
AuthType=auth/munge
CredType=cred/munge
# How long a job that is queued again must wait, too.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SlurmdParameters=config_overrides
ReturnToService=2
KillWait={kill_wait}
MaxArraySize=20001
MaxJobCount=20000
SchedulerParameters=sched_interval=2,bf_interval=2,default_queue_depth=1000
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=4000 Feature=small State=UNKNOWN
PartitionName={partition} Nodes={host} Default=YES MaxTime=60 State=UP
PartitionName=night Nodes={host} MaxTime=600 State=DOWN
"""


def missing() -> list[str]:
    """Return the programs that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


@contextmanager
def cluster(folder: Path, *, cpus: int = CPUS) -> Iterator[dict[str, str]]:
    """Start a cluster, and end it and its jobs afterwards; yield the environment for commands that use it."""
    folder.mkdir(parents=True)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    conf = folder / "slurm.conf"
    values = {"host": socket.gethostname().split(".")[0], "folder": folder, "partition": PARTITION, "cpus": cpus}
    values |= {"controller": _free_port(), "node": _free_port(), "kill_wait": KILL_WAIT}
    conf.write_text(_CONF.format(**values))
    environment = {**os.environ, "SLURM_CONF": str(conf)}
    munge = ["--force", f"--key-file={key}", f"--socket={folder}/munge.socket", f"--pid-file={folder}/munged.pid"]
    munge += [f"--log-file={folder}/munged.log", f"--seed-file={folder}/munge.seed"]
    try:
        subprocess.run(["munged", *munge], check=True, capture_output=True, timeout=60)
        subprocess.run(["slurmctld"], check=True, capture_output=True, env=environment, timeout=60)
        subprocess.run(["slurmd"], check=True, capture_output=True, env=environment, timeout=60)
        _wait_until_idle(environment, folder)
        yield environment
    finally:
        subprocess.run(["scancel", "--user", "root", "--signal=KILL"], env=environment, capture_output=True, timeout=60)
        subprocess.run(["scancel", "--user", "root"], env=environment, capture_output=True, timeout=60)
        time.sleep(1.0)
        for name in ("slurmd", "slurmctld", "munged"):
            _end(folder / f"{name}.pid")


def _wait_until_idle(environment: dict[str, str], folder: Path) -> None:
    deadline = time.monotonic() + 60
    command = ["sinfo", "--noheader", f"--partition={PARTITION}", "--format=%T"]
    while time.monotonic() < deadline:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        if done.stdout.strip() == "idle":
            return
        time.sleep(0.5)
    logs = "\n".join((folder / f"{name}.log").read_text()[-2000:] for name in ("slurmctld", "slurmd"))
    raise AssertionError(f"the node did not become idle: {done.stdout} {done.stderr}\n{logs}")


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def _end(pid_file: Path) -> None:
    with suppress(OSError, ValueError):
        pid = int(pid_file.read_text())
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            os.kill(pid, 0)
            time.sleep(0.1)
        os.kill(pid, signal.SIGKILL)
