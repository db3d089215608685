"""Clusters of vectors: many small k-means at once."""

from __future__ import annotations

import torch
from torch import Tensor


def k_means(points: Tensor, k: int, generator: torch.Generator, steps: int = 20) -> Tensor:
    """Return the cluster of each point, int64 ``[B, N]``, of B problems.

    Lloyd's algorithm from centres that are drawn far apart (the next is the point farthest from
    those there are, the first is random). A centre that no point is nearest to stays where it is.

    Parameters
    ----------
    points : Tensor
        ``[B, N, D]``.
    k : int
        Number of clusters, at least 1; points that are equal have one cluster.
    generator : torch.Generator
        It draws the first centres, one index for all problems.
    steps : int
        The largest number of steps.
    """
    points = points.double()
    first = int(torch.randint(points.shape[1], (1,), generator=generator))
    centres = points[:, first : first + 1]
    for _ in range(1, min(k, points.shape[1])):
        farthest = _squares(points, centres).amin(-1).argmax(-1)
        chosen = points[torch.arange(len(points)), farthest]
        centres = torch.cat([centres, chosen[:, None]], 1)
    nearest = _squares(points, centres).argmin(-1)
    for _ in range(steps):
        members = torch.nn.functional.one_hot(nearest, centres.shape[1]).to(points.dtype).mT
        number = members.sum(-1, keepdim=True)
        centres = torch.where(number > 0, members @ points / number.clamp_min(1), centres)
        before, nearest = nearest, _squares(points, centres).argmin(-1)
        if torch.equal(nearest, before):
            break
    return nearest


def _squares(points: Tensor, centres: Tensor) -> Tensor:
    """Return squared distances ``[B, N, k]``."""
    norms = points.square().sum(-1)[..., None] + centres.square().sum(-1)[:, None]
    return norms - 2 * points @ centres.mT
