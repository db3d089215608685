"""A learner at the server: the same models and the same training loop as at the clients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fedkt.clients.learners.base import Learner, Work
from fedkt.data.samples import ClientData, Samples
from fedkt.errors import ConfigError
from fedkt.knowledge import Knowledge
from fedkt.recipe import Recipe, Train
from fedkt.training import TrainingOptions

SERVER = -1  # no client has this id; it names the server's random streams


class LearnerServerModel:
    """The server's own model: a learner and unlabelled samples.

    Parameters
    ----------
    learner : Learner
        The learner; only the server may use it, because it is not reloaded before every use.
    x : Tensor
        The server's samples, float32 ``[M, ...]``.
    recipe : Recipe
        Recipe of the method, for its heads.
    seed : int
        The seed of the run.
    options : TrainingOptions
        Options of its training.

    Raises
    ------
    ConfigError
        If there are no samples.
    """

    def __init__(
        self,
        learner: Learner,
        x: Tensor,
        recipe: Recipe,
        seed: int = 0,
        options: TrainingOptions | None = None,
    ) -> None:
        if not len(x):
            raise ConfigError("The server has no samples to work on.")
        self._learner, self._seed = learner, seed
        self._options = options or TrainingOptions()
        nothing = Samples(x[:0], torch.zeros(0, dtype=torch.int64), torch.arange(0))
        pool = Samples(x, None, torch.arange(len(x)))
        shape = tuple(x.shape[1:])
        self._data = ClientData(nothing, nothing, nothing, pool, None, learner.num_classes, shape)
        learner.follow(recipe)
        learner.reset(seed, SERVER)
        self._first = learner.state()

    @property
    def num_samples(self) -> int:
        """M, the number of the server's samples."""
        return len(self._pool)

    @property
    def _pool(self) -> Samples:
        assert self._data.public is not None
        return self._data.public

    def weights(self) -> Knowledge:
        """Return the model's weights."""
        return self._learner.weights()

    def load_weights(self, weights: Knowledge) -> None:
        """Load weights; the optimiser and the counters of batches start anew."""
        self._learner.load_state(self._first)
        self._learner.load_weights(weights)

    def predict(self, ids: Tensor | None = None) -> Tensor:
        """Return logits ``[n, C]`` of the samples at ``ids``, of all by default."""
        return self._learner.predict(self._x(ids))

    def features(self, ids: Tensor | None = None) -> Tensor:
        """Return features ``[n, d]`` of the samples at ``ids``, of all by default."""
        return self._learner.features(self._x(ids))

    def adapt_norms(self, ids: Tensor | None = None) -> None:
        """Take the statistics of batch normalisation from the server's samples."""
        self._learner.adapt_norms(self._x(ids))

    def train(
        self, step: Train, knowledge: Mapping[str, Knowledge], round_: int, rounds: int
    ) -> float | None:
        """Train by one step on the server's samples; return its loss if it has one."""
        names = self._seed, round_, SERVER
        work = Work(self._data, knowledge, self._options, *names, rounds=rounds)
        return self._learner.train(step, work, "server")

    def state(self) -> dict[str, Any]:
        """Return a copy of the learner's state."""
        return self._learner.state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Load a state of the learner."""
        self._learner.load_state(state)

    def _x(self, ids: Tensor | None) -> Tensor:
        return self._pool.x if ids is None else self._pool.x[ids]
