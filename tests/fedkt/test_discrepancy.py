"""Distances of feature sets against double loops, numpy.cov and the laws of their papers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fedkt.adaptation import (
    coral,
    fourier_frequencies,
    fourier_mean,
    gaussian_mmd,
    linear_mmd,
    moment_distance,
)
from fedkt.errors import ConfigError

D = 6
F64 = torch.float64


def draw(seed: int, *shape: int, dtype: torch.dtype = F64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def mmd_by_loops(x: Tensor, y: Tensor, kernels: int, multiplier: float, unbiased: bool) -> float:
    joint = [row.numpy().astype(np.float64) for row in (*x, *y)]
    apart = [
        ((a - b) ** 2).sum() for i, a in enumerate(joint) for j, b in enumerate(joint) if i != j
    ]
    sigma = sum(apart) / len(apart)

    def k(a: np.ndarray, b: np.ndarray) -> float:
        widths = [sigma / multiplier ** (kernels // 2) * multiplier**i for i in range(kernels)]
        return sum(math.exp(-((a - b) ** 2).sum() / w) for w in widths) / kernels

    def mean(rows: list[np.ndarray], others: list[np.ndarray]) -> float:
        same = rows is others
        pairs = [
            k(a, b)
            for i, a in enumerate(rows)
            for j, b in enumerate(others)
            if not (unbiased and same and i == j)
        ]
        return sum(pairs) / len(pairs)

    one, two = joint[: len(x)], joint[len(x) :]
    return mean(one, one) + mean(two, two) - 2 * mean(one, two)


# --- kernels -------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "m"), [(5, 5), (4, 7), (9, 2), (1, 3)])
@pytest.mark.parametrize(("kernels", "multiplier"), [(1, 2.0), (4, 3.0), (5, 2.0)])
def test_mmd_equals_the_double_loop(n: int, m: int, kernels: int, multiplier: float) -> None:
    x, y = draw(0, n, D), 2 * draw(1, m, D) + 1
    for estimator in ("biased", "unbiased"):
        if estimator == "unbiased" and min(n, m) < 2:
            continue
        found = gaussian_mmd(x, y, kernels=kernels, multiplier=multiplier, estimator=estimator)
        by_hand = mmd_by_loops(x, y, kernels, multiplier, estimator == "unbiased")
        assert float(found) == pytest.approx(by_hand, rel=1e-10)


def test_biased_mmd_is_a_squared_distance() -> None:
    for seed in range(20):
        x, y = draw(seed, 8, D), draw(seed + 100, 5, D) * (1 + seed / 10)
        assert float(gaussian_mmd(x, y)) > 0
        assert float(gaussian_mmd(x, y)) == pytest.approx(float(gaussian_mmd(y, x)), rel=1e-12)
        assert abs(float(gaussian_mmd(x, x))) < 1e-14
        assert abs(float(gaussian_mmd(x, x[torch.randperm(8)]))) < 1e-14
    same = torch.ones(4, D, dtype=F64)
    assert float(gaussian_mmd(same, same)) == 0, "no distance, no bandwidth"


def test_the_mean_of_five_kernels_is_a_fifth_of_their_sum() -> None:
    x, y = draw(0, 16, D), draw(1, 16, D) + 1
    joint = torch.cat([x, y])
    sigma = (torch.cdist(joint, joint) ** 2).sum() / (32 * 31)
    alone = [gaussian_mmd(x, y, kernels=1, sigma=sigma * 2.0 ** (i - 2)) for i in range(5)]
    assert float(sum(alone) / gaussian_mmd(x, y)) == pytest.approx(5)


def test_float32_far_from_the_origin_is_as_good_as_float64() -> None:
    x, y = draw(0, 30, D), draw(1, 30, D) + 0.5
    near = gaussian_mmd(x, y)
    far = gaussian_mmd((x + 1000).float(), (y + 1000).float())
    assert float(far) == pytest.approx(float(near), rel=1e-3)


@pytest.mark.parametrize(("size", "notebook"), [(16, 0.385), (128, 0.048)])
def test_bias_under_equal_distributions(size: int, notebook: float) -> None:
    # FedKA's notebook, the sum of five kernels, was measured to give these on 800 features.
    rows = [(draw(s, size, 800), draw(s + 50, size, 800)) for s in range(5)]
    found = np.mean([float(gaussian_mmd(x, y)) for x, y in rows])
    assert found == pytest.approx(notebook / 5, rel=0.03)


@pytest.mark.parametrize("estimate", [gaussian_mmd, linear_mmd], ids=["u-statistic", "linear"])
def test_unbiased_estimates_are_zero_on_the_average(estimate: Callable[..., Tensor]) -> None:
    options: dict[str, Any] = {"estimator": "unbiased"} if estimate is gaussian_mmd else {}
    draws = [
        float(estimate(draw(s, 10, D), draw(s + 10_000, 14, D), sigma=12.0, **options))
        for s in range(500)
    ]
    error = np.std(draws, ddof=1) / math.sqrt(len(draws))
    assert abs(np.mean(draws)) < 4 * error
    assert min(draws) < 0 < max(draws)
    biased = [float(gaussian_mmd(draw(s, 10, D), draw(s + 10_000, 14, D))) for s in range(50)]
    assert np.mean(biased) > 10 * error


def test_unbiased_estimates_agree_on_distributions_that_differ() -> None:
    found = []
    for seed in range(400):
        x, y = draw(seed, 10, D), draw(seed + 10_000, 10, D) + 0.5
        exact = gaussian_mmd(x, y, estimator="unbiased", sigma=12.0)
        found.append((float(exact), float(linear_mmd(x, y, sigma=12.0))))
    exacts, linears = np.array(found).T
    error = np.std(linears - exacts, ddof=1) / math.sqrt(len(found))
    assert abs(np.mean(linears - exacts)) < 4 * error
    assert np.mean(exacts) > 10 * error


def test_linear_mmd_equals_its_formula() -> None:
    x, y, s = draw(0, 7, D), draw(1, 6, D), 3.0

    def k(a: Tensor, b: Tensor) -> float:
        apart = float((a - b).square().sum())
        return sum(math.exp(-apart / (s * w)) for w in (0.5, 1.0)) / 2

    by_hand = [
        k(x[i], x[i + 1]) + k(y[i], y[i + 1]) - k(x[i], y[i + 1]) - k(x[i + 1], y[i])
        for i in (0, 2, 4)
    ]
    found = linear_mmd(x, y, kernels=2, sigma=s)
    assert float(found) == pytest.approx(2 / 6 * sum(by_hand), rel=1e-12)
    assert float(linear_mmd(x[:1], y)) == 0, "a row without a partner"


def test_one_row_has_no_unbiased_estimate() -> None:
    assert float(gaussian_mmd(draw(0, 1, D), draw(1, 5, D), estimator="unbiased")) == 0


# --- random Fourier features ---------------------------------------------------------------


def fourier_error(width: int, kernels: int = 5) -> float:
    x, y, sigma = draw(0, 12, D), draw(1, 9, D) + 0.5, 10.0
    exact = gaussian_mmd(x, y, kernels=kernels, sigma=sigma)
    errors = []
    for seed in range(60):
        one, two = (fourier_mean(t, seed, width, sigma, kernels=kernels) for t in (x, y))
        errors.append(float((one - two).square().sum() - exact))
    return math.sqrt(np.mean(np.square(errors)))


@pytest.mark.parametrize("kernels", [1, 5])
def test_fourier_features_converge_like_one_over_root_d(kernels: int) -> None:
    small, large = fourier_error(100, kernels), fourier_error(6400, kernels)
    assert small / large == pytest.approx(8, rel=0.3)
    exact = float(gaussian_mmd(draw(0, 12, D), draw(1, 9, D) + 0.5, kernels=kernels, sigma=10.0))
    assert large < 0.05 * exact


def test_fourier_features_have_length_one_for_any_width() -> None:
    for width in (10, 14, 1024):  # widths that do not divide evenly among five kernels
        row = fourier_mean(draw(0, 1, D), 3, width, 2.0)
        assert row.shape == (width,)
        assert float(row.square().sum()) == pytest.approx(1)


def test_fourier_frequencies_come_from_their_seed() -> None:
    one, again = fourier_frequencies(1, D, 20), fourier_frequencies(1, D, 20)
    assert one.shape == (D, 10)
    assert torch.equal(one, again)
    assert not torch.equal(one, fourier_frequencies(2, D, 20))
    wide = fourier_frequencies(0, 200, 1000)
    spread = [float(part.var()) for part in wide.tensor_split(5, dim=1)]
    assert spread == pytest.approx([8, 4, 2, 1, 0.5], rel=0.03)
    with pytest.raises(ConfigError, match="even and at least 10, not 8"):
        fourier_mean(draw(0, 3, D), 0, 8, 1.0)
    with pytest.raises(ConfigError, match="even and at least 10, not 11"):
        fourier_mean(draw(0, 3, D), 0, 11, 1.0)


# --- covariances and moments ---------------------------------------------------------------


def test_coral_is_that_of_numpys_covariances() -> None:
    x, y = draw(0, 9, D), 2 * draw(1, 5, D)
    gap = np.cov(x.numpy(), rowvar=False) - np.cov(y.numpy(), rowvar=False)
    assert float(coral(x, y)) == pytest.approx((gap**2).sum() / (4 * D * D), rel=1e-12)
    assert float(coral(x, x + 7)) == pytest.approx(0, abs=1e-25)


def test_moments_are_the_distance_of_two_normal_distributions() -> None:
    x, y = draw(0, 9, D), 2 * draw(1, 5, D) + 1
    a, b = x.numpy(), y.numpy()
    by_hand = (a.mean(0) - b.mean(0)) ** 2 + (a.std(0) - b.std(0)) ** 2
    found = moment_distance(x, y.mean(0), y.var(0, correction=0))
    assert float(found) == pytest.approx(by_hand.mean(), rel=1e-6)
    assert float(moment_distance(x, x.mean(0), x.var(0, correction=0))) < 1e-15


def test_dead_features_have_finite_gradients() -> None:
    x = draw(0, 5, D)
    x[:, 0] = 0
    x.requires_grad_()
    moment_distance(x, torch.ones(D, dtype=F64), torch.zeros(D, dtype=F64)).backward()
    assert bool(torch.isfinite(x.grad).all())
