"""How many processor cores this process may use, and how many threads each of several processes gets."""

from __future__ import annotations

import os

OMP_NUM_THREADS = "OMP_NUM_THREADS"
POLITE = ("OMP_WAIT_POLICY", "PASSIVE")
"""Threads that wait for each other without spinning: a little slower alone, much faster beside another busy process.

In effect where it stands in the environment before torch is imported."""


def usable() -> int:
    """Return how many cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share(processes: int) -> int:
    """Return with how many threads each of so many processes computes: of OMP_NUM_THREADS, or of the usable cores."""
    said = os.environ.get(OMP_NUM_THREADS, "")
    return max(1, (int(said) if said.isdecimal() else usable()) // processes)
