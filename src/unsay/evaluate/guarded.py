"""Run a command that must not outlive whoever started it.

    python -m unsay.evaluate.guarded COMMAND…      # ends, with everything the command started, when its input closes

The command gets an environment without what this interpreter's is bent by, as it may be another environment's Python.
What it prints goes on to standard output without secrets (`unsay.redaction`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from typing import Any

from unsay.redaction import redact

GRACE = 10.0
"""Seconds between asking the command to end and ending it."""
_OWN = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")


def main() -> int:
    environment = {name: value for name, value in os.environ.items() if name not in _OWN}
    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(each, _stop)
    # A session of its own: its processes can be ended together, and a Ctrl-C in a terminal does not reach them first.
    command = subprocess.Popen(
        sys.argv[1:],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,
    )
    threading.Thread(target=_watch_input, daemon=True).start()
    printing = threading.Thread(target=_pass_on, args=[command], daemon=True)
    printing.start()
    try:
        code = command.wait()
        printing.join(GRACE)
        return code if code >= 0 else 128 - code  # as a shell says it: 137 is killed
    finally:
        for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(each, signal.SIG_IGN)
        _end(command)


def _end(command: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(command.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        command.wait(GRACE)
    # What it has started may still be there, whether or not itself has gone.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(command.pid, signal.SIGKILL)
    command.wait()


def _pass_on(command: subprocess.Popen[bytes]) -> None:
    assert command.stdout is not None
    for line in command.stdout:
        sys.stdout.buffer.write(redact(line.decode("utf-8", "replace")).encode("utf-8", "replace"))
        sys.stdout.buffer.flush()


def _watch_input() -> None:
    """End this process when its input closes: whoever started it is gone, or wants it to end."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _stop(signum: int, frame: Any) -> None:
    raise SystemExit(128 + signum)


if __name__ == "__main__":
    sys.exit(main())
