"""Weights of the clients for each public sample."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fedkt.answers import entropy, torch_softmax
from fedkt.errors import ConfigError
from fedkt.fusion.averaging import average_rows
from fedkt.knowledge import Fused, Knowledge, Stack
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


@register(part="fusions")
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
