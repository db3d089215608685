"""Weights of the clients for each public sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fedkt.answers import entropy, logits_of, torch_softmax
from fedkt.errors import ConfigError
from fedkt.fusion.averaging import average_rows
from fedkt.fusion.fusion import FusionRound, WeightedMean, need_answers
from fedkt.knowledge import Fused, Knowledge, Stack
from fedkt.options import Factor
from fedkt.registry import register

Weighting = Literal["entropy", "variance", "uniform"]


def sample_weights(logits: Tensor, weighting: Weighting, gamma: float = 3.0) -> Tensor:
    """Return unnormalised weights of the clients for each sample.

    Parameters
    ----------
    logits : Tensor
        ``[N, M, C]``.
    weighting : {"entropy", "variance", "uniform"}
        exp(-γ H(softmax z)): a client that is unsure of a sample counts less; the
        variance of its logits over the classes (FedET, Cho et al. 2022); 1.
    gamma : float
        γ ≥ 0, for ``entropy``; 0 is uniform.

    Returns
    -------
    Tensor
        ``[N, M]``, non-negative.
    """
    if weighting == "entropy":
        return torch.exp(-gamma * entropy(torch_softmax(logits)))
    if weighting == "variance":
        return logits.var(-1, correction=0)
    if weighting == "uniform":
        return torch.ones_like(logits[..., 0])
    raise ConfigError(f"weighting must be entropy, variance or uniform, not {weighting!r}.")


def sample_weighted_mean(stack: Stack, weights: Tensor) -> Fused:
    """Average the clients with other weights for each sample; one result, broadcast.

    Parameters
    ----------
    stack : Stack
        Probabilities or logits of N clients, ``[N, M, C]``.
    weights : Tensor
        ``[N, M]``, non-negative; a sample to which nobody gives weight gets the plain mean.

    Returns
    -------
    Fused
        Σ_n w_n(x) v_n(x) / Σ_n w_n(x), of the stack's kind; over the clients that have the sample,
        and without samples that nobody has.
    """
    if stack.present is not None:
        weights = weights * stack.present
        weights = torch.where(weights.sum(0) > 0, weights, stack.present.to(weights.dtype))
        return Fused(shared={stack.name: average_rows(stack, weights)})
    total = weights.sum(0)
    share = torch.where(total > 0, weights / total.clamp_min(1e-38), 1 / len(stack))
    values = torch.einsum("nm,nmc->mc", share, stack.values)
    return Fused(shared={stack.name: Knowledge(stack.kind, {"values": values}, stack.ids)})


@register
@dataclass(frozen=True)
class SampleWeightedMean(WeightedMean):
    """The mean of the answers with weights for each client and sample by its own certainty.

    :func:`sample_weighted_mean` with :func:`sample_weights`; a sample counts for the clients that
    have it.

    Parameters
    ----------
    weighting : {"entropy", "variance", "uniform"}
        The rule of the weights.
    gamma : float
        γ ≥ 0, for ``entropy``.
    """

    weighting: Weighting = "entropy"
    gamma: Factor = 3.0
    name: ClassVar[str] = "sample-weighted-mean"

    def __call__(self, stack: Stack, round: FusionRound) -> Knowledge:
        """Return the weighted mean."""
        need_answers(self.name, stack.kind)
        weights = self._weights(stack.values, stack.kind)
        return sample_weighted_mean(stack, weights).shared[stack.name]

    def weight(self, knowledge: Knowledge, num_examples: int) -> Tensor:
        """Return the weights of the client's samples, ``[M]``."""
        need_answers(self.name, knowledge.kind)
        return self._weights(knowledge.values, knowledge.kind)

    def _weights(self, values: Tensor, kind: str) -> Tensor:
        return sample_weights(logits_of(values, kind), self.weighting, self.gamma)
