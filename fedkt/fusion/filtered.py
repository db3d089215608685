"""Robust means of vectors over clients: the spectral filter and the geometric median."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Lt
from torch import Tensor

from fedkt.fusion.averaging import average_rows
from fedkt.fusion.fusion import Fusion, FusionRound, need_answers
from fedkt.knowledge import Knowledge, Stack
from fedkt.options import AtLeastOne, Factor, Positive
from fedkt.registry import register


def present_in(stack: Stack) -> Tensor:
    """Return which rows each client has, bool ``[N, M]``."""
    present = stack.present
    return torch.ones(stack.values.shape[:2], dtype=torch.bool) if present is None else present


def spectral_filter(values: Tensor, present: Tensor, share: float, bound: float) -> Tensor:
    """Return which clients stay in the mean of each row, bool ``[N, M]``.

    While the largest eigenvalue of the covariance of a row's vectors is above ``bound``, the vector
    that lies farthest from their mean along its eigenvector is left out, at most ``share`` of those
    that there are (rounded down).

    Parameters
    ----------
    values : Tensor
        ``[N, M, C]``.
    present : Tensor
        bool ``[N, M]``.
    share : float
        The largest share of liars, in [0, 0.5).
    bound : float
        The variance that honest clients have in any direction, at most.
    """
    points, kept = values.double().transpose(0, 1), present.T.clone()  # [M, N, C], [M, N]
    most = (share * kept.sum(1).double() + 1e-9).long()
    for number in range(int(most.max()) if len(most) else 0):
        weights = kept.double() / kept.sum(1, keepdim=True).clamp_min(1)
        apart = points - (weights[..., None] * points).sum(1, keepdim=True)
        covariance = (weights[..., None] * apart).mT @ apart
        eigenvalues, vectors = torch.linalg.eigh(covariance)
        along = (apart @ vectors[..., -1:])[..., 0].square().masked_fill(~kept, -1)
        rows = ((eigenvalues[:, -1] > bound) & (number < most)).nonzero()[:, 0]
        kept[rows, along[rows].argmax(1)] = False
    return kept.T


@register
@dataclass(frozen=True)
class FilteredMean(Fusion):
    """The mean of the answers to each sample without vectors that stretch their covariance.

    Diakonikolas et al. (ICML 2017, arXiv:1703.00893), the filter for bounded covariance; see
    :func:`spectral_filter`. There a random share of the farthest vectors goes at a time; here the
    farthest goes, so that a run can be repeated, and no more than the share of liars to expect.

    Parameters
    ----------
    share : float
        The largest share of liars, in [0, 0.5).
    variance : float
        σ² ≥ 0, the variance of honest answers in any direction.
    factor : float
        Eigenvalues up to ``factor`` · σ² are allowed; the filter's is 9.
    """

    share: Annotated[float, Ge(0), Lt(0.5)] = 0.3
    variance: Factor = 0.01
    factor: Positive = 9.0
    name: ClassVar[str] = "filtered-mean"
    partial = True
    single: ClassVar[str] = "a filter compares single uploads"

    def __call__(self, stack: Stack, round: FusionRound) -> Knowledge:
        """Return the mean of those that stay."""
        need_answers(self.name, stack.kind)
        present = present_in(stack)
        kept = spectral_filter(stack.values, present, self.share, self.factor * self.variance)
        round.diagnostics["filtered"] = 1 - kept.sum(1).double() / present.sum(1).clamp_min(1)
        return average_rows(stack, kept.to(torch.float32))


@register
@dataclass(frozen=True)
class GeometricMedian(Fusion):
    """The vector of the smallest sum of distances to the answers to each sample.

    Weiszfeld's algorithm, smoothed as in Pillutla, Kakade & Harchaoui (2022), arXiv:1912.13445.

    Parameters
    ----------
    steps : int
        Number of its steps.
    smoothing : float
        ν > 0: distances below it count as ν.
    """

    steps: AtLeastOne = 50
    smoothing: Positive = 1e-6
    name: ClassVar[str] = "geometric-median"
    partial = True
    single: ClassVar[str] = "a median compares single uploads"

    def __call__(self, stack: Stack, round: FusionRound) -> Knowledge:
        """Return the median of the clients that have a row."""
        need_answers(self.name, stack.kind)
        weights = present = present_in(stack).double()
        points = stack.values.double()
        for _ in range(self.steps):
            total = weights.sum(0).clamp_min(1e-300)
            middle = (weights[..., None] * points).sum(0) / total[..., None]
            distance = (points - middle).square().sum(-1).sqrt()
            weights = present / distance.clamp_min(self.smoothing)
        return average_rows(stack, weights)
