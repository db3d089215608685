"""Cronus (Chang, Shejwalkar, Shokri and Houmansadr, 2019, arXiv:1912.11279)."""

from __future__ import annotations

from typing import cast

from fedkt.calls import made
from fedkt.fusion import Fusion
from fedkt.fusion.fusion import fused
from fedkt.knowledge import Fused, Uploads
from fedkt.objectives import KL, CrossEntropy, Distil
from fedkt.options import Count, Factor
from fedkt.recipe import Predict, Recipe, Train, Weighted
from fedkt.registry import register
from fedkt.strategies.server.fusing import fusion_round
from fedkt.strategies.server.strategy import KnowledgeStrategy


@register
class Cronus(KnowledgeStrategy):
    """Share probabilities on a public set; a robust mean of each sample's is what all distil.

    Phase 1 is private training alone (``alone_epochs``, once). In each round of phase 2 clients
    send ``softmax(z)`` for the public samples, the server takes a robust mean of the N vectors of
    each sample, and clients train on the public samples with these targets together with their
    private data. The error of a robust mean grows with the square root of the share of liars and
    does not depend on the number of parameters, because the vectors have C dimensions.

    ``fusion="mean"`` is :class:`~fedkt.strategies.FedMD` with probabilities. No code of the authors
    is known; the paper's spectral filter (Diakonikolas et al., 2017) leaves its constants open, and
    those here are ours. Clients whose classes differ look like liars to it: they are left out of
    rows in which more than ``variance`` allows lies between them and the rest.

    Bytes a round and client, M public samples in use, C classes: up 4MC, down 4MC (broadcast).

    Parameters
    ----------
    fusion : Fusion or str
        The mean (``fedkt list fusions``): ``filtered-mean``, ``median``, ``trimmed-mean``,
        ``geometric-median``, ``mean`` or another that gives all clients the same.
    alone_epochs : int
        Passes over the private data before a client's first round.
    local_epochs, distil_epochs : int
        Passes over the private and over the public data a round.
    rehearsal : float
        μ ≥ 0: while distilling, every step also draws a private batch, whose cross-entropy
        counts μ times.
    public_samples : int
        Number of public samples drawn each round; 0 takes all.
    """

    name = "cronus"

    def __init__(
        self,
        fusion: Fusion | str = "filtered-mean",
        alone_epochs: Count = 10,
        local_epochs: Count = 5,
        distil_epochs: Count = 3,
        rehearsal: Factor = 1.0,
        public_samples: Count = 0,
    ) -> None:
        self.fusion, self._rule = fusion, cast(Fusion, made("fusions", fusion))
        self.alone_epochs, self.local_epochs = alone_epochs, local_epochs
        self.distil_epochs, self.rehearsal = distil_epochs, rehearsal
        self.public_samples = public_samples

    def recipe(self) -> Recipe:
        """Return the recipe: private training, probabilities, then both kinds of data together."""
        alone = Train(on="private", terms=[CrossEntropy()], epochs=self.alone_epochs)
        both = Train(
            on="public",
            terms=[Distil(KL())],
            epochs=self.distil_epochs,
            rehearse=[Weighted(self.rehearsal, CrossEntropy())] if self.rehearsal else [],
        )
        share = Predict(
            form="probabilities", samples=self.public_samples, partial=self._rule.partial
        )
        return Recipe(
            start=[alone] if self.alone_epochs else [],
            learn=[Train(on="private", terms=[CrossEntropy()], epochs=self.local_epochs)],
            share=[share],
            absorb=[both],
        )

    def fuse(self, uploads: Uploads) -> Fused:
        """Return the robust mean; broadcast."""
        now = fusion_round(self)
        return fused("public", self._rule(uploads["public"], now), now)
