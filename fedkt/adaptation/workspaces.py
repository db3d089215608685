"""The workspace of FedKA: knowledge about features that the clients may not see."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from fedkt.adaptation.discrepancy import fourier_mean
from fedkt.knowledge import Knowledge

Workspace = Literal["features", "fourier", "gaussian"]


def describe(
    features: Tensor,
    ids: Tensor,
    form: Workspace,
    *,
    moments: bool = False,
    fourier_features: int = 1024,
    seed: int = 0,
) -> Knowledge:
    """Return knowledge about features ``[S, d]``, in one of three forms.

    Parameters
    ----------
    features : Tensor
        float32 ``[S, d]``.
    ids : Tensor
        int64 ``[S]``, of the samples they belong to.
    form : {"features", "fourier", "gaussian"}
        The features themselves, 4Sd + 8S bytes with their ids. Or ``statistics``: the mean of D
        random Fourier features of a Gaussian kernel (``mean_embedding [D]``) whose bandwidth
        is the mean squared distance of the features (``sigma [1]``), 4(D + 1) bytes; or
        ``mean [d]`` and ``variance [d]``, 8d bytes.
    moments : bool
        Whether mean and variance go with ``fourier`` as well.
    fourier_features, seed : int
        D, and the seed of the frequencies.
    """
    if form == "features":
        return Knowledge.rows("features", features, ids)
    tensors = {}
    if form == "gaussian" or moments:
        tensors = {"mean": features.mean(0), "variance": features.var(0, correction=0)}
    if form == "fourier":
        # The mean squared distance of two different rows is twice the total variance.
        sigma = 2 * features.var(0).sum().reshape(1).clamp_min(1e-12)
        tensors["mean_embedding"] = fourier_mean(features, seed, fourier_features, sigma)
        tensors["sigma"] = sigma
    return Knowledge("statistics", tensors)
