"""A small real federation, run in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context
from flwr.serverapp.strategy import Result

from fedkt.clients import Client, LearnerModels, TrainingOptions, client_app
from fedkt.data import Federation, FederationSpec, build_federation
from fedkt.knowledge import Knowledge, Upload, Uploads
from fedkt.machine import one_thread
from fedkt.simulations.engines.grid import InProcessGrid
from fedkt.simulations.engines.population import Population, PopulationSpec
from fedkt.strategies import KnowledgeStrategy, Observer, RoundReport, ServerOptions
from fedkt.wire import weights_of

from .coming import METHODS, Coming

SPEC = FederationSpec(
    clients=4,
    partition="dirichlet:0.5",
    samples_per_client=40,
    public_samples=50,
    test_samples=100,
    seed=3,
)
Adapt = Callable[[Client, int], Client]  # (client, how many messages it has had) -> client


class Watch(Observer):
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.reports: list[RoundReport] = []

    def round_finished(self, report: RoundReport, strategy: KnowledgeStrategy) -> None:
        self.reports.append(deepcopy(report))


@dataclass
class World:
    """A strategy's surroundings: grid, clients, first weights."""

    grid: InProcessGrid
    population: Population
    watch: Watch
    seed: int

    def start(self, strategy: KnowledgeStrategy, rounds: int) -> Result:
        arrays = None
        if strategy.recipe().needs_one_architecture:
            arrays = self.population.initial_arrays(self.seed, strategy.recipe())
        strategy.observers = [self.watch]
        with one_thread():
            return strategy.start(self.grid, arrays, num_rounds=rounds)

    def meet(self, strategy: KnowledgeStrategy) -> Knowledge:
        """Greet the clients for a strategy; return the first weights."""
        arrays = self.population.initial_arrays(self.seed, strategy.recipe())
        strategy.exchange.meet(self.grid, arrays)
        return weights_of(arrays)

    @property
    def reports(self) -> list[RoundReport]:
        return self.watch.reports

    def model_of(self, client: int) -> dict[str, torch.Tensor]:
        return self.grid.snapshot()[client]["learner"]["model"]


@pytest.fixture(scope="session")
def federation() -> Federation:
    return build_federation(SPEC)


@pytest.fixture
def world(federation: Federation) -> Callable[..., World]:
    """Return a maker of worlds; ``adapt`` may change or fail a client as it connects."""

    def make(
        models: Sequence[str] = ("linear",), adapt: Adapt | None = None, **training: Any
    ) -> World:
        spec = PopulationSpec(tuple(models), TrainingOptions(**training))
        population = Population(spec, federation)
        heard: dict[int, int] = {}

        def connect(context: Context) -> Client:
            client = population.connect(context)
            heard[client.id] = heard.get(client.id, 0) + 1
            return client if adapt is None else adapt(client, heard[client.id])

        grid = InProcessGrid(client_app(connect), federation.num_clients)
        return World(grid, population, Watch(), seed=3)

    return make


@pytest.fixture
def with_options(federation: Federation) -> Callable[..., KnowledgeStrategy]:
    """Return a function that gives a strategy its options, and what a server may have."""

    def give(
        strategy: KnowledgeStrategy, model: str = "linear", **options: Any
    ) -> KnowledgeStrategy:
        public = federation.client(0).public
        assert public is not None
        options = {"models": LearnerModels(model), "public": public.x, **options}
        strategy.options = replace(
            ServerOptions(run="a", seed=3, clients=4, quorum="strict"), **options
        )
        return strategy

    return give


@pytest.fixture
def uploads_of() -> Callable[..., Uploads]:
    """Return a function that makes uploads of probabilities (or logits) by client."""

    def make(answers: dict[int, torch.Tensor], kind: Any = "probabilities") -> Uploads:
        return Uploads(
            [Upload(c, 10, {"public": Knowledge.rows(kind, a)}) for c, a in answers.items()]
        )

    return make


@pytest.fixture
def grid_of(federation: Federation, tmp_path: Path) -> Callable[..., Coming]:
    """Return a maker of grids, each with states of its own."""
    made: list[Coming] = []

    def make(*clients: int) -> Coming:
        folder = tmp_path / str(len(made))
        made.append(Coming(federation, folder, clients))
        return made[-1]

    return make


@pytest.fixture
def method_of(with_options: Any) -> Callable[..., KnowledgeStrategy]:
    """Return a maker of strategies that take whoever comes."""

    def make(name: str = "knfu", **options: Any) -> KnowledgeStrategy:
        given = {"clients": 0, "quorum": "majority", "wait": 0.5, **options}
        return with_options(METHODS[name](), **given)

    return make
