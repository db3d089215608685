"""How far apart two sets of features are: kernel means, covariances, moments.

Pure functions of tensors that run unchanged under ``torch.func``. ``x`` is ``[n, d]``, ``y``
``[m, d]``, and n may differ from m. Weights are 0 for padding, which then has no influence;
other weights stand for how often a row counts. A set that is all padding is worth 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fedkt.errors import ConfigError
from fedkt.objectives.term import weighted_mean_rows
from fedkt.rng import numpy_rng

Estimator = Literal["biased", "unbiased"]
TINY = 1e-12


def gaussian_mmd(
    x: Tensor,
    y: Tensor,
    *,
    kernels: int = 5,
    multiplier: float = 2.0,
    estimator: Estimator = "biased",
    weight: Tensor | None = None,
    other_weight: Tensor | None = None,
    sigma: Tensor | float | None = None,
) -> Tensor:
    """Return the squared maximum mean discrepancy for a mean of Gaussian kernels, a scalar.

    Gretton et al. (JMLR 2012, "A kernel two-sample test"), Lemma 6, with the kernels of FedKA's
    MK-MMD (Sun et al., ACML 2022, arXiv:2203.11635, equations 5 to 7): k(a, b) is the mean of
    exp(-|a - b|² / s_r), s_r = sigma · multiplier^(r - kernels // 2), r = 0, ..., kernels - 1.
    It is their mean; FedKA's published notebook takes their sum, ``kernels`` times as much.

    Parameters
    ----------
    x, y : Tensor
        ``[n, d]`` and ``[m, d]``.
    kernels : int
        How many Gaussian kernels.
    multiplier : float
        Ratio of neighbouring bandwidths.
    estimator : {"biased", "unbiased"}
        ``biased``, the V-statistic: never negative, 0 for equal sets, and above 0 on the
        average if both come from one distribution (the more, the smaller n and m).
        ``unbiased``, the U-statistic, leaves the diagonals out: 0 on the average then, hence
        also negative; 0 where a set has fewer than two rows.
    weight, other_weight : Tensor, optional
        ``[n]`` and ``[m]``.
    sigma : Tensor or float, optional
        The middle bandwidth; None takes the mean squared distance between different rows of
        the joint sample, as a constant.
    """
    if estimator not in ("biased", "unbiased"):
        raise ConfigError(f"mmd: estimator must be biased or unbiased, not {estimator!r}.")
    p, q = _weights(x, weight), _weights(y, other_weight)
    joint, distances = torch.cat([p, q]), _distances(x, y, p, q)
    if sigma is None:
        total = joint.sum()
        pairs = total.square() - joint.square().sum()
        sigma = (joint @ distances.detach() @ joint) / pairs.clamp_min(TINY)
    kernel = _gaussians(distances, sigma, kernels, multiplier)
    signed = torch.cat([_normal(p), -_normal(q)])
    factors = signed[:, None] * signed
    enough = _any(p) * _any(q)
    if estimator == "unbiased":
        first = torch.arange(len(joint), device=joint.device) < len(p)
        same = first[:, None] == first
        pairs_x, pairs_y = (1 - w.square().sum() for w in (_normal(p), _normal(q)))
        side = torch.where(first, pairs_x, pairs_y)
        factors = torch.where(same, factors / side.clamp_min(TINY), factors) * _off_diagonal(joint)
        enough = enough * (side.min() > 0)
    return (factors * kernel).sum() * enough


def linear_mmd(
    x: Tensor,
    y: Tensor,
    *,
    kernels: int = 5,
    multiplier: float = 2.0,
    weight: Tensor | None = None,
    other_weight: Tensor | None = None,
    sigma: Tensor | float | None = None,
) -> Tensor:
    """Return an unbiased estimate of the squared MMD in linear time, a scalar.

    Long et al. (ICML 2015, "Learning transferable features with deep adaptation networks",
    section 3.2): (2/n) Σ g(z_i), where z_i = (x_1, x_2, y_1, y_2) are neighbouring rows and
    g(z) = k(x_1, x_2) + k(y_1, y_2) - k(x_1, y_2) - k(x_2, y_1). Rows without a partner, and
    those of the larger set that are left over, are not used. Its noise is far larger than
    that of :func:`gaussian_mmd`, whose parameters it shares.

    Parameters
    ----------
    x, y : Tensor
        ``[n, d]`` and ``[m, d]``.
    kernels, multiplier, weight, other_weight
        As in :func:`gaussian_mmd`; a quadruple counts by the product of its weights.
    sigma : Tensor or float, optional
        The middle bandwidth; None takes the mean of the squared distances used.
    """
    quads = min(len(x), len(y)) // 2
    p, q = _weights(x, weight), _weights(y, other_weight)
    x1, x2, y1, y2 = (t[i : 2 * quads : 2] for t in (x, y) for i in (0, 1))
    count = p[: 2 * quads : 2] * p[1 : 2 * quads : 2] * q[: 2 * quads : 2] * q[1 : 2 * quads : 2]
    pairs = ((x1, x2), (y1, y2), (x1, y2), (x2, y1))
    distances = torch.stack([(a - b).square().sum(-1) for a, b in pairs])
    if sigma is None:
        sigma = (distances.detach() @ count).mean() / count.sum().clamp_min(TINY)
    k = _gaussians(distances, sigma, kernels, multiplier)
    return ((k[0] + k[1] - k[2] - k[3]) * count).sum() / count.sum().clamp_min(TINY)


def coral(
    x: Tensor, y: Tensor, *, weight: Tensor | None = None, other_weight: Tensor | None = None
) -> Tensor:
    """Return the squared distance of two covariances, |C_x - C_y|²_F / (4 d²), a scalar.

    Sun and Saenko (ECCV workshops 2016, arXiv:1607.01719), equations 1 to 3; the covariances
    have n - 1 in the denominator, and that of a single row is 0.

    Parameters
    ----------
    x, y : Tensor
        ``[n, d]`` and ``[m, d]``.
    weight, other_weight : Tensor, optional
        ``[n]`` and ``[m]``.
    """
    p, q = _weights(x, weight), _weights(y, other_weight)
    gap = (_covariance(x, p) - _covariance(y, q)).square().sum()
    return gap / (4 * x.shape[-1] ** 2) * _any(p) * _any(q)


def fourier_frequencies(
    seed: int, d: int, D: int, kernels: int = 5, multiplier: float = 2.0
) -> Tensor:
    """Return random frequencies for kernels of middle bandwidth 1, ``[d, D / 2]`` float64.

    Rahimi and Recht (NIPS 2007, "Random features for large-scale kernel machines"): the
    frequencies of exp(-|a - b|² / s) are normal with variance 2 / s. The D / 2 columns are
    dealt to the kernels in order, as evenly as they go.

    Parameters
    ----------
    seed : int
        Equal seeds give equal frequencies at every party.
    d : int
        Width of the features.
    D : int
        Width of the embedding, even and at least ``2 * kernels``.
    kernels, multiplier
        As in :func:`gaussian_mmd`.
    """
    return torch.from_numpy(_drawn(seed, d, D, kernels, multiplier))


def fourier_mean(
    x: Tensor,
    seed: int,
    D: int,
    sigma: Tensor | float,
    *,
    kernels: int = 5,
    multiplier: float = 2.0,
    weight: Tensor | None = None,
) -> Tensor:
    """Return the mean embedding of some features, ``[D]``.

    |fourier_mean(x) - fourier_mean(y)|² tends to the biased ``gaussian_mmd(x, y, sigma=sigma)``
    as D grows; its error falls as 1/√D. The embedding of a row is a cosine and a sine for every
    frequency w, since cos(w·a) cos(w·b) + sin(w·a) sin(w·b) = cos(w·(a - b)), whose mean over
    the frequencies is the kernel.

    Parameters
    ----------
    x : Tensor
        ``[n, d]``.
    seed, D, kernels, multiplier
        See :func:`fourier_frequencies`.
    sigma : Tensor or float
        The middle bandwidth, a number or a tensor with one entry; the same for all parties.
    weight : Tensor, optional
        ``[n]``.
    """
    frequencies = fourier_frequencies(seed, x.shape[-1], D, kernels, multiplier).to(x)
    if isinstance(sigma, Tensor):
        sigma = sigma.reshape(()).clamp_min(TINY)
    angles = (x @ frequencies) / sigma**0.5
    counts = np.array([len(part) for part in _shares(D, kernels)])
    scale = torch.from_numpy(np.repeat((kernels * counts) ** -0.5, counts)).to(x)
    rows = torch.cat([angles.cos() * scale, angles.sin() * scale], -1)
    return weighted_mean_rows(rows, _weights(x, weight))


def moment_distance(
    x: Tensor, mean: Tensor, variance: Tensor, *, weight: Tensor | None = None
) -> Tensor:
    """Return the mean over the d features of (difference of means)² + (that of deviations)².

    This is the squared 2-Wasserstein distance of two normal distributions with independent
    features, divided by d. Variances have n in the denominator, as batch normalisation's.

    Parameters
    ----------
    x : Tensor
        ``[n, d]``.
    mean, variance : Tensor
        ``[d]``, of the other side.
    weight : Tensor, optional
        ``[n]``.
    """
    w = _weights(x, weight)
    means = weighted_mean_rows(x, w)
    spread = weighted_mean_rows((x - means).square(), w)
    # The root of a dead feature's variance has no finite slope: a little is added to both.
    deviations = (spread + 1e-8).sqrt() - (variance.clamp_min(0) + 1e-8).sqrt()
    return ((means - mean).square() + deviations.square()).mean() * _any(w)


def _weights(x: Tensor, weight: Tensor | None) -> Tensor:
    return x.new_ones(len(x)) if weight is None else weight.to(x.dtype)


def _normal(weight: Tensor) -> Tensor:
    return weight / weight.sum().clamp_min(TINY)


def _any(weight: Tensor) -> Tensor:
    """Return 1 if any row counts, else 0: against padding only there is nothing to compare."""
    return (weight.sum() > 0).to(weight.dtype)


def _off_diagonal(like: Tensor) -> Tensor:
    return 1 - torch.eye(len(like), dtype=like.dtype, device=like.device)


def _distances(x: Tensor, y: Tensor, p: Tensor, q: Tensor) -> Tensor:
    """Return squared distances within the joint sample, ``[n + m, n + m]``.

    By way of the Gram matrix, which is the only thing of that size: n · m · d numbers would
    not fit in a cache. Centring first keeps float32 exact enough where all rows lie far out.
    """
    weight = torch.cat([p, q])
    joint = torch.cat([x, y])
    joint = joint - weighted_mean_rows(joint.detach(), weight)
    gram = joint @ joint.T
    squares = joint.square().sum(-1)
    distances = (squares[:, None] + squares - 2 * gram).clamp_min(0)
    return distances * _off_diagonal(squares)


def _gaussians(distances: Tensor, sigma: Tensor | float, kernels: int, multiplier: float) -> Tensor:
    middle = sigma.clamp_min(TINY) if isinstance(sigma, Tensor) else max(sigma, TINY)
    scaled = distances / middle
    parts = [torch.exp(-scaled / factor) for factor in _bandwidths(kernels, multiplier)]
    return torch.stack(parts).mean(0)


def _bandwidths(kernels: int, multiplier: float) -> list[float]:
    return [multiplier ** (i - kernels // 2) for i in range(kernels)]


def _covariance(x: Tensor, weight: Tensor) -> Tensor:
    centred = x - weighted_mean_rows(x, weight)
    total = weight.sum()
    freedom = total - weight.square().sum() / total.clamp_min(TINY)
    scatter = (centred * weight[:, None]).T @ centred
    return torch.where(freedom > 0, scatter / freedom.clamp_min(TINY), torch.zeros_like(scatter))


@lru_cache(maxsize=8)
def _drawn(seed: int, d: int, D: int, kernels: int, multiplier: float) -> np.ndarray:
    # NumPy, since what is kept must be no tensor of a torch.func transform that is under way.
    if D % 2 or 2 * kernels > D:
        raise ConfigError(f"fourier: D must be even and at least {2 * kernels}, not {D}.")
    drawn = numpy_rng(seed, f"fourier/{d}/{D}/{kernels}").standard_normal((d, D // 2))
    for columns, bandwidth in zip(
        _shares(D, kernels), _bandwidths(kernels, multiplier), strict=True
    ):
        drawn[:, columns] *= (2 / bandwidth) ** 0.5
    return drawn


def _shares(D: int, kernels: int) -> Iterator[np.ndarray]:
    """Yield the columns of each kernel."""
    yield from np.array_split(np.arange(D // 2), kernels)
