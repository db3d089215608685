"""The empirical-Bayes prior against the closed form."""

from __future__ import annotations

import math

import pytest
import torch

from fedkt.data.priors import GRID, empirical_bayes_prior


def by_hand(counts: list[float]) -> list[float]:
    """The definition, written out with the standard library."""
    classes, n = len(counts), sum(counts)

    def score(s: float) -> float:
        likelihood = math.lgamma(classes * s) - math.lgamma(n + classes * s)
        likelihood += sum(math.lgamma(c + s) - math.lgamma(s) for c in counts)
        return likelihood - (math.log(s) - math.log(0.5)) ** 2 / 8

    best = max((float(s) for s in GRID), key=score)
    return [(c + best) / (n + classes * best) for c in counts]


@pytest.mark.parametrize(
    "counts",
    [[30, 0, 0], [10, 10, 10], [1, 0, 0, 0], [0, 0], [7, 9, 8, 6, 11], [290, 5, 4, 1, 0, 0, 0, 0]],
)
def test_closed_form(counts: list[float]) -> None:
    prior = empirical_bayes_prior(torch.tensor(counts))
    assert prior.tolist() == pytest.approx(by_hand(counts), rel=1e-6)
    assert float(prior.sum()) == pytest.approx(1)
    assert bool((prior > 0).all()), "no class is ruled out"


def test_grid() -> None:
    assert len(GRID) == 16
    assert float(GRID[0]) == pytest.approx(0.02)
    assert float(GRID[-1]) == pytest.approx(50)


def test_near_uniform_counts_shrink_to_uniform() -> None:
    counts = torch.tensor([9.0, 11.0, 10.0, 8.0, 12.0])
    prior = empirical_bayes_prior(counts)
    raw = counts / counts.sum()
    assert float((prior - 0.2).abs().max()) < 0.6 * float((raw - 0.2).abs().max())


def test_uniform_counts_give_the_uniform_prior() -> None:
    prior = empirical_bayes_prior(torch.full((4,), 25))
    assert prior.tolist() == pytest.approx([0.25] * 4)


def test_skewed_counts_keep_their_shape() -> None:
    prior = empirical_bayes_prior(torch.tensor([100, 100, 0, 0, 0, 0, 0, 0, 0, 0]))
    assert float(prior[0]) > 0.49
    assert 0 < float(prior[5]) < 0.005
