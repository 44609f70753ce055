"""What an experiment took, summed over its attempts, in words and numbers.

costs.of(entry)["total"]["tokens_read"]
costs.lines(entry)     # ['1 h 02 min in 3 attempts, GPU 3,600 s, …', 'train: 50 min, 1,234,567 tokens read, …']
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unsay import accounting
from unsay.store import read
from unsay.store.read import Entry


def of(entry: Entry) -> dict[str, Any] | None:
    """Return what `unsay.accounting.total` says of all attempts, the running one included; None before the first."""
    record = entry.record
    if record is None or not record.attempts:
        return None
    attempts = record.attempts
    if attempts[-1].ended is None:
        attempts = accounting.with_heartbeat(attempts, read.heartbeat(entry.folder), ended=False)
    return accounting.total(attempts)


def lines(entry: Entry) -> list[str]:
    """Say what it took, and each stage of it; nothing where no attempt was measured, as of what other tools made."""
    spent = of(entry)
    if spent is None or not spent["stages"]:
        return []
    count = f"in {spent['attempts']} attempt{'s' if spent['attempts'] > 1 else ''}"
    if spent["unmeasured"]:
        count += f" ({spent['unmeasured']} of them not measured)"
    whole = f"{duration(spent['total']['seconds'])} {count}"
    stages = [f"{name}: {', '.join(_said(part, _TOKENS))}" for name, part in spent["stages"].items()]
    return [", ".join([whole, *_said(spent["total"], {})[1:]]), *stages]


_TOKENS = {"tokens_read": "tokens read", "tokens_written": "written", "tokens_taken_back": "taken back"}


def _said(part: Mapping[str, Any], tokens: Mapping[str, str]) -> list[str]:
    counts = [f"{part[name]:,} {words}" for name, words in tokens.items() if part[name] is not None]
    return [duration(part["seconds"]), *counts, *_gpu(part), *_memory(part)]


def duration(seconds: float) -> str:
    """Show seconds as people say them."""
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    return f"{hours:,} h {rest:02} min" if hours < 24 else f"{hours:,} h"


def _gpu(part: Mapping[str, Any]) -> list[str]:
    seconds, energy, reasons = part["gpu_seconds"], part["energy_joules"], part["reasons"]
    if seconds is None:
        why = reasons.get("gpu_seconds")
        return [f"GPU time not known ({why})"] if why not in (None, accounting.NOT_MEASURED) else []
    if not seconds:
        return []
    why = reasons.get("energy_joules", "")
    if energy is None:
        return [f"GPU {seconds:,.0f} s", f"energy not known ({why})"]
    return [f"GPU {seconds:,.0f} s", f"{energy / 3.6e6:,.3g} kWh" + (f" of a part ({why})" if why else "")]


def _memory(part: Mapping[str, Any]) -> list[str]:
    host, gpu = part["peak_memory_bytes"], part["peak_gpu_memory_bytes"]
    if not host:
        return []
    return [f"{_size(host)} of memory" + (f" and {_size(gpu)} of a GPU's" if gpu else "")]


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 0.95 * 2**30 else f"{count / 2**20:.0f} MiB"
