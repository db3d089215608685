"""Per-sample weights of the clients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedkt.answers import entropy
from fedkt.errors import ConfigError
from fedkt.fusion import mean
from fedkt.fusion.weighting import sample_weighted_mean, sample_weights
from fedkt.knowledge import Stack

LOGITS = torch.randn(4, 7, 5, generator=torch.Generator().manual_seed(0))


def stack_of(values: torch.Tensor) -> Stack:
    clients = tuple(range(len(values)))
    ids = torch.arange(values.shape[1])
    return Stack(
        "public", "probabilities", {"values": values}, ids, clients, torch.ones(len(values))
    )


def test_entropy_by_hand_and_at_zero() -> None:
    p = LOGITS.softmax(-1).double().numpy()
    assert np.allclose(entropy(LOGITS.softmax(-1)), -(p * np.log(p)).sum(-1), atol=1e-6)
    assert float(entropy(torch.tensor([1.0, 0.0]))) == 0


def test_entropy_weights_by_hand() -> None:
    p = LOGITS.softmax(-1).double().numpy()
    h = -(p * np.log(p)).sum(-1)
    assert np.allclose(sample_weights(LOGITS, "entropy", 3.0), np.exp(-3 * h), rtol=1e-5)


def test_gamma_zero_and_uniform_are_one() -> None:
    for weights in (sample_weights(LOGITS, "entropy", 0.0), sample_weights(LOGITS, "uniform")):
        assert torch.equal(weights, torch.ones(4, 7))


def test_variance_weights_by_hand() -> None:
    assert np.allclose(sample_weights(LOGITS, "variance"), LOGITS.numpy().var(-1), rtol=1e-5)


def test_unknown_weighting() -> None:
    with pytest.raises(ConfigError, match="entropy, variance or uniform"):
        sample_weights(LOGITS, "luck")


def test_weighted_mean_equals_the_double_loop() -> None:
    stack, weights = stack_of(LOGITS.softmax(-1)), sample_weights(LOGITS, "entropy", 2.0)
    fused = sample_weighted_mean(stack, weights).shared["public"].values
    for x in range(7):
        w = weights[:, x].double() / weights[:, x].double().sum()
        by_hand = sum(w[n] * stack.values[n, x].double() for n in range(4))
        assert torch.allclose(fused[x].double(), by_hand, atol=1e-6)
    assert torch.allclose(fused.sum(-1), torch.ones(7))


def test_equal_weights_are_the_mean_and_no_weight_too() -> None:
    stack = stack_of(LOGITS.softmax(-1))
    plain = mean(stack).shared["public"].values
    for weights in (torch.full((4, 7), 0.3), torch.zeros(4, 7)):
        fused = sample_weighted_mean(stack, weights).shared["public"].values
        assert torch.allclose(fused, plain, atol=1e-7)


def test_a_client_without_weight_is_ignored() -> None:
    stack, weights = stack_of(LOGITS.softmax(-1)), torch.ones(4, 7)
    weights[2] = 0
    without = mean(stack_of(stack.values[[0, 1, 3]])).shared["public"].values
    assert torch.allclose(
        sample_weighted_mean(stack, weights).shared["public"].values, without, atol=1e-7
    )
