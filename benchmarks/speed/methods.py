"""The methods that are measured, as fedkt strategies; the other variants fuse by the same rules.

fedkt loads this file by its path, also in worker processes.
"""

from __future__ import annotations

from collections.abc import Iterable

from flwr.app import ArrayRecord, Message, MetricRecord
from torch import Tensor

from fedkt.fusion import mean, personalised_mean
from fedkt.fusion.neighbours import estimate_distributions, keep_nearest, neighbour_weights
from fedkt.knowledge import Fused, Stack, Uploads
from fedkt.objectives import KL, CrossEntropy, Distil
from fedkt.recipe import Predict, Recipe, Train
from fedkt.strategies import KnowledgeStrategy

SHARPNESS = 10.0
SMOOTHING = 1e-4
NEAREST = 50


def similarity_weights(answers: Tensor) -> Tensor:
    """Return what each client takes from each other, by the likeness of their mean answers.

    Parameters
    ----------
    answers : Tensor
        Probabilities ``[K, M, C]``.

    Returns
    -------
    Tensor
        ``[K, K]``, row-stochastic.
    """
    q = estimate_distributions(answers, "mean")
    q = (q + SMOOTHING) / (1 + q.shape[1] * SMOOTHING)
    return neighbour_weights(q, SHARPNESS)


class Personalised(KnowledgeStrategy):
    """Train, answer, take the answers of similar clients, distil them.

    Attributes
    ----------
    losses : list of float
        The mean loss of each round's private training.
    """

    name = "speed-personalised"

    def __init__(self) -> None:
        self.losses: list[float] = []

    def recipe(self) -> Recipe:
        """One private epoch, one on the public set."""
        return Recipe(
            learn=[Train(on="private", terms=[CrossEntropy()])],
            share=[Predict(form="probabilities")],
            absorb=[Train(on="public", terms=[Distil(KL())])],
        )

    def fuse(self, uploads: Uploads) -> Fused:
        """Fuse for every client with weights of its own."""
        stack: Stack = uploads["public"]
        return personalised_mean(stack, similarity_weights(stack.values))

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Note the loss."""
        arrays, metrics = super().aggregate_train(server_round, replies)
        if metrics is not None and "loss" in metrics:
            self.losses.append(float(metrics["loss"]))
        return arrays, metrics


class Nearest(Personalised):
    """The same with the 50 nearest clients alone."""

    name = "speed-nearest"

    def fuse(self, uploads: Uploads) -> Fused:
        """Fuse for every client with its nearest ones: one sparse matrix product."""
        stack: Stack = uploads["public"]
        return personalised_mean(stack, keep_nearest(similarity_weights(stack.values), NEAREST))


class Averaged(Personalised):
    """The same with one mean for all, sent to all."""

    name = "speed-averaged"

    def fuse(self, uploads: Uploads) -> Fused:
        """Average."""
        return mean(uploads["public"])


class Empty(KnowledgeStrategy):
    """Nothing: one message a client and round, in which it evaluates its model."""

    name = "speed-empty"

    def recipe(self) -> Recipe:
        """No steps."""
        return Recipe()


class Exchange(KnowledgeStrategy):
    """Next to nothing in two messages: an answer for one public sample goes up, the mean down."""

    name = "speed-exchange"

    def recipe(self) -> Recipe:
        """Answer; receive, and do not train on it."""
        return Recipe(
            share=[Predict(form="probabilities", samples=1)],
            absorb=[Train(on="public", terms=[Distil(KL())], epochs=0)],
        )

    def fuse(self, uploads: Uploads) -> Fused:
        """Average."""
        return mean(uploads["public"])
