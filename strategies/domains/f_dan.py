"""f-DAN: clients that match kernel means, averaged, a baseline of FedKA (Sun et al., ACML 2022)."""

from __future__ import annotations

from dataclasses import replace

from fedkt.adaptation import MMD, Ramped
from fedkt.adaptation.alignment import MMDEstimator
from fedkt.objectives import CrossEntropy, Term
from fedkt.options import AtLeastTwo, Count, Factor
from fedkt.recipe import Beside, Train, Weighted
from fedkt.registry import register
from fedkt.strategies.weights.fedavg import FedAvg


@register
class FDAN(FedAvg):
    """Average the weights of clients that match their features' distribution with the target's.

    Per client the objective of DAN (Long et al., ICML 2015): cross-entropy on its
    own samples plus ``strength`` times the squared multi-kernel maximum mean discrepancy
    between their features and those of the target's unlabelled samples, both computed by the
    client's net. Weights are averaged by number of examples, as FedKA's paper
    (arXiv:2203.11635) does with its baseline. The target's samples are the public set; see
    :class:`~fedkt.strategies.FDANN`.

    Differences: one layer is aligned, the model's features; DAN aligns three. The kernels are
    FedKA's, five of equal weight; DAN solves a quadratic programme for the weights.
    DAN's factor is fixed (``ramp=False``); FedKA lets it rise as λ_p = 2/(1+exp(-γp)) - 1. The
    estimate is unbiased by default: with batches of 16 the biased one, FedKA's, is mostly bias.

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
        Factor of the discrepancy, ≥ 0; 0 gives FedAvg for nets without batch normalisation.
    ramp : bool
        Whether the factor rises with the progress p of the run.
    gamma : float
        γ ≥ 0, the speed of the rise.
    estimator : {"unbiased", "biased", "linear"}
        U-statistic, V-statistic, or DAN's estimate in linear time.
    target_batch : int
        Number of target samples beside every private batch.
    """

    name = "f-dan"

    def __init__(
        self,
        local_epochs: Count = 1,
        local_samples: Count = 0,
        strength: Factor = 1.0,
        ramp: bool = True,
        gamma: Factor = 5.0,
        estimator: MMDEstimator = "unbiased",
        target_batch: AtLeastTwo = 16,
    ) -> None:
        super().__init__(local_epochs, local_samples)
        self.strength, self.ramp, self.gamma = strength, ramp, gamma
        self.estimator, self.target_batch = estimator, target_batch

    def private_step(self) -> Train:
        """Return the training step with the distance to the target."""
        distance: Term = MMD(self.estimator, detach=False)
        if self.ramp:
            distance = Ramped(distance, self.gamma)
        return replace(
            super().private_step(),
            terms=[CrossEntropy(), Weighted(self.strength, distance)],
            beside=Beside("public", self.target_batch),
        )
