"""f-DANN: domain-adversarial clients, averaged, a baseline of FedKA (Sun et al., ACML 2022)."""

from __future__ import annotations

from dataclasses import replace

from fedkt.adaptation import DomainAdversarial
from fedkt.objectives import CrossEntropy
from fedkt.objectives.heads import Head
from fedkt.options import AtLeastTwo, Count, Factor
from fedkt.recipe import Beside, Recipe
from fedkt.registry import register
from fedkt.strategies.weights.fedavg import FedAvg


@register
class FDANN(FedAvg):
    """Average the weights of clients that adapt to the target by a domain classifier each.

    Per client the DANN of Ganin and Lempitsky (ICML 2015, arXiv:1409.7495): cross-entropy on
    its own samples plus the loss of a head that tells their features from those of the target's
    unlabelled samples. The head minimises it; the features maximise it with the factor
    λ_p = 2/(1+exp(-γp)) - 1, which rises with the progress p of the run. The client's net
    computes both kinds of features. Weights, those of the head included, are averaged by
    number of examples, as in the baseline of FedKA's paper (arXiv:2203.11635).

    The target's samples are the public set: in a federation with a target domain, its
    adaptation pool. Their labels are not used. A net with batch normalisation includes them in
    its running statistics.

    Differences: the head is that of FedKA, d-100-BN-ReLU-2. DANN anneals its learning rate;
    here it is that of the experiment.

    The head normalises features, so the adversary's gradient grows as they shrink: a net
    without batch normalisation may never learn its classes.

    Bytes a round and client, P parameters of the model and H = 100 d + 502 of the head in
    float32: up 4(P + H), down 4(P + H) (broadcast), and once more as in
    :class:`~fedkt.strategies.FedAvg`. The clients are assumed to hold the target's
    samples already.

    Parameters
    ----------
    local_epochs : int
        Passes over the private data a round.
    local_samples : int
        Number of samples, drawn anew, in a pass; 0 = all.
    gamma : float
        γ ≥ 0; 10 in Ganin and Lempitsky, 5 in FedKA. With 0 the head does not change the features.
    target_batch : int
        Number of target samples beside every private batch, ≥ 2.
    """

    name = "f-dann"

    def __init__(
        self,
        local_epochs: Count = 1,
        local_samples: Count = 0,
        gamma: Factor = 10.0,
        target_batch: AtLeastTwo = 16,
    ) -> None:
        super().__init__(local_epochs, local_samples)
        self.gamma, self.target_batch = gamma, target_batch

    def recipe(self) -> Recipe:
        """Return the recipe: load the global weights, train against the domain head, share."""
        train = replace(
            self.private_step(),
            terms=[CrossEntropy(), DomainAdversarial("domain", self.gamma, detach=False)],
            beside=Beside("public", self.target_batch),
        )
        return Recipe.sharing_weights(train, heads=[Head("domain", (100, 2), norm=True)])
