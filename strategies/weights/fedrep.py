"""FedRep, shared representations (Collins et al., ICML 2021, arXiv:2102.07078)."""

from __future__ import annotations

from fedkt.fusion import mean_by_examples
from fedkt.knowledge import Fused, Uploads
from fedkt.objectives import CrossEntropy
from fedkt.options import Count
from fedkt.recipe import Load, Recipe, Train, Weights
from fedkt.registry import register
from fedkt.strategies.server.strategy import KnowledgeStrategy


@register
class FedRep(KnowledgeStrategy):
    """Average the bodies of the models; every client keeps the layer that classifies.

    Collins, Hassani, Mokhtari and Shakkottai, "Exploiting Shared Representations for Personalized
    Federated Learning", ICML 2021, arXiv:2102.07078, algorithm 1. A client first trains its head
    with the body of the server held fixed (equation 5), then the body with its new head held fixed
    (equation 6), and shares the body (equation 7).

    Bytes a round and client, B parameters of the body: up 4B, down 4B (broadcast); 4B more down for
    a client that did not take part in the round before, and in the first round. All clients have
    one architecture.

    Differences: the average is by number of examples; the clients of the paper have equally many.
    The paper trains by SGD with momentum 0.5.

    Parameters
    ----------
    head_epochs : int
        τ_h, passes over the private data in which the head is trained.
    body_epochs : int
        τ_φ, passes in which the body is trained.
    """

    name = "fedrep"

    def __init__(self, head_epochs: Count = 10, body_epochs: Count = 1) -> None:
        self.head_epochs, self.body_epochs = head_epochs, body_epochs

    def recipe(self) -> Recipe:
        """Return the recipe: load the body, train the head, train the body, share the body."""
        terms = [CrossEntropy()]
        return Recipe(
            learn=[
                Load("body"),
                Train("private", terms, epochs=self.head_epochs, only="@head"),
                Train("private", terms, epochs=self.body_epochs, only="@body"),
            ],
            share=[Weights("body", of="@body")],
            absorb=[Load("body")],
        )

    def fuse(self, uploads: Uploads) -> Fused:
        """Return the mean of the bodies; broadcast."""
        return mean_by_examples(uploads["body"])
