"""The simulated clients: their learners, data and cohorts, by node."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import cast

import torch
from flwr.app import ArrayRecord, Context

from fedkt import registry
from fedkt.by_value import Carried
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
from fedkt.clients.learners.making import first_weights, make_learner
from fedkt.clients.learners.probe import Nature
from fedkt.clients.policy import ANYTHING
from fedkt.clients.state import StateStore
from fedkt.data.federation import Federation
from fedkt.data.samples import Samples
from fedkt.recipe import Recipe
from fedkt.wire import arrays_of

# Natures of networks, found by trying them, by network and data.
_natures: dict[Hashable, Nature] = {}
KEPT_BYTES, LEAST_KEPT = 2**30, 16  # size of the cache of clients' data; clients in it at least


@dataclass(frozen=True)
class PopulationSpec:
    """Models and options of the clients, without their data; small, sent to every worker.

    Parameters
    ----------
    models : tuple[str, ...]
        Client i trains ``models[i % len(models)]``.
    training : TrainingOptions
        Options of the training.
    personalised : {"split", "matched"}
        Samples of personalised accuracy; see ``phases.evaluate``.
    extensions : tuple[tuple[str, str], ...]
        Python files of the user with parts (terms, models) that the clients need, each with the
        digest of its content.
    cohorts : tuple[int, ...]
        Size of the cohorts of each of ``models``; 0: one by one. Empty: all one by one.
    device : {"cpu", "cuda"}
        Device of the networks.
    carried : Carried
        Parts of the user's Python session that the clients need; they travel with this object.
    """

    models: tuple[str, ...]
    training: TrainingOptions = field(default_factory=TrainingOptions)
    personalised: str = "split"
    extensions: tuple[tuple[str, str], ...] = ()
    cohorts: tuple[int, ...] = ()
    device: str = "cpu"
    carried: Carried = field(default_factory=Carried)

    def model_of(self, client: int) -> str:
        """Return the reference of a client's model."""
        return self.models[client % len(self.models)]

    def cohort_of(self, client: int) -> int | None:
        """Return the number of a client's cohort, from its id alone; None if it has none."""
        turn, model = divmod(client, len(self.models))
        size = self.cohorts[model] if self.cohorts else 0
        return turn // size * len(self.models) + model if size else None

    def seat_of(self, client: int, workers: int) -> int:
        """Return the worker of a client; a cohort has one worker."""
        cohort = self.cohort_of(client)
        return (client if cohort is None else cohort) % workers


class Population:
    """The clients of a federation, in one process.

    Parameters
    ----------
    spec : PopulationSpec
        Models and options of the clients.
    federation : Federation
        Data of the clients.

    Raises
    ------
    ConfigError
        If one of the user's files is missing or its content has changed since planning.
    """

    def __init__(self, spec: PopulationSpec, federation: Federation) -> None:
        self.spec, self.federation = spec, federation
        self._load_files()
        self._learners: dict[str, Learner] = {}
        # The clients' own data as tensors, up to a gigabyte.
        size = 4 * math.prod(federation.input_shape) * len(federation.rows)
        fitting = federation.num_clients * KEPT_BYTES // max(size, 1)
        self._data = lru_cache(maxsize=max(LEAST_KEPT, fitting))(federation.client)

    def learner(self, reference: str) -> Learner:
        """Return the learner of a model in this process; all its clients share it."""
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
        how = spec.training, spec.personalised, ANYTHING
        return Client(client, learner, self._data(client), *how)

    def connect(self, context: Context) -> Client:
        """Return the client of a simulated node."""
        return self.client(_number(context))

    def cohort_of(self, context: Context) -> int | None:
        """Return the number of the cohort of a simulated node's client; None if it has none."""
        return self.spec.cohort_of(_number(context))

    def app(self, store: StateStore | None = None) -> KnowledgeClientApp:
        """Return the ClientApp of these clients."""
        return client_app(self.connect, store, self.cohort_of)

    def initial_arrays(self, seed: int, recipe: Recipe | None = None) -> ArrayRecord:
        """Return the first global weights, made with the first model of the federation."""
        learner = self.learner(self.spec.models[0])
        return arrays_of(first_weights(learner, recipe or Recipe(), seed, SERVER))


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
    network: TorchLearner | None = learner.as_network()
    if network is not None:
        key = network.build, federation.token
        network.tried = _natures.get(key)
        _natures[key] = network.nature(some_samples(federation).x)
    return learner


@lru_cache(maxsize=2)
def some_samples(federation: Federation) -> Samples:
    """Return a few training samples of the first clients, the same in every process."""
    parts: list[Samples] = []
    for client in range(federation.num_clients):
        train = federation.client(client).train
        parts.append(train.select(torch.arange(min(len(train), SAMPLES))))
        if sum(map(len, parts)) >= SAMPLES:
            break
    x = torch.cat([part.x for part in parts])[:SAMPLES]
    y = torch.cat([part.y for part in parts if part.y is not None])[:SAMPLES]
    return Samples(x, y, torch.arange(len(x)))
