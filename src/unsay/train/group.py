"""The processes that train one model together, as each of them sees it; ordinarily there is one.

They share the rows of every effective batch. What a decision depends on is summed over all of them, so that all decide
the same, and only the first one writes files. Accelerate makes the processes and says which of two ways they take:

    data parallel   everyone holds the whole model; gradients are summed once per step. Not by torch's wrapper, which
                    sums inside the way back: one process without memory would leave the others waiting there.
    sharded         everyone holds a part of every weight, gradient and optimiser state (FSDP2); a layer is put together
                    when it is needed, and what is asked of weights here is asked by all processes at once

    group = join("cuda")                 # in a process that accelerate's launcher started
    group.take(model)
    (loss,) = group.sum(loss)
    group.add_gradients(parameters)
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from unsay.errors import TrainingError


class StartAgainError(Exception):
    """A sharded process ran out of memory, while the others wait for it inside a layer: all have to start again.

    `memory` says how the next ones may begin: `micro_batch`, `recompute`, and the list `out_of_memory`.
    """

    def __init__(self, memory: Mapping[str, Any]) -> None:
        super().__init__("out of memory")
        self.memory = dict(memory)


@dataclass(frozen=True)
class Group:
    """One process among `count`, the `rank`-th from 0. With a `plugin`, accelerate's of FSDP, weights are in parts."""

    rank: int = 0
    count: int = 1
    device: str = "cpu"
    plugin: Any = None

    @property
    def first(self) -> bool:
        """Whether this process writes files and speaks for all."""
        return self.rank == 0

    @property
    def sharded(self) -> bool:
        return self.plugin is not None

    @property
    def loss_scale(self) -> int:
        """What a loss is multiplied by before the way back: FSDP takes the mean of gradients where we need the sum."""
        return self.count if self.sharded else 1

    def take(self, model: Any) -> None:
        """Begin with the same weights everywhere, in parts where the group is sharded; the model changes in place."""
        if self.count == 1:
            return
        if self.sharded:
            self._shard(model)
            return
        for parameter in model.parameters():
            if parameter.requires_grad:
                distributed.broadcast(parameter.data, 0)

    def _shard(self, model: Any) -> None:
        from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(torch.device(self.device).type, (self.count,))
        self.plugin.set_auto_wrap_policy(model)
        alone = fsdp2_prepare_auto_wrap_policy(self.plugin, model)
        # Innermost first; then one last unit of all that is left, so that tied embeddings stay one weight.
        for module in [*reversed(list(model.modules()))][:-1] if alone is not None else []:
            if alone(module):
                fully_shard(module, mesh=mesh, reshard_after_forward=bool(self.plugin.reshard_after_forward))
        fully_shard(model, mesh=mesh)

    def sum(self, *values: float) -> tuple[float, ...]:
        """Return each value summed over the processes, the same on all of them."""
        if self.count == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(tensor)
        return tuple(tensor.tolist())

    def largest(self, value: int) -> int:
        if self.count == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.int64, device=self.device)
        distributed.all_reduce(tensor, distributed.ReduceOp.MAX)
        return int(tensor)

    def wait(self) -> None:
        """Go on when every process has come here: what the first one wrote before is there now."""
        self.sum(0.0)

    def add_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Sum the gradients of the whole step. One that no process has stays away, as it does in one process."""
        if self.count == 1 or self.sharded:  # sharded ones are summed on the way back
            return
        there = torch.tensor([float(each.grad is not None) for each in parameters], device=self.device)
        distributed.all_reduce(there, distributed.ReduceOp.MAX)
        waiting = []
        for parameter, wanted in zip(parameters, there.tolist(), strict=True):
            if wanted:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                waiting.append(distributed.all_reduce(parameter.grad, async_op=True))
        for work in waiting:
            work.wait()

    def collect(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return whole copies in ordinary memory on the first process, nothing on the others.

        Two names for one tensor stay two names for one copy.
        """
        if not self.first and not self.sharded:
            return {}
        copies: dict[int, torch.Tensor] = {}
        for key, tensor in {id(tensor): tensor for tensor in tensors.values()}.items():
            together = whole(tensor.detach())  # one at a time: they need not fit into memory together
            if self.first:
                copies[key] = together.cpu().contiguous().clone()
        return {name: copies[id(tensor)] for name, tensor in tensors.items()} if self.first else {}


ALONE = Group()


def join(device: str) -> Group:
    """Return the group that this process was started into by accelerate's launcher; `device` is cpu or cuda.

    Raise TrainingError where there are fewer GPUs than processes.
    """
    from accelerate import PartialState
    from accelerate.utils import FullyShardedDataParallelPlugin

    count = int(os.environ["LOCAL_WORLD_SIZE"])
    if device != "cpu" and torch.cuda.device_count() < count:
        raise TrainingError(
            f"expected {count} GPUs for {count} training processes, got {torch.cuda.device_count()}; "
            "lower --processes (or num_processes in the accelerate file), or say --device cpu"
        )
    # The others may wait long while the first one writes a checkpoint; who dies is noticed by the launcher anyway.
    state = PartialState(cpu=device == "cpu", timeout=timedelta(hours=1))
    sharded = os.environ.get("ACCELERATE_USE_FSDP") == "true"
    return Group(
        state.process_index,
        state.num_processes,
        str(state.device),
        FullyShardedDataParallelPlugin() if sharded else None,
    )


# -- weights of which a process may hold a part -----------------------------------------------------------------------


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return the whole of a tensor; where it is in parts, all processes must ask for it together."""
    full = getattr(tensor, "full_tensor", None)
    return tensor if full is None else full()


def part_of(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return the part of a whole tensor that belongs here, as `like` is in parts; the whole where `like` is whole."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)


def rows_here(matrix: torch.Tensor, ids: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what this process holds of a matrix, sharing its memory, and where in it those of the rows `ids` are."""
    numbers = part_of(torch.arange(matrix.shape[0]), matrix)
    local, numbers = (getattr(each, "to_local", lambda each=each: each)() for each in (matrix.detach(), numbers))
    wanted = torch.tensor(list(ids), dtype=torch.long, device=numbers.device)
    return local, torch.isin(numbers, wanted).nonzero().flatten().to(local.device)


@contextmanager
def opened(model: Any) -> Iterator[None]:
    """Hold the embeddings and the output head whole, where they are in parts; all processes come here together."""
    from torch.distributed.fsdp import FSDPModule

    if isinstance(model, FSDPModule):
        model.unshard()
    try:
        yield
    finally:
        close(model)


def close(model: Any) -> None:
    """Give back what a forward pass without a way back left whole: it would go stale with the next step."""
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def trainable(model: Any) -> dict[str, torch.Tensor]:
    """Return every weight under training by its name; one that two modules share has the first one's."""
    named: Iterable[tuple[str, torch.nn.Parameter]] = model.named_parameters()
    return {name: parameter for name, parameter in named if parameter.requires_grad}


def restore(model: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put whole tensors with the names of `trainable` back. Raise TrainingError where the model has no such weight."""
    parameters = trainable(model)
    if tensors.keys() != parameters.keys():
        stranger = sorted(tensors.keys() ^ parameters.keys())[0]
        raise TrainingError(
            f"expected a checkpoint of these very weights, got one that differs in {stranger}; "
            "remove the checkpoint folders and train again"
        )
    with torch.no_grad():
        for name, tensor in tensors.items():
            parameters[name].copy_(part_of(tensor, parameters[name]))
