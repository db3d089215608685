"""Flower's own simulation engine."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from fedkt.registry import register
from fedkt.simulations.engines.engine import Engine, EngineKind
from fedkt.simulations.engines.population import Population
from fedkt.simulations.experiment.config import RunSection


@register(part="engines")
class OnFlower(EngineKind):
    """Flower's simulation engine, for parity; client state is on disk."""

    name: ClassVar[str] = "flower"
    one_by_one: ClassVar[bool] = True

    def start(self, run: RunSection, population: Population, folder: Path) -> Engine:
        """Return Flower's engine."""
        from fedkt.simulations.engines.flower_engine import FlowerEngine

        scratch = folder / "flower"
        return FlowerEngine(population.spec, population.federation, run.workers, scratch)
