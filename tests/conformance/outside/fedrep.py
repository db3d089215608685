"""Shared representations (Collins et al., ICML 2021, arXiv:2102.07078)."""

from __future__ import annotations

from fedkt import KnowledgeStrategy, Load, Recipe, Train, Weights, register
from fedkt.fusion import mean_by_examples
from fedkt.knowledge import Fused, Uploads
from fedkt.objectives import CrossEntropy


@register
class FedRep(KnowledgeStrategy):
    """Average the bodies of the models; every client keeps the layer that classifies.

    Algorithm 1: a client first trains its head for several epochs with the body of the server
    (equation 5), then the body with its new head (equation 6), and shares the body. The
    average is by number of examples; the clients of the paper have equally many.
    """

    name = "fedrep"

    def __init__(self, head_epochs: int = 10, body_epochs: int = 1) -> None:
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
