"""LG-FedAvg, local representations (Liang et al., 2020, arXiv:2001.01523)."""

from __future__ import annotations

from fedkt.fusion import mean_by_examples
from fedkt.knowledge import Fused, Uploads
from fedkt.objectives import CrossEntropy
from fedkt.options import Count
from fedkt.recipe import Load, Recipe, Train, Weights
from fedkt.registry import register
from fedkt.strategies.server.strategy import KnowledgeStrategy


@register
class LGFedAvg(KnowledgeStrategy):
    """Average the layers that classify; every client keeps the body of its model.

    Liang, Liu, Ziyin, Salakhutdinov and Morency, "Think Locally, Act Globally: Federated Learning
    with Local and Global Representations", 2020, arXiv:2001.01523, algorithm 1. A client trains its
    local representation and the global part together (equation 3), and shares the global part;
    the mean is by number of examples. A model that is nothing but the last layer makes it
    :class:`~fedkt.strategies.FedAvg`.

    Bytes a round and client, H parameters of the last layer: up 4H, down 4H (broadcast); 4H more
    down for a client that did not take part in the round before, and in the first round. All
    clients have one architecture.

    Differences: the global part is the last layer, where the paper lets one choose. The paper's
    experiments begin with rounds of FedAvg. Its adversary, for fairness, is left out.

    Parameters
    ----------
    local_epochs : int
        Passes over the private data a round.
    """

    name = "lg-fedavg"

    def __init__(self, local_epochs: Count = 5) -> None:
        self.local_epochs = local_epochs

    def recipe(self) -> Recipe:
        """Return the recipe: load the last layer, train the model, share the last layer."""
        train = Train(on="private", terms=[CrossEntropy()], epochs=self.local_epochs)
        return Recipe(
            learn=[Load("head"), train],
            share=[Weights("head", of="@head")],
            absorb=[Load("head")],
        )

    def fuse(self, uploads: Uploads) -> Fused:
        """Return the mean of the last layers; broadcast."""
        return mean_by_examples(uploads["head"])
