"""What SIGINT (Ctrl-C), SIGTERM and SIGHUP do to a run: its experiments are asked to stop, and nothing begins after it.

with Interrupt() as interrupt:
    interrupt.stop_too(running)
    running.wait()
    interrupt.leave(running)
    if interrupt.asked: …
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Self

from unsay.executors import Stoppable

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupt:
    """Takes these signals while it is entered; outside the main thread, and where they are ignored, it leaves them.

    Where nothing runs that could be asked, KeyboardInterrupt is raised, once: a second signal never hits what writes
    down that it was stopped. A second Ctrl-C ends a job that is slow to stop.
    """

    def __init__(self) -> None:
        self.asked: str | None = None
        """The name of the first signal that came."""
        self._running: list[Stoppable] = []
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

    def stop_too(self, running: Stoppable) -> None:
        """Ask this job to stop, from here on, when a signal comes or came."""
        self._running.append(running)
        if self.asked:
            running.cancel()

    def leave(self, running: Stoppable) -> None:
        """Forget a job that has ended."""
        self._running.remove(running)

    def _come(self, signum: int, frame: FrameType | None) -> None:
        again = self.asked is not None
        self.asked = self.asked or signal.Signals(signum).name
        if not self._running and not again:
            raise KeyboardInterrupt(f"stopped by {self.asked}")
        for running in tuple(self._running):
            if again and signum == signal.SIGINT:
                running.kill()
            else:
                running.cancel()
