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


_asked: list[int] = []  # signals that have come


def stop(number: int, frame: FrameType | None) -> None:
    """Unwind the program, once: whatever holds something gives it back on the way."""
    signal.signal(number, signal.SIG_IGN)
    _asked.append(number)
    raise Stopped(number)


def check() -> None:
    """Raise :class:`Stopped` if the program has been asked to stop.

    What is raised in the midst of native code can come out of it as another error, which may be
    taken for a client's failure.
    """
    if _asked:
        raise Stopped(_asked[0])


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
        _asked.clear()
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
