"""FCCL (Huang, Ye and Du, CVPR 2022, "Learn from Others and Be Yourself")."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedkt.fusion import mean
from fedkt.knowledge import Fused, Knowledge, Uploads
from fedkt.objectives import KL, Batch, CrossEntropy, Distil, Outputs, Term
from fedkt.objectives.term import weighted_mean_rows
from fedkt.options import Count, Factor
from fedkt.recipe import Predict, Recipe, Remember, Train, Weighted
from fedkt.registry import register
from fedkt.strategies.server.strategy import KnowledgeStrategy

EPSILON = 1e-5  # a logit that is the same for all samples has no deviation to divide by


@register(name="cross-correlation")
@dataclass(frozen=True)
class CrossCorrelation(Term):
    """Correlate each logit with the same fused one, and oppose it to all others.

    Σ_i (c_ii - 1)² + λ Σ_{i≠j} (c_ij + 1)², c_ij the correlation over the batch of the model's
    logit i with the fused logit j. Unlike in Barlow Twins other pairs are drawn
    to -1. The loss is of the batch as a whole, not a mean over samples.

    Parameters
    ----------
    off_diagonal : float
        λ ≥ 0.
    source : str
        The fused answers.
    """

    off_diagonal: Factor = 0.0051
    source: str = "public"

    def needs(self) -> tuple[str, ...]:
        """Return the name of the fused answers, ``source``."""
        return (self.source,)

    def __call__(
        self, outputs: Outputs, batch: Batch, knowledge: Mapping[str, Knowledge]
    ) -> Tensor:
        """Return the scalar loss."""
        weight = batch.weight
        own = _standard(outputs.logits, weight)
        fused = _standard(knowledge[self.source].at(batch.ids).detach(), weight)
        c = (own * weight[:, None]).mT @ fused / weight.sum().clamp_min(1e-12)
        same = torch.eye(c.shape[-1], dtype=c.dtype, device=c.device)
        factors = self.off_diagonal + (1 - self.off_diagonal) * same
        return (factors * (c - (2 * same - 1)).square()).sum()


def _standard(z: Tensor, weight: Tensor) -> Tensor:
    apart = z - weighted_mean_rows(z, weight)
    return apart / (weighted_mean_rows(apart.square(), weight) + EPSILON).sqrt()


@register
class FCCL(KnowledgeStrategy):
    """Correlate answers across clients on public data; keep old knowledge on private data.

    Federated cross-correlation and continual learning. Clients share logits of unlabelled public
    samples, which need not be of the task. Each moves its own towards their mean by
    :class:`CrossCorrelation`. In private training two teachers keep it from forgetting: the model
    as it was after the last exchange (between domains), and the model after ``alone_epochs`` of
    private training before the first round (within the domain):
    CE + KL(between ‖ model) + KL(within ‖ model). Their answers for the private
    samples are kept at the client.

    The authors' program makes a new Adam for every public batch, so that it has no moments, and
    divides by a deviation that may be zero; here the optimiser goes on. Their order is exchange
    first, then private training; here private training opens the round. Without
    ``public_epochs`` and factors it is :class:`~fedkt.strategies.Local`, apart from
    ``alone_epochs``.

    Bytes a round and client, M public samples in use, C classes: up 4MC, down 4MC (broadcast).

    Parameters
    ----------
    off_diagonal : float
        λ ≥ 0 of the cross-correlation.
    between, within : float
        Factors of the two teachers, at least 0; the paper's are 1.
    alone_epochs : int
        Passes over the private data before a client's first round.
    local_epochs, public_epochs : int
        Passes over the private (the paper: 20) and over the public data a round.
    public_samples : int
        Number of public samples drawn each round; 0 takes all.
    """

    name = "fccl"

    def __init__(
        self,
        off_diagonal: Factor = CrossCorrelation.off_diagonal,
        between: Factor = 1.0,
        within: Factor = 1.0,
        alone_epochs: Count = 5,
        local_epochs: Count = 5,
        public_epochs: Count = 1,
        public_samples: Count = 0,
    ) -> None:
        self.off_diagonal, self.between, self.within = off_diagonal, between, within
        self.alone_epochs, self.local_epochs = alone_epochs, local_epochs
        self.public_epochs, self.public_samples = public_epochs, public_samples

    def recipe(self) -> Recipe:
        """Return the recipe: remember, train with both teachers, share logits, correlate."""
        factors = {"between": self.between, "within": self.within}
        told = {n: Distil(KL(), n) for n, factor in factors.items() if factor}
        terms: list[Term | Weighted] = [CrossEntropy()]
        terms += [Weighted(factors[name], term) for name, term in told.items()]
        between, within = (
            [Remember(Predict(on="private", form="logits", name=n))] if n in told else []
            for n in factors
        )
        alone = Train("private", [CrossEntropy()], epochs=self.alone_epochs)
        correlate = CrossCorrelation(self.off_diagonal)
        return Recipe(
            start=[*([alone] if self.alone_epochs else []), *within],
            learn=[*between, Train("private", terms, epochs=self.local_epochs)],
            share=[Predict(form="logits", samples=self.public_samples, partial=True)],
            absorb=[Train("public", [correlate], epochs=self.public_epochs)],
        )

    def fuse(self, uploads: Uploads) -> Fused:
        """Return the plain mean of the logits; broadcast."""
        return mean(uploads["public"])
