"""FedNTD: its loss in numbers, what it does not depend on, and its limit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedkt.strategies.weights.fedavg import FedAvg
from fedkt.strategies.weights.fedntd import FedNTD, NotTrue

from .by_hand import Asked, assert_equal_runs, batch_of

Y = [0, 1, 2, 1]


def loss_of(logits, told, temperature: float, y=Y, weight=(1, 1, 1, 0)) -> float:
    logits, told = (torch.tensor(a, dtype=torch.float32) for a in (logits, told))
    asked = Asked(logits, logits, weights=told)
    return float(NotTrue(temperature)(asked.outputs, batch_of(y, weight), asked.knowledge))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_loss(temperature: float) -> None:
    """Section 4 in NumPy: the global model is the teacher, over the other classes."""
    logits, told = np.random.default_rng(0).normal(size=(2, 4, 3))
    losses = []
    for z, t, label in list(zip(logits, told, Y, strict=True))[:3]:
        q, p = (np.exp(np.delete(a, label) / temperature) for a in (z, t))
        q, p = q / q.sum(), p / p.sum()
        losses.append(temperature**2 * (p * np.log(p / q)).sum())
    assert loss_of(logits, told, temperature) == pytest.approx(np.mean(losses), rel=1e-4)


def test_the_logit_of_the_true_class_has_no_part() -> None:
    logits, told = np.random.default_rng(1).normal(size=(2, 4, 3))
    shifted = logits + 5 * np.eye(3)[Y]
    assert loss_of(shifted, told, 1.0) == pytest.approx(loss_of(logits, told, 1.0), rel=1e-5)
    assert loss_of(logits[:, :2], told[:, :2], 1.0, [0, 1, 0, 1]) == 0, (
        "of two classes, none is left"
    )


def test_without_beta_it_is_fedavg(world, with_options) -> None:
    ours, theirs = (with_options(s, model="mlp") for s in (FedNTD(beta=0.0), FedAvg()))
    assert_equal_runs(world, ours, theirs, rounding=True)
    recipe = FedNTD(beta=2, temperature=3).recipe()
    assert (recipe.learn[1].terms[1].factor, recipe.learn[1].terms[1].term.temperature) == (2, 3)
    assert type(recipe).from_json(recipe.to_json()) == recipe
