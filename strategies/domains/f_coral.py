"""f-CORAL: clients that match covariances (Sun and Saenko, 2016, arXiv:1607.01719), averaged."""

from __future__ import annotations

from dataclasses import replace

from fedkt.adaptation import Coral
from fedkt.objectives import CrossEntropy
from fedkt.options import AtLeastTwo, Count, Factor
from fedkt.recipe import Beside, Train, Weighted
from fedkt.registry import register
from fedkt.strategies.weights.fedavg import FedAvg


@register
class FCoral(FedAvg):
    """Average the weights of clients that match their features' covariance with the target's.

    Per client Deep CORAL (equations 1 and 6): cross-entropy on its own samples plus
    ``strength`` times |C_s - C_t|²_F / (4 d²), the distance between the covariance of their d
    features and that of the target's unlabelled samples, both computed by the client's net.
    Weights are averaged by number of examples. The target's samples are the public set; see
    :class:`~fedkt.strategies.FDANN`.

    Differences: the aligned features are those of the model's feature layer (by default the
    penultimate ones); Deep CORAL aligns the output of the last layer.

    Bytes a round and client, P parameters in float32: up 4P, down 4P (broadcast), and once more as
    in :class:`~fedkt.strategies.FedAvg`. The clients are assumed to hold the target's samples
    already.

    Parameters
    ----------
    local_epochs : int
        Passes over the private data a round.
    local_samples : int
        Number of samples, drawn anew, in a pass; 0 = all.
    strength : float
        Factor of the distance, ≥ 0. The distance is small by its 4 d²: the paper sets the
        factor such that in the end it is about as large as the cross-entropy.
    target_batch : int
        Number of target samples beside every private batch, ≥ 2.
    """

    name = "f-coral"

    def __init__(
        self,
        local_epochs: Count = 1,
        local_samples: Count = 0,
        strength: Factor = 1.0,
        target_batch: AtLeastTwo = 16,
    ) -> None:
        super().__init__(local_epochs, local_samples)
        self.strength, self.target_batch = strength, target_batch

    def private_step(self) -> Train:
        """Return the training step with the distance to the target."""
        return replace(
            super().private_step(),
            terms=[CrossEntropy(), Weighted(self.strength, Coral(detach=False))],
            beside=Beside("public", self.target_batch),
        )
