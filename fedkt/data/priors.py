"""A client's own class prior, estimated from its label counts; the counts never leave it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Pseudo-counts tried, and the log-normal belief about them: mode 0.5, standard deviation 2.
GRID = torch.logspace(math.log10(0.02), math.log10(50.0), 16, dtype=torch.float64)
MODE, VARIANCE_TIMES_TWO = 0.5, 8.0


def empirical_bayes_prior(counts: Tensor) -> Tensor:
    """Return class probabilities ``[C]`` estimated from counts by empirical Bayes.

    π_c = (n_c + s)/(n + C s), where the pseudo-count s maximises the Dirichlet-multinomial
    likelihood of the counts under a symmetric Dirichlet(s), times a log-normal belief
    about s, on a grid of 16 values from 0.02 to 50. Counts that look like sampling noise
    around uniform get a large s and shrink to uniform; no class gets probability zero.

    Parameters
    ----------
    counts : Tensor
        ``[C]``, non-negative; sums of sample weights are allowed.

    Returns
    -------
    Tensor
        π, ``[C]`` float32, positive, summing to 1.
    """
    n = counts.to(torch.float64)
    s, classes = GRID[:, None], len(n)
    likelihood = (
        torch.lgamma(classes * GRID)
        - torch.lgamma(n.sum() + classes * GRID)
        + (torch.lgamma(n + s) - torch.lgamma(s)).sum(1)
    )
    belief = (GRID.log() - math.log(MODE)).square() / VARIANCE_TIMES_TWO
    best = GRID[int((likelihood - belief).argmax())]
    return ((n + best) / (n.sum() + classes * best)).float()
