"""Processes that train together, forked from the test's: gloo on this machine, real collectives, no new interpreter."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

import torch

from unsay.train.group import Group, join

FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
}
"""What accelerate's launcher makes of examples/accelerate/fsdp.yaml."""

TIMEOUT = 120.0


class RaisedError(Exception):
    """What a process raised instead of returning."""


def together(work: Callable[[Group], Any], count: int = 2, *, sharded: bool = False) -> list[Any]:
    """Return what `work` returns in each of `count` processes; a RaisedError where it raised."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    pipes = []
    for rank in range(count):
        ours, theirs = fork.Pipe(duplex=False)
        environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), **(FSDP if sharded else {})}
        environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        environment |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
        process = fork.Process(target=_run, args=(work, environment, theirs), daemon=True)
        process.start()
        theirs.close()
        pipes.append((process, ours))
    results = []
    for _, ours in pipes:
        assert ours.poll(TIMEOUT), "the processes wait for each other"
        results.append(ours.recv())
    for process, _ in pipes:
        process.join(TIMEOUT)
    return results


def _run(work: Callable[[Group], Any], environment: Mapping[str, str], pipe: Connection) -> None:
    from accelerate import PartialState

    os.environ.update(environment)
    torch.set_num_threads(1)  # the threads of the process this one was forked from are not here
    PartialState._reset_state()
    try:
        result = work(join("cpu"))
    except BaseException as error:
        traceback.print_exc()
        result = RaisedError(f"{type(error).__name__}: {error}")
    pipe.send(result)
    pipe.close()
    os._exit(0)
