"""What a strategy may ask of a model that the server has for itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from fedkt.knowledge import Knowledge
from fedkt.recipe import Train


class ServerModel(Protocol):
    """The server's own model and its own unlabelled samples.

    In a domain adaptation the samples are those of the target; elsewhere the public set.
    ``fedkt.clients.LearnerServerModel`` makes one of any learner.
    """

    @property
    def num_samples(self) -> int:
        """M, how many samples the server has; their ids are 0, ..., M - 1."""
        ...

    def weights(self) -> Knowledge:
        """Return the model's weights."""
        ...

    def load_weights(self, weights: Knowledge) -> None:
        """Take weights; the optimiser begins anew."""
        ...

    def predict(self, ids: Tensor | None = None) -> Tensor:
        """Return logits ``[n, C]`` float32 on the samples with some ids (all)."""
        ...

    def features(self, ids: Tensor | None = None) -> Tensor:
        """Return features ``[n, d]`` float32 of the samples with some ids (all)."""
        ...

    def adapt_norms(self, ids: Tensor | None = None) -> None:
        """Take the statistics of batch normalisation from the samples with some ids (all)."""
        ...

    def train(
        self, step: Train, knowledge: Mapping[str, Knowledge], round_: int, rounds: int
    ) -> float | None:
        """Train by one step ``on="public"``, which stands for the server's samples.

        Parameters
        ----------
        step : Train
            Its terms read ``knowledge``.
        knowledge : Mapping[str, Knowledge]
            By name.
        round_, rounds : int
            The round, and how many the run has; they name random streams and give the
            progress.

        Returns
        -------
        float or None
            Mean loss of the last epoch.
        """
        ...

    def state(self) -> dict[str, Any]:
        """Return a copy of all that training has changed; see ``fedkt.snapshot`` for types."""
        ...

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Become the model that ``state`` describes."""
        ...
