"""The engine in this process."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from fedkt.clients import FileStore
from fedkt.registry import register
from fedkt.simulations.engines.engine import Engine, EngineKind
from fedkt.simulations.engines.grid import InProcessGrid
from fedkt.simulations.engines.population import Population
from fedkt.simulations.experiment.config import RunSection


@register(part="engines")
class InProcess(EngineKind):
    """All clients in this process, one cohort or client after the other."""

    name: ClassVar[str] = "in-process"
    many_runs: ClassVar[bool] = True

    def start(self, run: RunSection, population: Population, folder: Path) -> Engine:
        """Return a grid in this process."""
        store = FileStore(folder / "state", durable=False) if run.state == "disk" else None
        return InProcessGrid(population.app(store), population.federation.num_clients)
