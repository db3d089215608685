"""COMET (Cho, Wang, Chiruvolu and Joshi, 2021, arXiv:2109.08119, "PerFed-CKT")."""

from __future__ import annotations

from typing import Literal

import torch

from fedkt.fusion import mean
from fedkt.fusion.averaging import mix_rows
from fedkt.fusion.clustering import k_means
from fedkt.knowledge import Fused, Knowledge, Uploads
from fedkt.objectives import KL, CrossEntropy, Distil
from fedkt.options import AtLeastOne, Count, Factor
from fedkt.recipe import Predict, Recipe, Train, Weighted
from fedkt.registry import register
from fedkt.rng import torch_rng
from fedkt.strategies.server.strategy import KnowledgeStrategy


@register
class Comet(KnowledgeStrategy):
    """Cluster the clients by their answers; each distils the mean of its cluster.

    Clustered co-distillation: the server finds k clusters of the clients' probabilities on public
    samples by k-means; a client's loss is F_n(w) + λ KL(centroid ‖ softmax(z)) with the centroid
    that is nearest to its own answers. k = 1 is :class:`~fedkt.strategies.FedMD` with
    probabilities, k ≥ N leaves clients that differ their own answers.

    In the paper all k centroids are sent and the client takes the nearest (down 4kMC). The server
    knows the client's answers too, so it takes the same one, and only that is sent.
    ``by="sample"`` clusters each sample by itself, as SCARLET's program of it does.

    Bytes a round and client, M public samples in use, C classes: up 4MC, down 4MC (broadcast to a
    cluster; unicast with ``by="sample"``).

    Parameters
    ----------
    clusters : int
        k.
    by : {"client", "sample"}
        Whether whole clients are clustered or their answers to each sample.
    factor : float
        λ ≥ 0.
    local_epochs, distil_epochs : int
        Passes over the private and over the public data a round.
    rehearsal : float
        The factor of F_n beside λ KL, on a private batch beside every public one.
    public_samples : int
        Number of public samples drawn each round; 0 takes all.
    """

    name = "comet"

    def __init__(
        self,
        clusters: AtLeastOne = 2,
        by: Literal["client", "sample"] = "client",
        factor: Factor = 1.0,
        local_epochs: Count = 5,
        distil_epochs: Count = 3,
        rehearsal: Factor = 1.0,
        public_samples: Count = 0,
    ) -> None:
        self.clusters, self.by, self.factor = clusters, by, factor
        self.local_epochs, self.distil_epochs = local_epochs, distil_epochs
        self.rehearsal, self.public_samples = rehearsal, public_samples

    def recipe(self) -> Recipe:
        """Return the recipe: private training, probabilities, then both losses together."""
        both = Train(
            on="public",
            terms=[Weighted(self.factor, Distil(KL()))],
            epochs=self.distil_epochs,
            rehearse=[Weighted(self.rehearsal, CrossEntropy())] if self.rehearsal else [],
        )
        return Recipe(
            learn=[Train(on="private", terms=[CrossEntropy()], epochs=self.local_epochs)],
            share=[Predict(form="probabilities", samples=self.public_samples)],
            absorb=[both],
        )

    def fuse(self, uploads: Uploads) -> Fused:
        """Return the mean of each client's cluster."""
        stack = uploads["public"]
        if self.clusters == 1:
            return mean(stack)
        draws = torch_rng(self.round.seed, "comet", self.round.number)
        if self.by == "sample":
            cluster = k_means(stack.values.transpose(0, 1), self.clusters, draws)  # [M, N]
            same = (cluster[:, :, None] == cluster[:, None]).to(stack.values.dtype)
            values = (same / same.sum(-1, keepdim=True)) @ stack.values.transpose(0, 1)
            each = [Knowledge.rows(stack.kind, v.contiguous(), stack.ids) for v in values.unbind(1)]
            sizes = same.sum(-1).mean()
        else:
            (cluster,) = k_means(stack.values.flatten(1)[None], self.clusters, draws)
            numbers, places = torch.unique(cluster, return_inverse=True)
            members = (cluster == numbers[:, None]).to(stack.values.dtype)
            means = mix_rows(members / members.sum(1, keepdim=True), stack.values)
            # One object a cluster: it is encoded once.
            centroids = [Knowledge.rows(stack.kind, values, stack.ids) for values in means]
            each = [centroids[place] for place in places.tolist()]
            sizes = members.sum(1)
        personal = {c: {"public": k} for c, k in zip(stack.clients, each, strict=True)}
        return Fused(personal=personal).with_diagnostics(cluster_size=sizes)
