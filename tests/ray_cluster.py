"""A real Ray cluster of several nodes on this machine, each with resources and processes of its own, to be killed.

with Cluster(tmp) as cluster:
    node = cluster.add(num_cpus=1)
    unsay run … --executor ray --option address=cluster.address
    cluster.kill(node)
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

RAY = (sys.executable, "-m", "ray.scripts.scripts")
PATIENCE = 60.0
MEMORY = 80 * 1024**2
"""Bytes of each node's object store; the least that Ray takes is 75 MiB."""

# Nodes are known to be gone within 3 seconds, not half a minute.
_QUICK = {
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}


class Cluster:
    """Starts with a head that runs nothing."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # sockets below it must have short names
        self._started: list[subprocess.Popen[bytes]] = []
        self.address = f"{_own_address()}:{_free_port()}"
        self.environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        """What whoever connects must have in its environment: the nodes listen on all interfaces."""

    def __enter__(self) -> Cluster:
        try:
            port = self.address.rpartition(":")[2]
            self._start(
                "--head", "--port", port, "--include-dashboard=false", "--temp-dir", str(self._folder), num_cpus=0
            )
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._started):
            self.kill(process)
        shutil.rmtree(self._folder, ignore_errors=True)

    def add(self, **options: Any) -> subprocess.Popen[bytes]:
        """Start a node with these resources (`num_cpus=1`, `prefix=(command, that, starts, it)`)."""
        return self._start("--address", self.address, **options)

    def kill(self, node: subprocess.Popen[bytes]) -> None:
        """Take a node's power away: every process that runs on it, at once."""
        try:
            processes = [psutil.Process(node.pid), *psutil.Process(node.pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            processes = []
        for process in processes:
            try:
                process.suspend()  # nobody is to see another one die
            except psutil.NoSuchProcess:
                continue
        for process in processes:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        node.wait()

    def workers(self, node: subprocess.Popen[bytes]) -> list[psutil.Process]:
        """Return the processes on a node that are unsay's."""
        return [
            each for each in psutil.Process(node.pid).children(recursive=True)
            if any(part.startswith("unsay.") for part in _arguments(each))
        ]  # fmt: skip

    def _start(self, *arguments: str, num_cpus: int = 1, prefix: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
        count = len(self._started)
        log = self._folder / f"node-{count}.log"
        command = [*prefix, *RAY, "start", *arguments, "--block", "--num-cpus", str(num_cpus), "--num-gpus", "0"]
        command += ["--object-store-memory", str(MEMORY), "--disable-usage-stats"]
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment | self.environment | _QUICK | {"OMP_NUM_THREADS": "1"},
                start_new_session=True,
            )
        self._started.append(process)
        deadline = time.monotonic() + PATIENCE
        while b"--block" not in log.read_bytes():  # it says so once it runs
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        return process


def _arguments(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def _own_address() -> str:
    """Return the address that Ray takes for this machine's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
