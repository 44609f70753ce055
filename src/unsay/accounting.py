"""What an experiment takes: seconds, tokens, GPU seconds, energy and memory, of each stage and over all attempts.

    with Meter() as meter:
        meter.begin("evaluate"); meter.count({"tokens_read": 70, "tokens_written": 120})
    total(record.attempts)["total"]["seconds"]

Measuring never fails a run: what cannot be known is None, with a reason. Knows nothing about how a stage works; torch
is looked at where it was imported already.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from unsay.records import Attempt

SUMMED = ("seconds", "tokens_read", "tokens_written", "tokens_taken_back", "gpu_seconds", "energy_joules")
HIGHEST = ("peak_memory_bytes", "peak_gpu_memory_bytes")

NO_GPU = "no GPU was used"
NOT_INSTALLED = "nvidia-ml-py is not installed (`pip install nvidia-ml-py`)"
NOT_MEASURED = "not measured"
OF_A_SERVER = "a server answered, whose GPUs are not seen from here"

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


# -- measuring --------------------------------------------------------------------


@dataclass
class _Stage:
    """What is known of one stage so far; `energy` is the counter of each GPU when the stage began."""

    name: str
    began: float
    energy: Mapping[str, float]
    cleared: bool
    """Whether the highest memory counts from the beginning of the stage; else only where it rose since."""
    before: int
    counts: dict[str, int] = field(default_factory=dict)
    gpus: set[str] = field(default_factory=set)
    memory: int = 0
    gpu_memory: int | None = None


class Meter:
    """Measures one attempt, stage by stage. `server` says that answers come from another process.

    Another thread may call `so_far` while stages go on.
    """

    def __init__(self, *, server: bool = False) -> None:
        self._server = server
        self._lock = threading.Lock()
        self._energy = _Energy()
        self._stage: _Stage | None = None
        self._timings: dict[str, float] = {}
        self._usage: dict[str, dict[str, Any]] = {}

    def begin(self, stage: str) -> None:
        """Begin a stage; the one before it ends."""
        with self._lock:
            self._close()
            cuda = _cuda()
            with suppress(RuntimeError):  # a device that is broken: the stage itself will say so
                for device in range(cuda.device_count() if cuda is not None else 0):
                    cuda.reset_peak_memory_stats(device)
            self._stage = _Stage(stage, time.monotonic(), self._energy.read(), _clear_peak(), host_peak())

    def count(self, spent: Mapping[str, Any]) -> None:
        """Note what the stage has used so far, as it says itself.

        `tokens_read`, `tokens_written`, `tokens_taken_back`; of its own processes also `gpus` and the highest memory.
        """
        with self._lock:
            stage = self._stage
            if stage is None:
                return
            stage.counts |= {name: int(value) for name, value in spent.items() if name in SUMMED}
            stage.gpus.update(spent.get("gpus", ()))
            stage.memory = max(stage.memory, spent.get("peak_memory_bytes") or 0)
            stage.gpu_memory = _highest([stage.gpu_memory, spent.get("peak_gpu_memory_bytes")])

    def so_far(self) -> dict[str, Any]:
        """Return `timings` and `usage` as an attempt records them, the running stage included."""
        with self._lock:
            timings, usage = dict(self._timings), dict(self._usage)
            if self._stage is not None:
                _add(timings, usage, self._stage.name, *self._measured(self._stage))
            return {"timings": timings, "usage": usage}

    def end(self) -> dict[str, Any]:
        """End the last stage; return `timings` and `usage`."""
        with self._lock:
            self._close()
        return self.so_far()

    def _close(self) -> None:
        if self._stage is not None:
            _add(self._timings, self._usage, self._stage.name, *self._measured(self._stage))
        self._stage = None

    def _measured(self, stage: _Stage) -> tuple[float, dict[str, Any]]:
        seconds = round(time.monotonic() - stage.began, 3)
        peak = host_peak()
        stage.memory = max(stage.memory, peak if stage.cleared or peak > stage.before else _resident())
        own = spent_here()
        stage.gpus.update(own["gpus"])
        stage.gpu_memory = _highest([stage.gpu_memory, own["peak_gpu_memory_bytes"]])
        reasons: dict[str, str] = {}
        gpu_seconds: float | None = round(seconds * len(stage.gpus), 3)
        energy, why = self._energy.spent(stage.energy, stage.gpus)
        if self._server and stage.name == "evaluate":
            gpu_seconds = energy = None
            reasons = {"gpu_seconds": OF_A_SERVER, "energy_joules": OF_A_SERVER}
        elif energy is None:
            reasons["energy_joules"] = why
        measured = {
            **{name: stage.counts.get(name) for name in SUMMED if name.startswith("tokens")},
            "gpus": len(stage.gpus),
            "gpu_seconds": gpu_seconds,
            "energy_joules": energy,
            "peak_memory_bytes": stage.memory,
            "peak_gpu_memory_bytes": stage.gpu_memory,
            "reasons": reasons,
        }
        return seconds, measured


def _add(
    timings: dict[str, float], usage: dict[str, dict[str, Any]], stage: str, seconds: float, measured: dict[str, Any]
) -> None:
    """Add what was measured to a stage, which may have been there before."""
    timings[stage] = round(timings.get(stage, 0.0) + seconds, 3)
    before = usage.get(stage)
    if before is None:
        usage[stage] = measured
        return
    usage[stage] = {
        **{name: _sum([before[name], measured[name]]) for name in SUMMED if name in measured},
        **{name: _highest([before[name], measured[name]]) for name in HIGHEST},
        "gpus": max(before["gpus"], measured["gpus"]),
        "reasons": before["reasons"] | measured["reasons"],
    }


def spent_here(processes: int = 1) -> dict[str, Any]:
    """Return the GPUs this process holds memory of, and its highest use of memory, its own and a GPU's, in bytes.

    Where so many `processes` work together, each with a GPU, it speaks for all of them.
    """
    cuda = _cuda()
    memory: list[int] = []
    gpus: list[str] = []
    with suppress(RuntimeError):
        memory = [int(cuda.max_memory_allocated(at)) for at in range(cuda.device_count())] if cuda is not None else []
        used = [at for at, most in enumerate(memory) if most]
        if used and processes > 1:
            used = list(range(min(processes, len(memory))))
        gpus = [str(getattr(cuda.get_device_properties(at), "uuid", f"cuda:{at}")) for at in used]
    return {"gpus": gpus, "peak_memory_bytes": host_peak(), "peak_gpu_memory_bytes": max(memory, default=0) or None}


def host_peak() -> int:
    """Return the most bytes of memory this process has had at a time.

    `ru_maxrss` begins with what the process had that started this one; it serves where there is nothing better.
    """
    with suppress(OSError, ValueError, IndexError):
        for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _clear_peak() -> bool:
    """Let the highest memory count from now on, where the system can do that."""
    try:
        _CLEAR.write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _resident() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)


def _cuda() -> Any:
    """Return torch.cuda where this process has begun to use it; None elsewhere."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    try:
        return cuda if cuda is not None and cuda.is_initialized() else None
    except AttributeError:  # torch is being imported by another thread
        return None


