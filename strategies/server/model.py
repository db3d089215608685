"""The server's own model, as a strategy sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from fedkt.knowledge import Knowledge
from fedkt.recipe import Train


class ServerModel(Protocol):
    """The server's own model and its own unlabelled samples.

    In domain adaptation the samples are those of the target, otherwise the public set.
    ``fedkt.clients.LearnerServerModel`` is such a model for any learner.
    """

    @property
    def num_samples(self) -> int:
        """M, the number of the server's samples; their ids are 0, ..., M - 1."""
        ...

    def weights(self) -> Knowledge:
        """Return the model's weights."""
        ...

    def load_weights(self, weights: Knowledge) -> None:
        """Load weights; the optimiser starts anew."""
        ...

    def predict(self, ids: Tensor | None = None) -> Tensor:
        """Return logits ``[n, C]`` float32 of the samples at ``ids``, of all by default."""
        ...

    def features(self, ids: Tensor | None = None) -> Tensor:
        """Return features ``[n, d]`` float32 of the samples at ``ids``, of all by default."""
        ...

    def adapt_norms(self, ids: Tensor | None = None) -> None:
        """Replace the statistics of batch normalisation by those of samples, all by default."""
        ...

    def train(
        self, step: Train, knowledge: Mapping[str, Knowledge], round_: int, rounds: int
    ) -> float | None:
        """Train by one step ``on="public"``, which stands for the server's samples.

        Parameters
        ----------
        step : Train
            The step; its terms read ``knowledge``.
        knowledge : Mapping[str, Knowledge]
            Knowledge by name.
        round_, rounds : int
            The round, and the number of rounds of the run, for random streams and progress.

        Returns
        -------
        float or None
            Mean loss of the last epoch.
        """
        ...

    def state(self) -> dict[str, Any]:
        """Return a copy of the state that training changes; see ``fedkt.snapshot`` for types."""
        ...

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Become the model that ``state`` describes."""
        ...
