"""Clocks and memory over a process and all its descendants, from Linux's /proc."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROC = Path("/proc")
TICK = os.sysconf("SC_CLK_TCK")
MB = 1024 * 1024


def tree() -> list[int]:
    """Return the ids of this process's descendants, however deep."""
    children: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, waiting = [], [os.getpid()]
    while waiting:
        own = children.get(waiting.pop(), [])
        found += own
        waiting += own
    return found


def cpu_seconds() -> float:
    """Return the CPU seconds that this process and its descendants have used so far.

    Descendants that have ended count as far as their parents have taken note of it.
    """
    spent = time.process_time() + sum(os.times()[2:4])
    for pid in tree():
        if fields := _stat(pid):
            # user, system, and both of ended children, in clock ticks
            spent += sum(int(f) for f in fields[11:15]) / TICK
    return spent


def _stat(pid: int) -> list[str]:
    """Return the fields of ``/proc/PID/stat`` behind the name; nothing of a process that is gone.

    The state is field 0, the parent 1, the four times 11 to 14.
    """
    try:
        text = (PROC / str(pid) / "stat").read_text(encoding="utf-8")
    except OSError:
        return []
    return text.rpartition(")")[2].split()


class Laps:
    """Takes the clocks at the end of every round.

    Parameters
    ----------
    **extra
        Further counters by name, read at the same moments.
    """

    def __init__(self, **extra: Callable[[], float]) -> None:
        self._read = {"cpu": cpu_seconds, "wall": time.perf_counter, **extra}
        self._marks: list[dict[str, float]] = []

    def mark(self) -> None:
        """End a round."""
        self._marks.append({name: read() for name, read in self._read.items()})

    def result(self, rounds: int) -> dict[str, Any]:
        """Return what a round costs: the mean of all after the first.

        Raises
        ------
        RuntimeError
            If there were not as many rounds as expected.
        """
        if len(self._marks) != rounds or rounds < 2:
            raise RuntimeError(f"{len(self._marks)} rounds were marked, {rounds} were to be.")
        first, last = self._marks[0], self._marks[-1]
        return {name: (last[name] - first[name]) / (rounds - 1) for name in self._read}


def peak_mb() -> float:
    """Return the largest resident memory of this process and each living descendant, summed.

    An upper bound: not all have had their peak at one time, and shared pages count for each.
    """
    return sum(_status(pid, "VmHWM") for pid in (os.getpid(), *tree()))


def resident_mb() -> float:
    """Return this process's resident memory."""
    return _status(os.getpid(), "VmRSS")


def forget_peak() -> None:
    """Let this process's peak begin anew at what it holds now."""
    (PROC / "self" / "clear_refs").write_text("5", encoding="utf-8")


def own_peak_mb() -> float:
    """Return this process's largest resident memory since :func:`forget_peak`."""
    return _status(os.getpid(), "VmHWM")


def _status(pid: int, key: str) -> float:
    try:
        lines = (PROC / str(pid) / "status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0.0
    found = [line.split()[1] for line in lines if line.startswith(f"{key}:")]
    return int(found[0]) * 1024 / MB if found else 0.0


def _proportional(pid: int) -> float:
    """Return a process's resident memory; of shared pages only its part."""
    try:
        lines = (PROC / str(pid) / "smaps_rollup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0.0
    found = [line.split()[1] for line in lines if line.startswith("Pss:")]
    return int(found[0]) * 1024 / MB if found else 0.0


@contextmanager
def memory_watch(seconds: float = 1.0) -> Iterator[list[float]]:
    """Yield a list that grows by the memory in MB of all processes together, once in a while."""
    found: list[float] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(seconds):
            found.append(sum(_proportional(pid) for pid in (os.getpid(), *tree())))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()