class _Energy:
    """The energy counters of NVIDIA's driver, in joules, by the GPU's UUID."""

    def __init__(self) -> None:
        self._library: Any = None
        self._why = ""

    def read(self) -> Mapping[str, float]:
        """Return every counter there is; none where the driver has none."""
        if self._library is None and not self._why:
            self._open()
        if self._library is None:
            return {}
        found = {}
        try:
            for at in range(self._library.nvmlDeviceGetCount()):
                handle = self._library.nvmlDeviceGetHandleByIndex(at)
                name = self._library.nvmlDeviceGetUUID(handle)
                name = name.decode() if isinstance(name, bytes) else str(name)
                found[name.removeprefix("GPU-")] = self._library.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000
        except self._library.NVMLError as error:
            self._why = f"the driver does not report it ({error})"
        return found

    def spent(self, before: Mapping[str, float], gpus: Iterable[str]) -> tuple[float | None, str]:
        """Return the joules that these GPUs took since `before`, or why that is not known."""
        used = set(gpus)
        if not used:
            return None, NO_GPU
        now = self.read()
        if used <= before.keys() and used <= now.keys():
            return round(sum(now[name] - before[name] for name in used), 1), ""
        return None, self._why or "the driver does not report it for these GPUs"

    def _open(self) -> None:
        try:
            import pynvml
        except ImportError:
            self._why = NOT_INSTALLED
            return
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            self._why = f"the driver does not report it ({error})"
            return
        self._library = pynvml


