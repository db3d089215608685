"""FedProx (Li et al., MLSys 2020, arXiv:1812.06127)."""

from __future__ import annotations

from fedkt.errors import ConfigError
from fedkt.fusion import weighted_mean
from fedkt.knowledge import Fused, Uploads
from fedkt.objectives import CrossEntropy, Proximal, Term
from fedkt.recipe import Load, Recipe, Train, Weights
from fedkt.registry import register
from fedkt.strategies.base import KnowledgeStrategy


@register
class FedProx(KnowledgeStrategy):
    """Federated averaging with a proximal term that holds clients near the global weights.

    Local loss: cross-entropy + μ/2 ‖w − w_global‖² (equation 2); with μ = 0 it is
    :class:`~fedkt.strategies.fedavg.FedAvg`, whose bytes and requirements it shares.
    Averaging is by number of examples; the paper samples clients that way instead.

    Parameters
    ----------
    mu : float
        μ ≥ 0; the paper tries 0.001, 0.01, 0.1 and 1.
    local_epochs : int
        Passes over the private data a round.
    """

    name = "fedprox"

    def __init__(self, mu: float = 0.01, local_epochs: int = 5) -> None:
        if mu < 0:
            raise ConfigError(f"fedprox: mu must be at least 0, not {mu}.")
        self.mu, self.local_epochs = mu, local_epochs

    def recipe(self) -> Recipe:
        """Start from the global weights, train near them, share, take the average."""
        terms: list[Term] = [CrossEntropy(), Proximal(self.mu)]
        return Recipe(
            learn=[
                Load("weights"),
                Train(on="private", terms=terms, epochs=self.local_epochs),
            ],
            share=[Weights()],
            absorb=[Load("weights")],
        )

    def fuse(self, uploads: Uploads) -> Fused:
        """Average by number of examples."""
        return weighted_mean(uploads["weights"])
