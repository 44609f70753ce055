"""Ending what should not go on: asking whoever carries an experiment out to stop, and writing down what nobody does.

    asked = stopping.ask(lab / "…/fewshot_8", record)      # SIGTERM on this machine, a request file for another one
    with stopping.heeding(folder, attempt): …              # in the process that is asked

A process is known by its start as well as its number: what was given the same number later is never hit.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from unsay.errors import ClaimLostError, StoreError
from unsay.records import SCHEMA, Attempt, ExperimentRecord
from unsay.store import claims, layout, read, write

LOOK_EVERY = 5.0
"""Seconds between two looks at the result folder for a request."""

_asked: list[str] = []


def ask(experiment: Path, folder: Path, record: ExperimentRecord) -> str | None:
    """Ask whoever carries out the last attempt to stop: return how (`signal` or `request`), None where nobody does.

    `experiment` is the experiment's folder, `folder` that of the result: the same, or its `limit_<n>` folder.
    """
    attempt = record.attempts[-1]
    for each in claims.found(experiment):
        owner = each.owner
        if owner is None or (owner.pid, owner.host, owner.boot_id) != (attempt.pid, attempt.host, attempt.boot_id):
            continue
        if owner.is_here() and not owner.is_there():
            return None
        if owner.is_here() and owner.ask_to_stop():
            return "signal"
        by = claims.me()
        request = {"schema": SCHEMA, "attempt": attempt.started, "pid": attempt.pid, "by": f"{by.host}:{by.pid}"}
        write.write_json(folder / layout.CANCEL, request)
        return "request"
    return None


def close(experiment: Path, folder: Path, status: str, error: str, *, wait: float = 0.0) -> bool:
    """Write down how an experiment ended that was never begun, or whose process is gone without a word.

    Return whether there was something to write; LockedError where somebody is at work.
    """
    with write.lock(experiment, wait=wait):
        record = read.record(folder)
        if record is None or record.status not in ("pending", "running"):
            return False
        attempts = record.attempts
        if record.status == "running" and attempts and attempts[-1].outcome is None:
            attempts = (*attempts[:-1], replace(attempts[-1], outcome=status, error=error))
        end = datetime.now().astimezone().isoformat(timespec="seconds")
        record = replace(record, status=status, end=end, attempts=attempts)
        write.write_json(folder / layout.EXPERIMENT, record.to_json())
    return True


def reason() -> str | None:
    """Return why this process asked itself to stop; None where it did not."""
    return _asked[-1] if _asked else None


@contextmanager
def heeding(folder: Path, attempt: Attempt) -> Iterator[None]:
    """Interrupt this process's main thread when it is asked to stop an attempt, or when its claim was taken over."""
    path = folder / layout.CANCEL
    over = threading.Event()
    _asked.clear()

    def look() -> None:
        while not over.wait(LOOK_EVERY):
            why = _request(path, attempt)
            try:
                claims.check(path)
            except ClaimLostError as error:
                why = str(error)
            except OSError:
                continue
            if why is not None:
                _asked.append(why)
                _interrupt()
                return

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        with suppress(OSError, StoreError):
            claims.check(path)
            path.unlink(missing_ok=True)


def _request(path: Path, attempt: Attempt) -> str | None:
    try:
        asked = json.loads(path.read_bytes())
        if (asked["attempt"], asked["pid"]) == (attempt.started, attempt.pid):
            return f"cancelled with `unsay cancel` (by {asked['by']})"
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _interrupt() -> None:
    kind = signal.SIGTERM if callable(signal.getsignal(signal.SIGTERM)) else signal.SIGINT
    main = threading.main_thread().ident
    if main is not None:  # that very thread: it may be waiting for something
        signal.pthread_kill(main, kind)
    else:
        os.kill(os.getpid(), kind)
