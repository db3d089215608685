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
    """Every client matches its features' covariance with the target's; FedAvg of all.

    Per client Deep CORAL (equations 1 and 6): cross-entropy on its own samples plus
    ``strength`` times |C_s - C_t|²_F / (4 d²), the distance of the covariances of their d
    features and of those of the target's unlabelled samples, both through the client's net.
    Weights are averaged by number of examples. The target's samples are the public set; see
    :class:`~fedkt.strategies.FDANN`.

    Differences: the features that are aligned are the model's (its penultimate ones unless it
    says otherwise), where Deep CORAL takes the output of the last layer.

    Bytes a round and client: those of :class:`~fedkt.strategies.FedAvg`; the target's
    samples are taken to be at the clients already.

    Parameters
    ----------
    local_epochs : int
        Passes over the private data a round.
    local_samples : int
        How many samples, drawn anew, a pass sees; 0 = all.
    strength : float
        Factor of the distance, ≥ 0. The distance is small by its 4 d²: the paper sets the
        factor such that in the end it is about as large as the cross-entropy.
    target_batch : int
        How many of the target's samples stand beside every private batch, ≥ 2.
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
        """Return the training towards the target."""
        return replace(
            super().private_step(),
            terms=[CrossEntropy(), Weighted(self.strength, Coral(detach=False))],
            beside=Beside("public", self.target_batch),
        )
