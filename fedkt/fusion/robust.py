"""Robust means over clients: coordinate-wise, without the largest and smallest numbers.

Yin, Chen, Kannan and Bartlett (ICML 2018), arXiv:1803.01498, definitions 1 and 2. A minority of
clients cannot move them beyond what the others say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Lt
from torch import Tensor

from fedkt.fusion.fusion import Fusion, FusionRound, like, of_rows, refuse_labels
from fedkt.knowledge import Knowledge, Stack
from fedkt.registry import register

Cut = Callable[[Tensor], Tensor]  # how many numbers are cut off at each end, of how many


def middle_mean(values: Tensor, cut: Cut, present: Tensor | None = None) -> Tensor:
    """Return the mean over clients of each coordinate without its ends.

    Parameters
    ----------
    values : Tensor
        ``[N, ...]``.
    cut : callable
        From the number of clients that have a row to the number of numbers that are cut off at each
        end, below half of it; int64 ``[...]`` both.
    present : Tensor, optional
        bool ``[N, M]``, for values ``[N, M, ...]``: the rows that each client has.

    Returns
    -------
    Tensor
        ``[...]``; 0 in rows that nobody has.
    """
    everywhere = torch.ones(len(values), 1, dtype=torch.bool) if present is None else present
    counts = everywhere.sum(0)
    if present is not None:
        values = torch.where(like(present, values), values, torch.inf)
    ends = cut(counts)
    place = torch.arange(len(values))[:, None]
    kept = (place >= ends) & (place < counts - ends)  # [N, M], of the numbers in ascending order
    if present is None:  # a number for each coordinate, whatever the shape
        kept, ends, counts = kept[:, 0], ends[0], counts[0]
    ascending = values.sort(dim=0).values
    total = torch.where(like(kept, ascending), ascending, 0).sum(0)
    return total / like((counts - 2 * ends).clamp_min(1), total)


def half(counts: Tensor) -> Tensor:
    """Return how many numbers lie on either side of the median, or of the middle two."""
    return (counts - 1).clamp_min(0) // 2


def _fused(stack: Stack, cut: Cut) -> Knowledge:
    """Return the middle means of a stack; probabilities sum to 1 again."""
    refuse_labels(stack.kind)
    if stack.ids is None:
        tensors = {name: middle_mean(t, cut) for name, t in stack.tensors.items()}
        return Knowledge(stack.kind, tensors)
    present = stack.present
    values = middle_mean(stack.values, cut, present)
    if stack.kind == "probabilities":
        total = values.sum(-1, keepdim=True)
        # Of certain answers that all differ the median is 0 everywhere.
        mean = middle_mean(stack.values, torch.zeros_like, present)
        values = torch.where(total > 0, values / total.clamp_min(1e-12), mean)
    return of_rows(stack.kind, values, stack.ids, stack.covered, stack.sum_of_counts)


@register
@dataclass(frozen=True)
class Median(Fusion):
    """The coordinate-wise median of the clients; a row's goes over the clients that have it.

    Of an even number it is the mean of the middle two. Probabilities are divided by their sum.
    """

    name: ClassVar[str] = "median"
    partial = True
    single: ClassVar[str] = "a median sorts single uploads"

    def __call__(self, stack: Stack, round: FusionRound) -> Knowledge:
        """Return the median."""
        return _fused(stack, half)


@register
@dataclass(frozen=True)
class TrimmedMean(Fusion):
    """The coordinate-wise mean of the clients without the largest and the smallest numbers.

    A row's goes over the clients that have it. Probabilities are divided by their sum.

    Parameters
    ----------
    trim : float
        Share of the clients that is cut off at each end, rounded down; in [0, 0.5).
    """

    trim: Annotated[float, Ge(0), Lt(0.5)] = 0.1
    name: ClassVar[str] = "trimmed-mean"
    partial = True
    single: ClassVar[str] = "a trimmed mean sorts single uploads"

    def __call__(self, stack: Stack, round: FusionRound) -> Knowledge:
        """Return the trimmed mean."""
        return _fused(stack, lambda counts: (self.trim * counts.double() + 1e-9).long())
