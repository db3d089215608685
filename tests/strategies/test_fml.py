"""FML: equations 4 and 5 in numbers, and its limit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedkt.objectives import Outputs
from fedkt.objectives.heads import answering
from fedkt.strategies.models.fml import FML, Mutual

from .by_hand import LocalSecond, assert_equal_runs, batch_of, uploads_of_weights

Y = [0, 3, 1, 2]


def by_hand(part: float, student, teacher) -> float:
    """Return part · CE + (1 - part) · KL(teacher ‖ student), over the first three samples."""
    losses = []
    for s, t, label in list(zip(student, teacher, Y, strict=True))[:3]:
        q, p = (np.exp(a) / np.exp(a).sum() for a in (s, t))
        losses.append(-part * np.log(q[label]) + (1 - part) * (p * np.log(p / q)).sum())
    return float(np.mean(losses))


def test_each_network_learns_from_its_own_loss() -> None:
    """Equations 4 and 5, and their gradients by differences: the other's answers are constants."""
    local, meme = np.random.default_rng(0).normal(size=(2, 4, 4))
    tensors = [torch.tensor(a, requires_grad=True) for a in (local, meme)]
    with answering({"meme": lambda weights, x: Outputs(tensors[1], None, {})}):
        outputs = Outputs(tensors[0], None, {})
        loss = Mutual(0.3, 0.6)(outputs, batch_of(Y, [1, 1, 1, 0]), {})
    told = by_hand(0.3, local, meme) + by_hand(0.6, meme, local)
    assert float(loss.detach()) == pytest.approx(told, rel=1e-5)
    gradients = torch.autograd.grad(loss, tensors)
    for part, student, teacher, gradient in (
        (0.3, local, meme, gradients[0]),
        (0.6, meme, local, gradients[1]),
    ):
        for place in np.ndindex(student.shape):
            step = np.zeros_like(student)
            step[place] = 1e-4
            ends = (by_hand(part, student + sign * step, teacher) for sign in (1, -1))
            slope = -np.subtract(*reversed(list(ends))) / 2e-4
            assert float(gradient[place]) == pytest.approx(slope, abs=1e-6)


def test_the_mean_of_the_memes_is_by_examples() -> None:
    told = uploads_of_weights("meme", (10, {"w": torch.ones(2)}), (30, {"w": 5 * torch.ones(2)}))
    assert FML().fuse(told).shared["meme"].tensors["w"].tolist() == [4.0, 4.0]


def test_without_the_meme_it_is_local_training(world, with_options) -> None:
    ours, theirs = with_options(FML(alpha=1.0), model="mlp"), with_options(LocalSecond(5))
    assert_equal_runs(world, ours, theirs, rounding=True)


def test_only_the_meme_travels(world, with_options) -> None:
    run = world(models=("mlp", "linear"))
    run.start(with_options(FML(local_epochs=1), model="mlp"), 1)
    assert run.reports[0].failures == []
    size = 64 * 64 + 64 + 64 * 10 + 10
    assert run.reports[0].traffic.up == 4 * 4 * size
