"""Ending what should not go on: asking whoever carries an experiment out to stop, and writing down what nobody does.

    asked = stopping.ask(lab / "…/fewshot_8", record)      # a request file, and SIGTERM on this machine
    with stopping.heeding(folder, attempt): …              # in the process that is asked

A process is known by its start as well as its number: what was given the same number later is never hit.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from unsay.errors import ClaimLostError, StoreError
from unsay.records import SCHEMA, Attempt, ExperimentRecord
from unsay.store import claims, layout, read, write

LOOK_EVERY = 5.0
"""Seconds between two looks at the result folder for a request."""

CALLED_OFF = "cancelled with `unsay cancel`"


def ask(experiment: Path, folder: Path, record: ExperimentRecord) -> bool:
    """Ask whoever carries out the last attempt to stop; return whether anybody does.

    `experiment` is the experiment's folder, `folder` that of the result: the same, or its `limit_<n>` folder.
    """
    attempt = record.attempts[-1]
    for each in claims.found(experiment):
        owner = each.owner
        if owner is None or not _answers_for(owner, attempt):
            continue
        if owner.is_here() and not owner.is_there():
            return False
        by = claims.me()
        request = {"schema": SCHEMA, "attempt": attempt.started, "pid": attempt.pid, "by": f"{by.host}:{by.pid}"}
        write.write_json(folder / layout.CANCEL, request)
        if owner.is_here() and owner.pid == attempt.pid:  # else, and where signals are not allowed, it looks by itself
            owner.ask_to_stop()
        return True
    return False


def _answers_for(owner: claims.Owner, attempt: Attempt) -> bool:
    """Say whether a claim's owner carries out an attempt, or holds the folder for whoever does (`holder`)."""
    holder = attempt.hardware.get("holder")
    if isinstance(holder, dict):
        return owner.to_json() == holder
    return (owner.pid, owner.host, owner.boot_id) == (attempt.pid, attempt.host, attempt.boot_id)


def asked(folder: Path) -> str | None:
    """Return why the last attempt in a result folder is to stop, or is called off; None where nobody asked for that."""
    with suppress(StoreError):
        record = read.record(folder)
        if record is not None and is_called_off(record):
            return CALLED_OFF
        if record is not None and record.attempts:
            return _reason(folder / layout.CANCEL, record.attempts[-1])
    return None


def are_called_off(folders: Iterable[Path]) -> bool:
    """Say whether somebody cancelled what one of these folders holds, as far as they can be read."""
    for folder in folders:
        with suppress(StoreError):
            record = read.record(folder)
            if record is not None and is_called_off(record):
                return True
    return False


def is_called_off(record: ExperimentRecord) -> bool:
    """Say whether somebody cancelled an experiment, rather than stopped a run that was at it."""
    last = record.attempts[-1] if record.attempts else None
    stopped = last is not None and last.outcome == "cancelled" and not (last.error or "").startswith(CALLED_OFF)
    return record.status == "cancelled" and not stopped


def close(
    experiment: Path, folder: Path, status: str, error: str, *, of: Sequence[str] = ("running",), wait: float = 0.0
) -> bool:
    """Write down how an experiment ended whose process is gone without a word; `of` names other statuses to end.

    Return whether there was something to write; LockedError where somebody is at work.
    """
    with write.lock(experiment, wait=wait):
        record = read.record(folder)
        if record is None or record.status not in of:
            return False
        attempts = record.attempts
        if attempts and attempts[-1].outcome in (None, "cancelled"):
            said = "; ".join(filter(None, (error, attempts[-1].error)))
            attempts = (*attempts[:-1], replace(attempts[-1], outcome=status, error=said))
        end = datetime.now().astimezone().isoformat(timespec="seconds")
        record = replace(record, status=status, end=end, attempts=attempts)
        write.write_json(folder / layout.EXPERIMENT, record.to_json())
    return True


def put_back(experiment: Path, folder: Path, why: str, *, wait: float = 0.0) -> None:
    """Write down that an experiment whose attempt was stopped waits to be gone on with, and why it was stopped.

    LockedError where somebody is at work.
    """
    with write.lock(experiment, wait=wait):
        record = read.record(folder)
        if record is None or record.status not in ("running", "cancelled") or not record.attempts:
            return
        last = replace(record.attempts[-1], outcome="cancelled", error=why)
        record = replace(record, status="pending", end=None, attempts=(*record.attempts[:-1], last))
        write.write_json(folder / layout.EXPERIMENT, record.to_json())


def await_turn(experiment: Path, folder: Path, *, wait: float = 0.0) -> None:
    """Write down that an experiment which failed or was cancelled waits to be gone on with; LockedError as `close`."""
    with write.lock(experiment, wait=wait):
        record = read.record(folder)
        if record is not None and record.status in ("failed", "cancelled"):
            write.write_json(folder / layout.EXPERIMENT, replace(record, status="pending", end=None).to_json())


@contextmanager
def heeding(folder: Path, attempt: Attempt) -> Iterator[None]:
    """Interrupt this process's main thread when it is asked to stop an attempt, or when its claim was taken over.

    A KeyboardInterrupt that leaves the block says why, whoever raised it.
    """
    request = folder / layout.CANCEL
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK_EVERY):
            if _reason(request, attempt) is not None:
                _interrupt()
                return

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    except KeyboardInterrupt as error:
        why = _reason(request, attempt)
        if why is None:
            raise
        raise KeyboardInterrupt(why) from error
    finally:
        over.set()
        thread.join()
        with suppress(OSError, StoreError):
            claims.check(request)
            request.unlink(missing_ok=True)


def _reason(request: Path, attempt: Attempt) -> str | None:
    """Return why this process is to stop what it carries out; None where it is not."""
    try:
        claims.check(request)
        asked = json.loads(request.read_bytes())
        if (asked["attempt"], asked["pid"]) == (attempt.started, attempt.pid):
            return f"{CALLED_OFF} (by {asked['by']})"
    except ClaimLostError as error:
        return str(error)
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
