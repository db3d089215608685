"""Stopping a command from outside: SIGTERM ends it as Ctrl-C does, with nothing left behind."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(SystemExit):
    """A signal has stopped the program; ``status`` is its exit status."""

    def __init__(self, number: int) -> None:
        self.status = 128 + number
        super().__init__(self.status)


def stop(number: int, frame: FrameType | None) -> None:
    """Unwind the program, once: whatever holds something gives it back on the way."""
    signal.signal(number, signal.SIG_IGN)
    raise Stopped(number)


@contextmanager
def stoppable() -> Iterator[None]:
    """While inside, have SIGTERM raise :class:`Stopped` in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def keeping() -> Iterator[None]:
    """Take SIGTERM back from what is started inside.

    Ray ends the process itself, with a stack of native calls on the console.
    """
    ours = signal.getsignal(signal.SIGTERM) is stop
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, stop)
