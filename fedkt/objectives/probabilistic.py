"""Classifying from a random representation that is kept simple."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkt.errors import KnowledgeError
from fedkt.knowledge import Knowledge
from fedkt.objectives.heads import Head, apply_head
from fedkt.objectives.term import Batch, Outputs, weighted_mean
from fedkt.options import Factor
from fedkt.registry import register

SMALLEST = 1e-6  # softplus becomes exactly 0 below about -100, and the logarithm of 0 is infinite


def gaussian_kl(mean: Tensor, std: Tensor, other_mean: Tensor, other_std: Tensor) -> Tensor:
    """Return ``KL(N(mean, std²) ‖ N(other_mean, other_std²))`` of independent normals, in nats.

    Parameters
    ----------
    mean, std, other_mean, other_std : Tensor
        ``[n, d]``; standard deviations above 0.

    Returns
    -------
    Tensor
        ``[n]``, summed over d.
    """
    ratio = std / other_std
    distance = (mean - other_mean) / other_std
    return (0.5 * (ratio.square() + distance.square() - 1) - ratio.log()).sum(-1)


@register
@dataclass(frozen=True)
class Probabilistic:
    """Cross-entropy of a noisy representation, its length and what it says beyond its class.

    FedSR's objective (Nguyen, Torr & Lim, NeurIPS 2022): with z = μ + σ ε drawn for every
    sample, the mean over the batch of ``CE(classify(z), y) + length ‖z‖₂ + excess
    KL(N(μ, σ²) ‖ N(m_y, s_y²))``. μ are the model's features; σ = softplus of the head
    ``scale`` on them; m and s, one for each class, are the heads ``class-mean`` and softplus of
    ``class-scale`` on one-hot labels (:meth:`heads`). ε comes from torch's global generator.
    What lies behind the features runs twice, on μ and on z: running statistics there see μ.

    Parameters
    ----------
    length : float
        α_L2R ≥ 0.
    excess : float
        α_CMI ≥ 0: the KL bounds the mutual information of input and representation that the
        class does not explain.

    Raises
    ------
    KnowledgeError
        On a batch without labels or a model without features.
    """

    length: Factor = 0.01
    excess: Factor = 0.001
    part: ClassVar[str] = "objectives"
    name: ClassVar[str] = "probabilistic"
    needs_features: ClassVar[bool] = True

    @staticmethod
    def heads() -> list[Head]:
        """Return the heads that a recipe with this term must have."""
        return [
            Head("scale", (0,)),
            Head("class-mean", (0,), inputs="classes"),
            Head("class-scale", (0,), inputs="classes"),
        ]

    def needs(self) -> tuple[str, ...]:
        """Return no names: the term reads no fused knowledge."""
        return ()

    def __call__(
        self, outputs: Outputs, batch: Batch, knowledge: Mapping[str, Knowledge]
    ) -> Tensor:
        """Return the scalar loss."""
        mean, classify, parameters = outputs.features, outputs.classify, outputs.parameters
        if batch.y is None or mean is None or classify is None:
            raise KnowledgeError("probabilistic needs labels and a model with features")
        std = _positive(apply_head(parameters, "scale", mean))
        z = mean + std * torch.randn_like(mean)
        losses = F.cross_entropy(classify(z), batch.y, reduction="none")
        losses = losses + self.length * torch.linalg.vector_norm(z, dim=-1)
        if self.excess:
            one_hot = F.one_hot(batch.y, outputs.logits.shape[-1]).to(mean.dtype)
            centre = apply_head(parameters, "class-mean", one_hot)
            spread = _positive(apply_head(parameters, "class-scale", one_hot))
            losses = losses + self.excess * gaussian_kl(mean, std, centre, spread)
        return weighted_mean(losses, batch.weight)


def _positive(x: Tensor) -> Tensor:
    return F.softplus(x).clamp_min(SMALLEST)
