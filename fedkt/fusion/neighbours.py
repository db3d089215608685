"""Weights from the likeness of the clients' class distributions (KnFu, arXiv:2403.11892)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkt.answers import probabilities_of
from fedkt.fusion.averaging import personalised_mean
from fedkt.fusion.fusion import Fusion, FusionRound, need_answers
from fedkt.knowledge import Knowledge, Stack
from fedkt.options import Count, Factor, Positive
from fedkt.registry import register

Divergence = Literal["kl", "reverse-kl", "js", "tv"]
Estimator = Literal["mean", "argmax", "corrected"]
ESTIMATE = "knfu's estimate of the clients' classes"  # in refusals


def estimate_distributions(answers: Tensor, estimator: Estimator) -> Tensor:
    """Estimate each client's class distribution from its answers.

    Parameters
    ----------
    answers : Tensor
        Probabilities ``[N, M, C]``.
    estimator : {"mean", "argmax", "corrected"}
        See ``fedkt.strategies.answers.knfu.KnFu``.

    Returns
    -------
    Tensor
        ``[N, C]``, rows summing to 1, not smoothed.
    """
    if estimator == "argmax":
        top, label = answers.max(-1)
        confident = (top >= top.median(1, keepdim=True).values).to(answers.dtype)
        counts = F.one_hot(label, answers.shape[-1]).to(answers.dtype) * confident[..., None]
        return counts.sum(1) / confident.sum(1, keepdim=True)
    q = answers.mean(1)
    if estimator == "corrected":
        q = q / answers.mean((0, 1)).clamp_min(1e-12)
        q = q / q.sum(1, keepdim=True)
    return q


def neighbour_weights(
    q: Tensor, beta: float, divergence: Divergence = "kl", penalty: Tensor | None = None
) -> Tensor:
    """Return the fusion weights of equation 8.

    Parameters
    ----------
    q : Tensor
        Class distributions ``[N, C]``, without zeros.
    beta : float
        β ≥ 0.
    divergence : {"kl", "reverse-kl", "js", "tv"}
        See ``fedkt.strategies.answers.knfu.KnFu``.
    penalty : Tensor, optional
        ``[N]``, subtracted from the exponent of each column (age decay).

    Returns
    -------
    Tensor
        ``[N, N]``, row-stochastic.
    """
    # In place, here and below: of 10,000 clients every such matrix is 400 MB.
    exponent = pairwise_divergence(q, divergence).mul_(-beta)
    return F.softmax(exponent if penalty is None else exponent - penalty, dim=1)


def keep_nearest(weights: Tensor, nearest: int) -> Tensor:
    """Keep the largest weights of each row and let the row sum to 1 again.

    Parameters
    ----------
    weights : Tensor
        ``[N, N]``, non-negative.
    nearest : int
        How many of a row are kept; 0, or as many as there are, keeps all.
    """
    if not 0 < nearest < weights.shape[1]:
        return weights
    largest = weights.topk(nearest, dim=1)
    sparse = torch.zeros_like(weights).scatter_(1, largest.indices, largest.values)
    return sparse.div_(sparse.sum(1, keepdim=True))


def pairwise_divergence(q: Tensor, divergence: Divergence) -> Tensor:
    """Return D(q_n, q_m) ``[N, N]`` for all pairs of rows of ``q [N, C]``; the diagonal is 0."""
    log_q = q.log()
    if divergence == "tv":
        return 0.5 * torch.cdist(q, q, p=1)
    if divergence == "js":
        middle = 0.5 * (q[:, None] + q[None])
        negative_entropy = (q * log_q).sum(1)
        distance = 0.5 * (negative_entropy[:, None] + negative_entropy[None])
        distance = distance - (middle * middle.log()).sum(-1)
    else:
        distance = (q @ log_q.T).neg_().add_((q * log_q).sum(1, keepdim=True))
    if divergence == "reverse-kl":
        distance = distance.T
    # Rounding leaves ±1e-7 where there should be 0, which a large beta would magnify.
    return distance.clamp_min_(0).fill_diagonal_(0)


@register
@dataclass(frozen=True)
class SemanticNeighbours(Fusion):
    """For each client the mean of the answers of clients with a similar class distribution (KnFu).

    Seyedmohammadi et al. (2024), arXiv:2403.11892, equation 8; see
    ``fedkt.strategies.answers.knfu.KnFu``. The classes are estimated on the same samples for
    all, so uploads that lack rows are refused.

    Parameters
    ----------
    beta : float
        β ≥ 0; 0 is the plain mean.
    divergence : {"kl", "reverse-kl", "js", "tv"}
        D of two distributions q: KL(q_n ‖ q_m), KL(q_m ‖ q_n), Jensen-Shannon (nats), total
        variation.
    estimator : {"mean", "argmax", "corrected"}
        q_n: the mean answer; the histogram of the top classes of those answers that are at least as
        confident as the client's median answer; the mean answer divided by the mean answer of all.
    epsilon : float
        Smoothing q ← (q + ε)/(1 + Cε), > 0.
    nearest : int
        Only the largest ``nearest`` weights of each client count; 0: all.
    """

    beta: Factor = 10.0
    divergence: Divergence = "kl"
    estimator: Estimator = "mean"
    epsilon: Positive = 1e-4
    nearest: Count = 0
    name: ClassVar[str] = "semantic-neighbours"
    single: ClassVar[str] = "each client gets another mean, by the likeness of single uploads"

    def __call__(self, stack: Stack, round: FusionRound) -> Mapping[int, Knowledge]:
        """Return a mean for each client; the diagnostics hold the distributions, ``[N, C]``."""
        need_answers(self.name, stack.kind)
        stack.need_all_rows(ESTIMATE)
        q = self.distributions(probabilities_of(stack.values, stack.kind))
        weights = keep_nearest(self.weights(q), self.nearest)
        round.diagnostics["clients"] = list(stack.clients)
        round.diagnostics["estimated_distributions"] = self.smoothed(q)
        personal = personalised_mean(stack, weights).personal
        return {client: knowledge[stack.name] for client, knowledge in personal.items()}

    def distributions(self, answers: Tensor) -> Tensor:
        """Return the clients' class distributions ``[N, C]``, not smoothed."""
        return estimate_distributions(answers, self.estimator)

    def weights(self, q: Tensor, penalty: Tensor | None = None) -> Tensor:
        """Return the weights ``[N, N]`` of :func:`neighbour_weights` for ``q``, smoothed."""
        return neighbour_weights(self.smoothed(q), self.beta, self.divergence, penalty)

    def smoothed(self, q: Tensor) -> Tensor:
        """Return distributions ``[N, C]`` without zeros."""
        return (q + self.epsilon) / (1 + q.shape[1] * self.epsilon)

    def flops(self, clients: int, rows: float, classes: int) -> float:
        """Return the FLOPs of the products with each client's weights."""
        return 2.0 * clients * min(self.nearest or clients, clients) * rows * classes
