"""KnFu's estimates, divergences and weights against double loops in NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from fedkt.fusion.neighbours import (
    estimate_distributions,
    keep_nearest,
    neighbour_weights,
    pairwise_divergence,
)

DIVERGENCES = ("kl", "reverse-kl", "js", "tv")


def distributions(n: int = 5, c: int = 4, sharp: float = 2.0, seed: int = 0) -> torch.Tensor:
    logits = sharp * torch.randn(n, c, generator=torch.Generator().manual_seed(seed))
    q = logits.softmax(-1)
    return (q + 1e-4) / (1 + c * 1e-4)


def kl(p: np.ndarray, q: np.ndarray) -> float:
    return sum(float(a) * math.log(a / b) for a, b in zip(p, q, strict=True))


BY_HAND: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "kl": kl,
    "reverse-kl": lambda p, q: kl(q, p),
    "js": lambda p, q: 0.5 * kl(p, (p + q) / 2) + 0.5 * kl(q, (p + q) / 2),
    "tv": lambda p, q: 0.5 * sum(abs(a - b) for a, b in zip(p, q, strict=True)),
}


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_divergences_equal_the_double_loop(divergence: str) -> None:
    q = distributions()
    exact = q.double().numpy()
    by_hand = [[BY_HAND[divergence](p, r) for r in exact] for p in exact]
    assert np.allclose(pairwise_divergence(q, divergence), by_hand, atol=1e-6)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_divergences_are_never_negative_and_zero_on_the_diagonal(divergence: str) -> None:
    q = distributions(8, 10, sharp=6)
    q = torch.cat([q, q[:1]])  # a twin
    d = pairwise_divergence(q, divergence)
    assert float(d.min()) >= 0
    assert float(d.diagonal().abs().max()) == 0
    assert float(d[0, -1]) < 1e-6
    assert float(d[0, 1]) > 0.01


@pytest.mark.parametrize(("divergence", "bound"), [("js", math.log(2)), ("tv", 1.0)])
def test_bounded_and_symmetric_divergences(divergence: str, bound: float) -> None:
    one_class = torch.eye(4) * (1 - 4e-4) + 1e-4
    d = pairwise_divergence(one_class, divergence)
    assert float(d.max()) <= bound
    assert float(d.max()) > 0.99 * bound
    random = pairwise_divergence(distributions(), divergence)
    assert torch.allclose(random, random.T, atol=1e-7)


def test_kl_has_a_direction() -> None:
    q = distributions()
    forward, backward = pairwise_divergence(q, "kl"), pairwise_divergence(q, "reverse-kl")
    assert torch.allclose(forward, backward.T, atol=1e-6)
    assert float((forward - backward).abs().max()) > 0.1


# --- weights -------------------------------------------------------------------------------


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("beta", [0.0, 0.5, 10.0, 1e6])
def test_rows_sum_to_one(divergence: str, beta: float) -> None:
    weights = neighbour_weights(distributions(sharp=8), beta, divergence)
    assert torch.allclose(weights.sum(1), torch.ones(5), atol=1e-6)
    assert float(weights.min()) >= 0
    assert torch.equal(weights.diagonal(), weights.max(1).values)


def test_weights_equal_equation_8() -> None:
    q = distributions()
    exact = q.double().numpy()
    for n in range(5):
        unnormalised = [math.exp(-3.0 * kl(exact[n], exact[m])) for m in range(5)]
        by_hand = np.array(unnormalised) / sum(unnormalised)
        assert np.allclose(neighbour_weights(q, 3.0)[n], by_hand, atol=1e-5)


def test_beta_zero_is_uniform_and_beta_large_is_selfish() -> None:
    q = distributions()
    assert torch.allclose(neighbour_weights(q, 0.0), torch.full((5, 5), 0.2))
    assert torch.allclose(neighbour_weights(q, 1e6), torch.eye(5), atol=1e-6)


def test_identical_clients_get_uniform_rows() -> None:
    q = distributions(1).expand(4, -1)
    for divergence in DIVERGENCES:
        for beta in (1.0, 10.0, 1e4):
            weights = neighbour_weights(q, beta, divergence)
            assert torch.allclose(weights, torch.full((4, 4), 0.25), atol=1e-3)


def test_one_client() -> None:
    assert neighbour_weights(distributions(1), 10.0).tolist() == [[1.0]]


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_relabelling_the_clients_permutes_the_weights(divergence: str) -> None:
    q = distributions()
    order = torch.tensor([3, 0, 4, 1, 2])
    weights = neighbour_weights(q, 5.0, divergence)
    assert torch.allclose(
        neighbour_weights(q[order], 5.0, divergence), weights[order][:, order], atol=1e-6
    )


def test_a_penalty_multiplies_columns() -> None:
    q = distributions()
    age = torch.tensor([0.0, 1.0, 2.0, 0.0, 5.0])
    plain = neighbour_weights(q, 2.0)
    decayed = neighbour_weights(q, 2.0, "kl", -math.log(0.5) * age)
    by_hand = plain * 0.5**age
    assert torch.allclose(decayed, by_hand / by_hand.sum(1, keepdim=True), atol=1e-6)


# --- estimates -----------------------------------------------------------------------------

ANSWERS = torch.tensor(
    [
        [[0.9, 0.1, 0.0], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.4, 0.3, 0.3]],
        [[0.0, 0.0, 1.0], [0.1, 0.1, 0.8], [0.5, 0.3, 0.2], [0.3, 0.4, 0.3]],
    ]
)


def test_the_mean_estimator() -> None:
    q = estimate_distributions(ANSWERS, "mean")
    assert np.allclose(q, [[2.1 / 4, 1.4 / 4, 0.5 / 4], [0.9 / 4, 0.8 / 4, 2.3 / 4]])


def test_the_argmax_estimator_counts_the_confident_half() -> None:
    # tops .9 .6 .7 .4: torch's median of four is the lower middle, .6; labels 0 0 1 (0)
    # tops 1. .8 .5 .4: the median is .5; labels 2 2 0 (1)
    q = estimate_distributions(ANSWERS, "argmax")
    assert np.allclose(q, [[2 / 3, 1 / 3, 0], [1 / 3, 0, 2 / 3]])


def test_the_corrected_estimator_divides_by_the_ensemble() -> None:
    own = ANSWERS.double().numpy().mean(1)
    ratio = own / own.mean(0)
    by_hand = ratio / ratio.sum(1, keepdims=True)
    assert np.allclose(estimate_distributions(ANSWERS, "corrected"), by_hand, atol=1e-6)


def test_the_correction_undoes_a_skewed_public_set() -> None:
    # Two clients, each sure of its two classes; the public set is mostly class 0.
    expert = torch.tensor([[1.0, 0, 0, 0]] * 6 + [[0, 1.0, 0, 0]] * 2)
    other = torch.tensor([[0, 0, 1.0, 0]] * 6 + [[0, 0, 0, 1.0]] * 2)
    q = estimate_distributions(torch.stack([expert, other]), "corrected")
    assert np.allclose(q, [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]])


@pytest.mark.parametrize("estimator", ["mean", "argmax", "corrected"])
def test_estimates_are_distributions(estimator: str) -> None:
    answers = torch.randn(6, 30, 5, generator=torch.Generator().manual_seed(1)).softmax(-1)
    q = estimate_distributions(answers, estimator)
    assert q.shape == (6, 5)
    assert torch.allclose(q.sum(1), torch.ones(6), atol=1e-6)
    assert float(q.min()) >= 0


def test_the_nearest_are_kept() -> None:
    weights = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [0.2, 0.5, 0.3]])
    kept = keep_nearest(weights, 2)
    assert torch.allclose(kept[0], torch.tensor([0.625, 0.375, 0.0]))
    assert torch.allclose(kept[2], torch.tensor([0.0, 0.625, 0.375]))
    assert kept[1].gt(0).sum() == 2
    assert torch.allclose(kept.sum(1), torch.ones(3))
    for all_of_them in (0, 3, 9):
        assert keep_nearest(weights, all_of_them) is weights
