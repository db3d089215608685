"""Engines: the base of their kinds, and the engine of a run, which is opened and closed here."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import ClassVar, Protocol

from flwr.serverapp import ServerApp

from fedkt import registry
from fedkt.clients.state import ClientState
from fedkt.simulations.engines.population import Population
from fedkt.simulations.experiment.config import RunSection

Progress = Callable[[int, int], None]  # messages handled, messages in all


class Engine(Protocol):
    """An engine: it runs a ServerApp over simulated clients and holds their state.

    Attributes
    ----------
    on_progress : callable, optional
        A function of the number of clients that are done and of all, for engines that count them.
    """

    on_progress: Progress | None

    def run_server(self, server_app: ServerApp) -> None:
        """Run a ServerApp to its end; its exceptions are raised here."""
        ...

    def snapshot(self) -> dict[int, ClientState]:
        """Return all client state."""
        ...

    def restore(self, states: dict[int, ClientState]) -> None:
        """Replace all client state."""
        ...

    def close(self) -> None:
        """Release the resources of the engine."""
        ...


class EngineKind(ABC):
    """Base of the kinds of engines, which are registered classes without options.

    Attributes
    ----------
    one_by_one : bool
        Whether clients get their messages one by one, so that there are no cohorts.
    many_runs : bool
        Whether whole runs may go at once, each in a process of its own.
    """

    part: ClassVar[str] = "engines"
    one_by_one: ClassVar[bool] = False
    many_runs: ClassVar[bool] = False

    @abstractmethod
    def start(self, run: RunSection, population: Population, folder: Path) -> Engine:
        """Return a new engine.

        Parameters
        ----------
        run : RunSection
            Section of the experiment with workers and the store of state.
        population : Population
            The clients.
        folder : Path
            The run directory. What an engine keeps in its folders ``state`` and ``flower`` is
            deleted after the run.
        """

    def session(self, run: RunSection, workers: int) -> AbstractContextManager[None]:
        """Keep what several runs on this kind of engine share; nothing by default."""
        return nullcontext()


def kind_of(run: RunSection) -> EngineKind:
    """Return the kind of engine that an experiment runs on."""
    kind: EngineKind = registry.lookup("engines", run.grid)()
    return kind


@contextmanager
def opened(run: RunSection, population: Population, folder: Path) -> Iterator[Engine]:
    """Return the engine of an experiment; it is closed on leaving.

    Parameters
    ----------
    run : RunSection
        Section of the experiment with grid, workers and store of state; a grid is a kind of engine.
    population : Population
        The clients.
    folder : Path
        The run directory; it holds client state on disk until the engine is closed.
    """
    _clear(folder)  # files of a run that was killed
    try:
        engine = kind_of(run).start(run, population, folder)
        try:
            yield engine
        finally:
            engine.close()
    finally:
        _clear(folder)


def _clear(folder: Path) -> None:
    for scratch in ("flower", "state"):
        shutil.rmtree(folder / scratch, ignore_errors=True)
