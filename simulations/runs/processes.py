"""Work on many items in several processes, and the error for a process that died."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from typing import TypeVar

from fedkt.by_value import Carried
from fedkt.errors import ConfigError, FedktError, RunFailedError
from fedkt.simulations.engines.stopping import Stopped, stop

STOPPING = signal.SIGTERM, signal.SIGINT
UNGUARDED = (
    "The processes of the comparison end before they begin: each imports the script that runs, "
    'so a script must compare under: if __name__ == "__main__":'
)

NOTHING = Carried()

Item = TypeVar("Item")
Done = TypeVar("Done")


def in_processes(
    act: Callable[[Item], Done], items: Sequence[Item], processes: int, carried: Carried = NOTHING
) -> Iterator[tuple[Item, Done]]:
    """Yield each item with its result, in the order in which they finish.

    Parameters
    ----------
    act : callable
        The function of an item; it is sent to the processes, as the items are.
    items : Sequence
        The items.
    processes : int
        How many processes at most.
    carried : Carried
        Parts of this Python session that they need.

    Raises
    ------
    ConfigError
        If no process can begin: each imports the script that runs, which must be guarded.
    RunFailedError
        If a process dies, with what it died of.
    """
    # Asked before any semaphore is made: a process that is killed while it imports the script
    # would leave its own behind, with a warning after the last line.
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise ConfigError(UNGUARDED)
    context = multiprocessing.get_context("spawn")  # a fork would inherit locks of torch's threads
    begun, earlier = context.Event(), set(multiprocessing.active_children())
    children: list[BaseProcess] = []
    pool = ProcessPoolExecutor(processes, context, initializer=_begin, initargs=(begun, carried))
    try:
        futures: dict[Future[Done], Item] = {pool.submit(_act, act, i): i for i in items}
        children += [c for c in multiprocessing.active_children() if c not in earlier]
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        pool.shutdown()  # from here on every exit status is known
        raise _death(children, begun.is_set()) from error
    except BaseException:  # stopped, or the disk is full: do not wait for the others
        for child in children:
            child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(begun: Event, carried: Carried) -> None:
    """Prepare a process: signals raise in it, so that nothing is left behind.

    The carried parts have been registered when they arrived.
    """
    for number in STOPPING:
        signal.signal(number, stop)
    begun.set()


def _act(act: Callable[[Item], Done], item: Item) -> Done:
    if signal.SIG_IGN in map(signal.getsignal, STOPPING):  # stopped between two items
        os._exit(128 + signal.SIGTERM)
    try:
        return act(item)
    except Stopped as stopped:  # the pool would go on with the next item
        os._exit(stopped.status)


def _death(children: Sequence[BaseProcess], begun: bool) -> FedktError:
    """Return the error for a process that died by itself: the pool stops the others."""
    stopped = -signal.SIGTERM, 128 + signal.SIGTERM
    codes = sorted((c.exitcode for c in children if c.exitcode), key=lambda code: code in stopped)
    code = codes[0] if codes else None
    if not begun:
        return ConfigError(UNGUARDED)
    if code is None:
        return RunFailedError("A process of the comparison ended.")
    if code > 0:
        return RunFailedError(f"A process of the comparison ended with exit status {code}.")
    memory = ", as when memory runs out" if -code == signal.SIGKILL else ""
    name = signal.Signals(-code).name
    return RunFailedError(f"A process of the comparison was killed by {name}{memory}.")
