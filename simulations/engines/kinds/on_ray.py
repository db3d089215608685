"""The engine on Ray."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar

from fedkt.registry import register
from fedkt.simulations.engines.engine import Engine, EngineKind
from fedkt.simulations.engines.population import Population
from fedkt.simulations.experiment.config import RunSection


@register(part="engines")
class OnRay(EngineKind):
    """Workers on Ray, on this machine or on a cluster."""

    name: ClassVar[str] = "ray"

    def start(self, run: RunSection, population: Population, folder: Path) -> Engine:
        """Return a grid on Ray."""
        from fedkt.simulations.engines.ray_grid import RayGrid

        state = folder / "state" if run.state == "disk" else None
        spec, federation = population.spec, population.federation
        return RayGrid(spec, federation, run.workers, run.address, state)

    def session(self, run: RunSection, workers: int) -> AbstractContextManager[None]:
        """Keep one Ray for several runs."""
        from fedkt.simulations.engines.ray_session import session

        return session(workers, run.address)
