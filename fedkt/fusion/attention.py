"""Dynamic attention: clients whose models have come to cluster the target better count more.

FADA (Peng et al., ICLR 2020, arXiv:1911.02054), section 4.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from fedkt.rng import derive


def looseness(features: Tensor, clusters: int, seed: int) -> float:
    """Return how loosely features cluster: the part of their spread that lies within clusters.

    FADA's gap statistic is Σ_r 1/(2 n_r) Σ_{i,j in r} ‖f_i - f_j‖² over the clusters r of
    k-means (Tibshirani et al. 2001, W_k), the sum of the squared distances from their centres.
    Here it is divided by that for a single cluster, so that it lies in [0, 1] whatever the
    scale of the features.

    Parameters
    ----------
    features : Tensor
        ``[n, d]``, n ≥ 1.
    clusters : int
        k, cut down to n.
    seed : int
        Names the random stream of the starting centres.

    Returns
    -------
    float
        1 for features that are all equal or not finite: they have no clusters.
    """
    # Imported late: loading scikit-learn, which brings threadpoolctl, takes a second.
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    points = features.to(torch.float64)
    spread = float((points - points.mean(0)).square().sum())
    if not 0 < spread < float("inf"):
        return 1.0
    state = derive(seed, "k-means") % 2**32
    means = KMeans(min(clusters, len(points)), n_init=3, random_state=state)
    # Sums are reproducible bit for bit only for a fixed number of threads; fewer different
    # points than clusters are no reason to warn.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        means.fit(points.numpy())
    return min(float(means.inertia_) / spread, 1.0)


def dynamic_attention(before: Tensor, after: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the softmax of the clients' gains in compactness.

    Parameters
    ----------
    before, after : Tensor
        ``[N]``: the looseness under each client's model in its last round and in this one; NaN
        before a client's first round, whose gain is then the mean gain of the others.
    temperature : float
        Above 0; gains are divided by it.

    Returns
    -------
    Tensor
        ``[N]`` on the simplex; 1/N each if no client has a value before.
    """
    gains = before - after
    is_known = ~gains.isnan()
    usual = gains[is_known].mean() if bool(is_known.any()) else gains.new_zeros(())
    return torch.softmax(torch.where(is_known, gains, usual) / temperature, 0)
