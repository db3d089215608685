"""Stopping a command by SIGTERM: it ends as by Ctrl-C, and leaves nothing behind."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(SystemExit):
    """An exit of the program by a signal; ``status`` is the exit status."""

    def __init__(self, number: int) -> None:
        self.status = 128 + number
        super().__init__(self.status)


_received: list[int] = []  # signals that have come


def stop(number: int, frame: FrameType | None) -> None:
    """Raise Stopped for a signal, once: the unwinding program releases its resources."""
    signal.signal(number, signal.SIG_IGN)
    _received.append(number)
    raise Stopped(number)


def check() -> None:
    """Raise :class:`Stopped` if a signal has come.

    An exception raised inside native code can leave it as another error, which looks like a
    client's failure.
    """
    if _received:
        raise Stopped(_received[0])


@contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGTERM raise :class:`Stopped` in the main thread while inside."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        _received.clear()
        signal.signal(signal.SIGTERM, before)


@contextmanager
def keeping() -> Iterator[None]:
    """Restore our handler of SIGTERM after code that replaces it.

    Ray's handler ends the process itself, with a stack of native calls on the console.
    """
    ours = signal.getsignal(signal.SIGTERM) is stop
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, stop)
