"""The engines of a run: our grids in this process or on Ray, and Flower's own simulation."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from flwr.serverapp import ServerApp

from fedkt.clients import FileStore
from fedkt.clients.state import ClientState
from fedkt.simulations.engines.grid import InProcessGrid
from fedkt.simulations.engines.population import Population
from fedkt.simulations.experiment.config import RunSection


class Engine(Protocol):
    """An engine: it runs a ServerApp over simulated clients and holds their state."""

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


@contextmanager
def opened(run: RunSection, population: Population, folder: Path) -> Iterator[Engine]:
    """Return the engine of an experiment; it is closed on leaving.

    Parameters
    ----------
    run : RunSection
        Section of the experiment with grid, workers and store of state.
    population : Population
        The clients.
    folder : Path
        The run directory; it holds client state on disk until the engine is closed.
    """
    _clear(folder)  # files of a run that was killed
    try:
        engine = _engine(run, population, folder)
        try:
            yield engine
        finally:
            engine.close()
    finally:
        _clear(folder)


def _engine(run: RunSection, population: Population, folder: Path) -> Engine:
    federation = population.federation
    state = folder / "state" if run.state == "disk" else None
    if run.grid == "in-process":
        store = FileStore(state) if state else None
        return InProcessGrid(population.app(store), federation.num_clients)
    if run.grid == "ray":
        from fedkt.simulations.engines.ray_grid import RayGrid

        return RayGrid(population.spec, federation, run.workers, run.address, state)
    from fedkt.simulations.engines.flower_engine import FlowerEngine

    return FlowerEngine(population.spec, federation, run.workers, folder / "flower")


def _clear(folder: Path) -> None:
    for scratch in ("flower", "state"):
        shutil.rmtree(folder / scratch, ignore_errors=True)
