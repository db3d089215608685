"""Small real data and learners."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from fedkt.clients import TorchLearner, TrainingOptions, Work
from fedkt.data import ClientData, Federation, FederationSpec, Samples, build_federation
from fedkt.knowledge import Knowledge
from fedkt.models import build_model


@pytest.fixture(scope="session")
def federation() -> Federation:
    return build_federation(
        FederationSpec(
            clients=3,
            partition="dirichlet:0.5",
            samples_per_client=41,
            public_samples=50,
            test_samples=100,
            seed=5,
        )
    )


@pytest.fixture
def data(federation: Federation) -> ClientData:
    """A client with 41 training samples (a batch of one is left over at size 8)."""
    return federation.client(1)


@pytest.fixture
def work_on() -> Callable[..., Work]:
    """Return a maker of Work; other keywords are TrainingOptions."""

    def make(
        data: ClientData,
        knowledge: dict[str, Knowledge] | None = None,
        round_: int = 1,
        seed: int = 7,
        client: int = 1,
        **options: Any,
    ) -> Work:
        return Work(data, knowledge or {}, TrainingOptions(**options), seed, round_, client)

    return make


@pytest.fixture
def learner_of() -> Callable[..., TorchLearner]:
    """Return a maker of torch learners, by model name or by a function that builds a module."""

    def make(model: Any = "mlp", shape: tuple[int, ...] = (1, 8, 8), classes: int = 10):
        def by_name() -> torch.nn.Module:
            return build_model(model, shape, classes)

        name = model if isinstance(model, str) else "own"
        learner = TorchLearner(by_name if isinstance(model, str) else model, classes, name)
        learner.reset(7, 1)
        return learner

    return make


@pytest.fixture
def empty() -> Samples:
    return Samples(
        torch.zeros(0, 1, 8, 8),
        torch.zeros(0, dtype=torch.int64),
        torch.zeros(0, dtype=torch.int64),
    )
