"""What SIGINT (Ctrl-C), SIGTERM and SIGHUP do to a run: its experiment is asked to stop, and nothing begins after it.

with Interrupt() as interrupt:
    with interrupt.stopping(running):
        running.wait()
    if interrupt.asked: …
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

from unsay.executors import Running

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupt:
    """Takes these signals while it is entered; outside the main thread, and where they are ignored, it leaves them.

    Where nothing runs that could be asked, KeyboardInterrupt is raised, once: a second signal never hits what writes
    down that it was stopped. A second Ctrl-C ends a job that is slow to stop.
    """

    def __init__(self) -> None:
        self.asked: str | None = None
        """The name of the first signal that came."""
        self._running: Running | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for each in _SIGNALS:
                if signal.getsignal(each) != signal.SIG_IGN:  # as `nohup` wants it
                    self._before[each] = signal.signal(each, self._come)
        return self

    def __exit__(self, *_: object) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)

    @contextmanager
    def stopping(self, running: Running) -> Iterator[None]:
        """Ask this job to stop, from here on, when a signal comes or came."""
        self._running = running
        if self.asked:
            running.cancel()
        try:
            yield
        finally:
            self._running = None

    def _come(self, signum: int, frame: FrameType | None) -> None:
        again = self.asked is not None
        self.asked = self.asked or signal.Signals(signum).name
        if self._running is None:
            if not again:
                raise KeyboardInterrupt(f"stopped by {self.asked}")
        elif again and signum == signal.SIGINT:
            self._running.kill()
        else:
            self._running.cancel()
