"""f-DANN: domain-adversarial clients, averaged (baseline of FedKA, Sun et al., ACML 2022)."""

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
    """Every client adapts to the target with a domain classifier of its own; FedAvg of all.

    Per client the DANN of Ganin and Lempitsky (ICML 2015, arXiv:1409.7495): cross-entropy on
    its own samples plus the loss of a head that tells its features from those of the target's
    unlabelled samples; the head minimises it, the features maximise it with the factor
    λ_p = 2/(1+exp(-γp)) - 1, which rises with the progress p of the run. Both sides go through
    the client's net. Weights, those of the head included, are averaged by number of examples,
    as FedKA's paper (arXiv:2203.11635) does with its baseline.

    The target's samples are the public set: in a federation with a target domain, its
    adaptation pool. Each is seen without its label. A net with batch normalisation counts
    them in its running statistics.

    Differences: the head is that of FedKA, d-100-BN-ReLU-2. DANN anneals its learning rate;
    here the experiment's holds.

    The adversary's gradient grows as features shrink, since the head normalises them: a net
    without batch normalisation of its own may never learn its classes.

    Bytes a round and client, P parameters of the model and H = 100 d + 502 of the head in
    float32: up 4(P + H), down 4(P + H) (broadcast), and once more as in
    :class:`~fedkt.strategies.FedAvg`. The target's samples are taken to be at the
    clients already.

    Parameters
    ----------
    local_epochs : int
        Passes over the private data a round.
    local_samples : int
        How many samples, drawn anew, a pass sees; 0 = all.
    gamma : float
        γ ≥ 0; 10 in Ganin and Lempitsky, 5 in FedKA. With 0 the features do not notice the head.
    target_batch : int
        How many of the target's samples stand beside every private batch, ≥ 2.
    """

    name = "f-dann"
    follows_progress = True

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
        """Start from the global weights, train against the domain head, share, take the average."""
        train = replace(
            self.private_step(),
            terms=[CrossEntropy(), DomainAdversarial("domain", self.gamma, detach=False)],
            beside=Beside("public", self.target_batch),
        )
        return Recipe.sharing_weights(train, heads=[Head("domain", (100, 2), norm=True)])
