"""How much memory there is for slots, and whether an error means that there is none left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import torch

from unsay.errors import EvaluationError

# What a container may use and uses: control groups of version 2, then of version 1.
_GROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)


def free_memory(device: torch.device) -> int:
    """Return the bytes that can still be taken on a device, those that torch holds and does not use included."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    return min([int(psutil.virtual_memory().available), *_left_in_groups()])


def out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that memory ran out, on a GPU or elsewhere."""
    said = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(each in str(error) for each in said)


def release(device: torch.device) -> None:
    """Give back what torch holds and does not use."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def too_little_memory(model: Any, tokens: int, failure: str) -> EvaluationError:
    """Return the error that one answer alone is too much."""
    return EvaluationError(
        f"expected one answer of up to {tokens} tokens to fit into the memory of {model.device}, got: {failure}; "
        "lower max_new_tokens, or take a smaller model"
    )


def _left_in_groups() -> list[int]:
    for most, used in _GROUPS:
        try:
            return [max(0, int(most.read_text()) - int(used.read_text()))]
        except (OSError, ValueError):  # no such file, or no limit ("max")
            continue
    return []
