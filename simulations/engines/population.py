"""The simulated clients: who a node is, and what it trains on what."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import cast

import torch
from flwr.app import ArrayRecord, Context

from fedkt import registry
from fedkt.clients import (
    Client,
    KnowledgeClientApp,
    TorchLearner,
    TrainingOptions,
    client_app,
)
from fedkt.clients.cohorts.trial import SAMPLES
from fedkt.clients.learners.at_server import SERVER
from fedkt.clients.learners.base import Learner
from fedkt.clients.learners.making import make_learner
from fedkt.clients.learners.probe import Nature
from fedkt.clients.state import StateStore
from fedkt.data.federation import Federation
from fedkt.data.samples import Samples
from fedkt.recipe import Recipe
from fedkt.wire import arrays_of

# What trying a network has shown, by network and data.
_natures: dict[Hashable, Nature] = {}
KEPT_BYTES, LEAST_KEPT = 2**30, 16  # of clients' data as tensors; clients kept at least


@dataclass(frozen=True)
class PopulationSpec:
    """What the clients are, apart from their data; small, travels to every worker.

    Parameters
    ----------
    models : tuple[str, ...]
        Client i trains ``models[i % len(models)]``.
    training : TrainingOptions
        How they train.
    personalised : {"split", "matched"}
        How personalised accuracy is measured.
    extensions : tuple[tuple[str, str], ...]
        Python files of the user's whose parts (terms, models) the clients need, each with the
        digest of its content.
    cohorts : tuple[int, ...]
        For each of ``models`` how many clients train together; 0: one by one. Empty: all so.
    device : {"cpu", "cuda"}
        Where networks compute.
    """

    models: tuple[str, ...]
    training: TrainingOptions = field(default_factory=TrainingOptions)
    personalised: str = "split"
    extensions: tuple[tuple[str, str], ...] = ()
    cohorts: tuple[int, ...] = ()
    device: str = "cpu"

    def model_of(self, client: int) -> str:
        """Return the reference of a client's model."""
        return self.models[client % len(self.models)]

    def cohort_of(self, client: int) -> int | None:
        """Return the number of a client's cohort, which depends on its id alone."""
        turn, model = divmod(client, len(self.models))
        size = self.cohorts[model] if self.cohorts else 0
        return turn // size * len(self.models) + model if size else None

    def seat_of(self, client: int, workers: int) -> int:
        """Return the worker that a client lives in: a cohort stays together."""
        cohort = self.cohort_of(client)
        return (client if cohort is None else cohort) % workers


class Population:
    """The clients of a federation, in one process.

    Parameters
    ----------
    spec : PopulationSpec
        What they are.
    federation : Federation
        Their data.

    Raises
    ------
    ConfigError
        If one of the user's files is not here or has another content than the one planned with.
    """

    def __init__(self, spec: PopulationSpec, federation: Federation) -> None:
        self.spec, self.federation = spec, federation
        self._load_files()
        self._learners: dict[str, Learner] = {}
        # Tensors of the clients' own data, as far as they take no more than a gigabyte.
        size = 4 * math.prod(federation.input_shape) * len(federation.rows)
        fitting = federation.num_clients * KEPT_BYTES // max(size, 1)
        self._data = lru_cache(maxsize=max(LEAST_KEPT, fitting))(federation.client)

    def learner(self, reference: str) -> Learner:
        """Return this process's learner for a model; it serves all clients that have it."""
        if reference not in self._learners:
            self._load_files()
            self._learners[reference] = learner_for(reference, self.federation, self.spec.device)
        return self._learners[reference]

    def _load_files(self) -> None:
        for file, digest in self.spec.extensions:
            registry.load_file(file, digest)

    def client(self, client: int) -> Client:
        """Return a client."""
        spec = self.spec
        learner = self.learner(spec.model_of(client))
        return Client(client, learner, self._data(client), spec.training, spec.personalised)

    def connect(self, context: Context) -> Client:
        """Return the client a simulated node stands for."""
        return self.client(_number(context))

    def cohort_of(self, context: Context) -> int | None:
        """Return the cohort of the client a simulated node stands for."""
        return self.spec.cohort_of(_number(context))

    def app(self, store: StateStore | None = None) -> KnowledgeClientApp:
        """Return the ClientApp of these clients."""
        return client_app(self.connect, store, self.cohort_of)

    def initial_arrays(self, seed: int, recipe: Recipe | None = None) -> ArrayRecord:
        """Return the first global weights of a federation of one torch architecture."""
        recipe = recipe or Recipe()
        learner = self.learner(self.spec.models[0])
        learner.follow(recipe)
        learner.reset(seed, SERVER)
        local_norms = any(s.kind == "weights" and not s.whole_model for s in recipe.share)
        return arrays_of(learner.weights(local_norms))


def _number(context: Context) -> int:
    return int(cast(int, context.node_config["partition-id"]))


def learner_for(reference: str, federation: Federation, device: str = "cpu") -> Learner:
    """Return a learner for a federation's clients; a network is tried on some of their samples.

    Raises
    ------
    ConfigError
        If it cannot serve several clients; see :func:`fedkt.clients.learners.probe.examine`.
    """
    learner = make_learner(reference, federation.input_shape, federation.num_classes, device)
    if isinstance(learner, TorchLearner):
        key = learner.build, federation.token
        learner.tried = _natures.get(key)
        _natures[key] = learner.nature(some_samples(federation).x)
    return learner


@lru_cache(maxsize=2)
def some_samples(federation: Federation) -> Samples:
    """Return a few training samples of the first clients, the same in every process."""
    found: list[Samples] = []
    for client in range(federation.num_clients):
        own = federation.client(client).train
        found.append(own.select(torch.arange(min(len(own), SAMPLES))))
        if sum(map(len, found)) >= SAMPLES:
            break
    x = torch.cat([own.x for own in found])[:SAMPLES]
    y = torch.cat([own.y for own in found if own.y is not None])[:SAMPLES]
    return Samples(x, y, torch.arange(len(x)))