# -- summing up -------------------------------------------------------------------


def with_heartbeat(attempts: Sequence[Attempt], beat: Mapping[str, Any], *, ended: bool) -> tuple[Attempt, ...]:
    """Fill in what the last attempt took from the sign of life it left, where it could not write that down itself.

    `ended` closes it at that time: it is not coming back.
    """
    last = attempts[-1] if attempts else None
    if last is None or last.ended is not None or beat.get("attempt") != last.started:
        return tuple(attempts)
    timings, usage, moment = beat.get("timings"), beat.get("usage"), beat.get("time")
    if isinstance(timings, dict) and isinstance(usage, dict):
        last = replace(last, timings=timings, usage=usage)
    if ended and isinstance(moment, str):
        last = replace(last, ended=moment)
    return (*attempts[:-1], last)


def total(attempts: Sequence[Attempt]) -> dict[str, Any]:
    """Sum up attempts: `stages` by name and the `total`, each with the quantities of SUMMED and HIGHEST.

    What no attempt knows is None, `reasons` says why; where only some know, their sum stands and the reason, too.
    `unmeasured` counts the attempts of which nothing is known.
    """
    parts: dict[str, list[dict[str, Any]]] = {}
    for attempt in attempts:
        for stage, seconds in attempt.timings.items():
            parts.setdefault(stage, []).append({"seconds": seconds, **_known(attempt.usage.get(stage))})
    stages = {stage: _together(found) for stage, found in parts.items()}
    return {
        "attempts": len(attempts),
        "unmeasured": sum(not attempt.timings for attempt in attempts),
        "stages": stages,
        "total": _together(stages.values()),
    }


def _known(usage: Any) -> dict[str, Any]:
    """Return a stage's usage as far as it is what this module writes."""
    if not isinstance(usage, dict):
        return {"reasons": {name: NOT_MEASURED for name in (*SUMMED, *HIGHEST) if name != "seconds"}}
    known = {name: value for name in (*SUMMED, *HIGHEST) if isinstance(value := usage.get(name), int | float)}
    reasons = usage.get("reasons")
    return known | {"reasons": reasons if isinstance(reasons, dict) else {}}


def _together(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    found = list(parts)
    values = {name: _sum([part.get(name) for part in found]) for name in SUMMED}
    values |= {name: _highest([part.get(name) for part in found]) for name in HIGHEST}
    reasons: dict[str, str] = {}
    for name, value in values.items():
        why = {str(part["reasons"][name]): None for part in found if name in part.get("reasons", {})}
        if value is not None:
            why.pop(NO_GPU, None)  # nothing is missing from the sum
        if why:
            reasons[name] = "; ".join(why)
    return values | {"reasons": reasons}


def _sum(values: Iterable[Any]) -> Any:
    known = [value for value in values if value is not None]
    whole = sum(known)
    return None if not known else whole if isinstance(whole, int) else round(whole, 3)


def _highest(values: Iterable[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)
