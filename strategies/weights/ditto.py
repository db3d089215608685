"""Ditto, fair and robust personalisation (Li et al., ICML 2021, arXiv:2012.04221)."""

from __future__ import annotations

from fedkt.fusion import mean_by_examples
from fedkt.knowledge import Fused, Uploads
from fedkt.objectives import CrossEntropy, Proximal, Term
from fedkt.options import Count, Factor
from fedkt.recipe import Load, Recipe, Remember, Train, Weighted, Weights
from fedkt.registry import register
from fedkt.strategies.server.strategy import KnowledgeStrategy


@register
class Ditto(KnowledgeStrategy):
    """Average one global model; every client keeps one of its own near it, which answers for it.

    Li, Hu, Beirami and Smith, "Ditto: Fair and Robust Federated Learning Through Personalization",
    ICML 2021, arXiv:2012.04221, algorithm 1: w by FedAvg, and at client k also
    v ← v - η (∇F_k(v) + λ (v - w)), with w as received (equation 2). Only w travels. λ = 0 makes v
    local training; with growing λ it becomes w. The clients' figures, personalised and global, are
    v's; those of w are the server's.

    Bytes a round and client, P parameters in float32: up 4P, down 4P (broadcast), which the
    client learns from; so there is no more to send to a client that was absent.

    Differences: v begins with the client's own first weights, where the paper begins with the
    server's. Moments of optimisers begin anew with each of the two trainings of a round.

    Parameters
    ----------
    lam : float
        λ ≥ 0; the paper tries 0.1 and 1, among others.
    local_epochs : int
        Passes over the private data a round, of each of the two models.
    """

    name = "ditto"

    def __init__(self, lam: Factor = 0.1, local_epochs: Count = 5) -> None:
        self.lam, self.local_epochs = lam, local_epochs

    def recipe(self) -> Recipe:
        """Return the recipe: train v near w, keep it, train w, share it, take up v again."""
        near: list[Term | Weighted] = [CrossEntropy(), Proximal(self.lam)]
        epochs = self.local_epochs
        keep = Remember(Weights("personal"))
        return Recipe(
            start=[keep],
            learn=[
                Load("personal"),
                Train(on="private", terms=near, epochs=epochs),
                keep,
                Load("weights"),
                Train(on="private", terms=[CrossEntropy()], epochs=epochs),
            ],
            share=[Weights()],
            absorb=[Load("personal")],
        )

    def fuse(self, uploads: Uploads) -> Fused:
        """Return the mean of the global models by number of examples; broadcast."""
        return mean_by_examples(uploads["weights"])
