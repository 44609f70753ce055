"""An accelerate config file: how many processes train together, and whether each holds the whole model.

Plain Python: the file is read and checked before anything is started. What accelerate would do with a key that unsay's
training does not follow is refused, not ignored.

    processes = read(Path("examples/accelerate/fsdp.yaml"), count=4)   # what accelerate's launcher gets; None: no group
    refusals(processes, training)                                      # what this training cannot do with it
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from unsay import catalog
from unsay.errors import ConfigError
from unsay.settings import Training

DDP = "MULTI_GPU"
FSDP = "FSDP"

PLAIN: Mapping[str, Any] = {
    "compute_environment": "LOCAL_MACHINE",
    "distributed_type": DDP,
    "num_machines": 1,
    "mixed_precision": "no",
}
"""What a number of processes means without a file."""

_HERE = "unsay trains on one machine"
_PRECISION = "the training's own setting `bf16` says in which numbers it computes"
_LOADING = "unsay loads the model itself, on every process"
_RECOMPUTE = "the training's own setting `gradient_checkpointing` says that"

# What a key may say, and why nothing else. A key that may be absent has None among its values.
_MUST: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "compute_environment": (("LOCAL_MACHINE", None), _HERE),
    "distributed_type": ((DDP, FSDP), f"{DDP} is DDP, on CPUs too"),
    "num_machines": ((1, None), _HERE),
    "machine_rank": ((0, None), _HERE),
    "mixed_precision": (("no", False, None), _PRECISION),
    "use_cpu": ((False, None), "the command's --device cpu says that"),
}
_MUST_FSDP: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "fsdp_version": ((2,), "FSDP2 is the one that is supported"),
    "fsdp_reshard_after_forward": ((True, False, None), "FSDP2 knows these"),
    "fsdp_auto_wrap_policy": (("TRANSFORMER_BASED_WRAP", "SIZE_BASED_WRAP", "NO_WRAP"), "accelerate knows these"),
    "fsdp_offload_params": ((False, None), "weights stay on the devices"),
    "fsdp_cpu_ram_efficient_loading": ((False,), _LOADING),
    "fsdp_activation_checkpointing": ((False, None), _RECOMPUTE),
}
# Followed by accelerate as they are, or without a meaning here though `accelerate config` writes them.
_FREE = {
    "debug", "downcast_bf16", "enable_cpu_affinity", "fsdp_config", "gpu_ids", "main_process_port",
    "main_training_function", "num_processes", "rdzv_backend", "same_network", "tpu_env", "tpu_use_cluster",
    "tpu_use_sudo",
}  # fmt: skip
_FREE_FSDP = {"fsdp_min_num_params", "fsdp_state_dict_type", "fsdp_transformer_layer_cls_to_wrap"}


def read(file: Path | None, count: int | None = None) -> dict[str, Any] | None:
    """Return what accelerate's launcher is to be given; None where one process is enough.

    `count` goes before the file's `num_processes`; without a file every process holds the whole model (DDP). Raises
    ConfigError with every mistake.
    """
    content = dict(PLAIN) if file is None else _load(file)
    if count is not None:
        content["num_processes"] = count
    number = content.setdefault("num_processes", 1 if file is None else None)
    mistakes = _mistakes(content, _MUST, _FREE)
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        mistakes.append(f"num_processes: expected a number from 1 up, got {number!r}; write it, or say --processes")
    if content.get("distributed_type") == FSDP:
        inside = content.get("fsdp_config")
        mistakes += _mistakes(inside if isinstance(inside, dict) else {}, _MUST_FSDP, _FREE_FSDP)
    if mistakes:
        raise ConfigError([f"{file or '--processes'}: {mistake}" for mistake in mistakes])
    return content if isinstance(number, int) and number > 1 else None


def refusals(processes: Mapping[str, Any], training: Training) -> list[str]:
    """Say what this training cannot do in these processes; nothing when all is well."""
    found = []
    count, size = (
        processes["num_processes"],
        training.per_device_train_batch_size * training.gradient_accumulation_steps,
    )
    if count > size:
        found.append(
            f"expected at most {size} training processes, as the effective batch has {size} rows, got {count}; "
            "lower --processes"
        )
    if processes["distributed_type"] == FSDP and training.quantization_bit is not None:
        found.append(
            "quantization_bit: expected weights that FSDP can split, got weights in "
            f"{training.quantization_bit} bits; use DDP (--processes without FSDP), or leave quantization_bit out"
        )
    return found


def _load(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        first = str(error).splitlines()[0]
        raise ConfigError(f"{file}: expected an accelerate config file (YAML), got: {first}; check the path") from error
    if not isinstance(content, dict):
        raise ConfigError(
            f"{file}: expected the keys of an accelerate config file, got {type(content).__name__}; "
            "start from examples/accelerate/ddp.yaml"
        )
    return {str(key): value for key, value in content.items()}


def _mistakes(content: Mapping[str, Any], must: Mapping[str, tuple[tuple[Any, ...], str]], free: set[str]) -> list[str]:
    found = [catalog.unknown("key", key, {*must, *free}) for key in content if key not in must and key not in free]
    for key, (values, why) in must.items():
        value = content.get(key)
        # True is 1 in Python, and not in a config file.
        if not any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in values):
            wanted = " or ".join(str(each) for each in values if each is not None)
            found.append(f"{key}: expected {wanted} ({why}), got {value}")
    return found
