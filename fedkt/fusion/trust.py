"""Trust: how far the server relies on each client, judged by the uploads alone.

Every rule takes the clients' logits ``[N, M, C]`` on the public set. Trust tolerates a
minority of clients that upload nonsense; it does not stop clients that are honest on most
rows and lie on few, nor a majority.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkt.answers import entropy, torch_softmax

FEWEST_PEERS = 4  # with three clients or fewer a median of peers means nothing
LOWEST_LOG_PROBABILITY = -8.0
FULL, NONE = 0.75, 0.25  # agreement, as a share of the typical one, for full and for no trust
DUPLICATE = 0.2  # closer than this share of the typical distance counts as the same vote
FLOOR = 1e-3
BISECTIONS, LOWEST_LOG_BETA = 18, -7.0


def soften(logits: Tensor) -> Tensor:
    """Return logits with over-confident clients brought to the median client's mean entropy.

    Client n's logits are multiplied by β_n ≤ 1 such that the mean entropy of its answers
    reaches the median over clients; clients at or above the median keep
    their logits. So over-confidence buys no weight.

    Parameters
    ----------
    logits : Tensor
        ``[N, M, C]``.

    Returns
    -------
    Tensor
        ``[N, M, C]``.
    """
    mean_entropy = entropy(torch_softmax(logits)).mean(-1)
    target = mean_entropy.quantile(0.5)
    low = torch.full_like(mean_entropy, LOWEST_LOG_BETA)
    high = torch.zeros_like(mean_entropy)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        h = entropy(torch_softmax(middle.exp()[:, None, None] * logits)).mean(-1)
        low, high = torch.where(h > target, middle, low), torch.where(h > target, high, middle)
    beta = torch.where(mean_entropy >= target, torch.ones_like(low), ((low + high) / 2).exp())
    return beta[:, None, None] * logits


def correlations(logits: Tensor) -> Tensor:
    """Return how alike the clients' answers are, ``[N, N]`` in [-1, 1].

    The correlation of doubly centred log-probabilities: unchanged by a client's scale,
    temperature or class bias, so a different class prior does not look like disagreement.
    """
    v = F.log_softmax(logits, dim=-1).clamp_min(LOWEST_LOG_PROBABILITY)
    v = v - v.mean(-1, keepdim=True)
    v = (v - v.mean(1, keepdim=True)).flatten(1)
    v = F.normalize(v, dim=1)
    return v @ v.T


def correlation_trust(agreement: Tensor) -> Tensor:
    """Return the trust in each client by its typical agreement with the others.

    Three times, from r = 1: s_n is the weighted median over the others m of their
    agreement with n, weights d_m max(r_m, 0.001); µ the weighted median of all s;
    r_n = clip((s_n/µ − ¼)/(¾ − ¼), 0, 1). d_m is one over the number of near-identical
    uploads, so that copies share one vote.

    Parameters
    ----------
    agreement : Tensor
        ``[N, N]`` correlations, possibly averaged over rounds.

    Returns
    -------
    Tensor
        r, ``[N]`` in [0, 1]; all 1 for fewer than four clients.
    """
    n = len(agreement)
    if n < FEWEST_PEERS:
        return torch.ones(n)
    votes = 1 / _copies(agreement)
    trust = torch.ones(n)
    for _ in range(3):
        weight = votes * trust.clamp_min(FLOOR)
        s = _peer_medians(agreement, weight)
        typical = weighted_median(s, trust.clamp_min(FLOOR))
        if typical <= 0:  # no client agrees with another: no ground for distrust
            return torch.ones(n)
        trust = ((s / typical - NONE) / (FULL - NONE)).clamp(0, 1)
    return trust


def class_reliability(probabilities: Tensor, weights: Tensor, power: float = 1.0) -> Tensor:
    """Return weights by how often the other clients confirm a client, class by class.

    One-coin Dawid-Skene, two passes: q_nc is the share of client n's mass on class c that
    the consensus of the others confirms, ρ_nc = clip((q_nc − 1/C)/(1 − 1/C), 0.01, 1)^p,
    and each weight is multiplied by Σ_c T_c(x) ρ_nc.

    Parameters
    ----------
    probabilities : Tensor
        ``[N, M, C]``.
    weights : Tensor
        ``[N, M]`` trust times sample weights.
    power : float
        p.

    Returns
    -------
    Tensor
        New weights ``[N, M]``.
    """
    chance, start = 1 / probabilities.shape[-1], weights
    for _ in range(2):
        u = weights / weights.sum(0).clamp_min(1e-38)
        target = torch.einsum("nm,nmc->mc", u, probabilities)
        peers = (target - u[..., None] * probabilities).clamp_min(0)
        peers = peers / peers.sum(-1, keepdim=True).clamp_min(1e-12)
        mass = start[..., None] * peers
        q = ((mass * probabilities).sum(1) + 0.2) / (mass.sum(1) + 2.0)
        rho = ((q - chance) / (1 - chance)).clamp(0.01, 1) ** power
        weights = start * (rho @ target.T)
    return weights


def coordinate_median(probabilities: Tensor) -> Tensor:
    """Return the median over clients of each probability, renormalised, ``[M, C]``."""
    median = probabilities.quantile(0.5, dim=0)
    return median / median.sum(-1, keepdim=True).clamp_min(1e-12)


def root_precision(probabilities: Tensor, labels: Tensor, power: float = 3.0) -> Tensor:
    """Return factors ``[N, C]``: each client's precision for each class on labelled rows.

    Parameters
    ----------
    probabilities : Tensor
        ``[N, m, C]``, the answers on the m labelled public rows.
    labels : Tensor
        int64 ``[m]``.
    power : float
        The precision is raised to it.

    Returns
    -------
    Tensor
        ``[N, C]`` in (0, 1]; a class that a client never predicts there counts as chance.
    """
    classes = probabilities.shape[-1]
    truth = F.one_hot(labels, classes).to(probabilities.dtype)
    hits = (probabilities * truth).sum(1)
    return ((hits + 1 / classes) / (probabilities.sum(1) + 1)) ** power


def weighted_median(values: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted median of ``values [n]``; halfway where the weight is split evenly."""
    order = values.argsort(stable=True)
    values, cumulative = values[order], weights[order].double().cumsum(0)
    half = cumulative[-1] / 2
    lower = int(torch.searchsorted(cumulative, half * (1 - 1e-9)))
    upper = int(torch.searchsorted(cumulative, half * (1 + 1e-9)))
    return (values[lower] + values[min(upper, len(values) - 1)]) / 2


def _peer_medians(agreement: Tensor, weight: Tensor) -> Tensor:
    n = len(agreement)
    peers = [torch.arange(n) != i for i in range(n)]
    return torch.stack([weighted_median(agreement[i][o], weight[o]) for i, o in enumerate(peers)])


def _copies(agreement: Tensor) -> Tensor:
    """Return for each client how many uploads, its own included, are nearly the same."""
    median = weighted_median(
        _peer_medians(agreement, torch.ones(len(agreement))), torch.ones(len(agreement))
    )
    near = (1 - agreement) < DUPLICATE * (1 - median)
    near.fill_diagonal_(True)
    return near.sum(1).float()
