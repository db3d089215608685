"""FedProx (Li et al., MLSys 2020, arXiv:1812.06127)."""

from __future__ import annotations

from dataclasses import replace

from fedkt.objectives import CrossEntropy, Proximal
from fedkt.options import Count, Factor
from fedkt.recipe import Train
from fedkt.registry import register
from fedkt.strategies.weights.fedavg import FedAvg


@register
class FedProx(FedAvg):
    """Average the clients' weights, held near the global weights by a proximal term.

    Local loss: cross-entropy + μ/2 ‖w − w_global‖² (equation 2); with μ = 0 it is
    :class:`~fedkt.strategies.FedAvg`, whose requirements it shares.
    Averaging is by number of examples; the paper samples clients by it instead.

    Bytes a round and client, P parameters in float32: up 4P, down 4P (broadcast), and once more as
    in :class:`~fedkt.strategies.FedAvg`.

    Parameters
    ----------
    mu : float
        μ ≥ 0; the paper tries 0.001, 0.01, 0.1 and 1.
    local_epochs : int
        Passes over the private data a round.
    local_samples : int
        Number of samples, drawn anew, in a pass; 0 = all.
    """

    name = "fedprox"

    def __init__(
        self, mu: Factor = 0.01, local_epochs: Count = 5, local_samples: Count = 0
    ) -> None:
        super().__init__(local_epochs, local_samples)
        self.mu = mu

    def private_step(self) -> Train:
        """Return the training step with the proximal term."""
        return replace(super().private_step(), terms=[CrossEntropy(), Proximal(self.mu)])
