"""FedProx (Li et al., MLSys 2020, arXiv:1812.06127)."""

from __future__ import annotations

from fedkt.objectives import CrossEntropy, Proximal, Term
from fedkt.options import Count, Factor
from fedkt.recipe import Recipe, Train
from fedkt.registry import register
from fedkt.strategies.weights.fedavg import FedAvg


@register
class FedProx(FedAvg):
    """Federated averaging with a proximal term that holds clients near the global weights.

    Local loss: cross-entropy + μ/2 ‖w − w_global‖² (equation 2); with μ = 0 it is
    :class:`~fedkt.strategies.FedAvg`, whose bytes and requirements it shares.
    Averaging is by number of examples; the paper samples clients that way instead.

    Parameters
    ----------
    mu : float
        μ ≥ 0; the paper tries 0.001, 0.01, 0.1 and 1.
    local_epochs : int
        Passes over the private data a round.
    local_samples : int
        How many samples, drawn anew, a pass sees; 0 = all.
    """

    name = "fedprox"

    def __init__(
        self, mu: Factor = 0.01, local_epochs: Count = 5, local_samples: Count = 0
    ) -> None:
        super().__init__(local_epochs, local_samples)
        self.mu = mu

    def recipe(self) -> Recipe:
        """Start from the global weights, train near them, share, take the average."""
        terms: list[Term] = [CrossEntropy(), Proximal(self.mu)]
        epochs, samples = self.local_epochs, self.local_samples
        train = Train(on="private", terms=terms, epochs=epochs, samples=samples)
        return Recipe.sharing_weights(train)
