"""Co-Boosting: losses, weights and moved samples in numbers, its limit and bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fedkt.knowledge import Uploads
from fedkt.rng import torch_rng
from fedkt.strategies.oneshot.co_boosting import CoBoosting, hard_cross_entropy, stepped
from fedkt.strategies.oneshot.dense_one_shot import Dense, Synthetic

from .by_hand import assert_equal_runs

N, B, C = 3, 6, 4
SMALL = {"local_epochs": 2, "batches": 3, "generator_steps": 3, "batch_size": 16, "width": 4}


def softened(z: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    powers = np.exp(z / temperature)
    return powers / powers.sum(-1, keepdims=True)


@pytest.fixture
def logits() -> np.ndarray:
    """Return logits of three models on six samples, in which weight matters."""
    return 2 * np.random.default_rng(0).normal(size=(N, B, C))


Y = np.array([0, 1, 2, 3, 0, 1])


@pytest.mark.parametrize("hardness", [0.0, 1.0, 2.5])
def test_the_generators_loss_by_numpy(logits, hardness) -> None:
    """(1 - p)^h CE - β KL at T = 3, of all samples, also of those about which both agree."""
    teacher, student, _ = logits
    student[0] = 2 * teacher[0]
    p = softened(teacher)[np.arange(B), Y]
    hard = ((1 - p) ** hardness * -np.log(p)).mean()
    t, s = softened(teacher, 3.0), softened(student, 3.0)
    apart = 9 * (t * np.log(t / s)).sum(1).mean()
    assert (teacher.argmax(1) == student.argmax(1)).any()
    told = [torch.tensor(z) for z in (teacher, student, Y)]
    assert float(hard_cross_entropy(told[0], told[2], hardness)) == pytest.approx(hard)
    ours = CoBoosting(hardness=hardness, boundary=0.3).sample_loss(*told)
    assert float(ours) == pytest.approx(hard - 0.3 * apart)


def test_the_difficulty_of_a_sample_is_a_constant(logits) -> None:
    """The gradient is that of CE times (1 - p)^h: (1 - p)^h (p - 1_y) / B."""
    teacher = torch.tensor(logits[0], requires_grad=True)
    (slope,) = torch.autograd.grad(hard_cross_entropy(teacher, torch.tensor(Y), 2.0), teacher)
    p = softened(logits[0])
    at_label = np.eye(C)[Y]
    factor = (1 - (p * at_label).sum(1, keepdims=True)) ** 2
    assert np.allclose(slope, factor * (p - at_label) / B)


def crossed(weights: np.ndarray, logits: np.ndarray) -> float:
    return -np.log(softened(np.einsum("k,kbc->bc", weights, logits))[np.arange(B), Y]).mean()


def test_a_step_of_the_weights_by_differences(logits) -> None:
    """w - μ sign(∂CE/∂w), by differences of CE in NumPy, and within [0, 1]."""
    logits[1] += 3 * np.eye(C)[Y]  # a model that is right
    for weights in ([1 / 3, 1 / 3, 1 / 3], [0.03, 0.98, 0.5], [1.0, 0.0, 0.0]):
        slopes = []
        for k in range(N):
            step = 1e-6 * np.eye(N)[k]
            ends = [crossed(np.array(weights) + sign * step, logits) for sign in (1, -1)]
            slopes.append((ends[0] - ends[1]) / 2e-6)
        assert min(np.abs(slopes)) > 1e-3
        expected = np.clip(np.array(weights) - 0.05 * np.sign(slopes), 0, 1)
        told = torch.tensor(weights, dtype=torch.float64), torch.tensor(logits), torch.tensor(Y)
        assert np.allclose(stepped(*told, 0.05), expected)
    assert np.sign(slopes).tolist() != [1.0] * N
    assert float(stepped(torch.tensor([0.99] * 3).double(), *told[1:], 0.05).max()) == 1


def test_weights_take_a_shrinking_step_for_each_earlier_batch(logits) -> None:
    """Of two batches, in the fourth round: twice μ d³."""
    z = torch.tensor(logits)
    z[1] += 5 * torch.eye(C)[torch.tensor(Y)]
    z[0], z[2] = -z[1], 0.1 * z[1]
    pool = [Synthetic(torch.zeros(B, 1), torch.tensor(Y), z)] * 2
    weights = torch.full((N,), 1 / 3, dtype=torch.float64)
    moved = CoBoosting(step=0.02, decay=0.9).reweighted(weights, pool, 3)
    size = 2 * 0.02 * 0.9**3
    assert np.allclose(moved, [1 / 3 - size, 1 / 3 + size, 1 / 3 + size])
    assert CoBoosting().reweighted(weights, [], 0) is weights


class Watched(CoBoosting):
    """Co-Boosting that keeps what it sees."""

    def fuse(self, uploads: Uploads) -> Any:
        self.seen: list[Any] = []
        self.team = self.members(uploads)
        return super().fuse(uploads)

    def lesson(self, members: Any, weights: Any, pool: Any, number: int) -> Any:
        told = super().lesson(members, weights, pool, number)
        self.seen.append((weights, list(pool), told))
        return told


def test_samples_are_moved_along_the_answers_by_numpy(world, with_options) -> None:
    """x + ε sign(∂/∂x u · softmax(D(x) / 4)) of linear models: Wᵀ J u / 4."""
    method, run = Watched(**SMALL, perturbation=0.1), world()
    run.start(with_options(method), 1)
    params = [(w["1.weight"].double().numpy(), w["1.bias"].numpy()) for _, w in method.team]
    for number, (weights, pool, (x, teacher)) in enumerate(method.seen):
        share = weights.double().numpy()
        matrix = sum(a * w for a, (w, _) in zip(share, params, strict=True))
        offset = sum(a * b for a, (_, b) in zip(share, params, strict=True))
        lots = torch_rng(3, f"moved/{number}", 1)
        expected = []
        for batch in pool:
            u = 2 * torch.rand(16, 10, generator=lots).double().numpy() - 1
            flat = batch.x.flatten(1).double().numpy()
            p = softened(flat @ matrix.T + offset, 4.0)
            slope = p * (u - (p * u).sum(1, keepdims=True)) / 4 @ matrix
            expected.append(flat + 0.1 * np.sign(slope) * (np.abs(slope) > 1e-7))
        ours = x.flatten(1).double().numpy()
        same = np.isclose(ours, np.concatenate(expected), atol=1e-5)
        assert same.mean() > 0.999  # but where the slope is 0 up to rounding
        assert np.allclose(teacher, ours @ matrix.T + offset, atol=1e-4)
    assert len(method.seen) == 3
    assert method.seen[0][0].tolist() == [0.25] * 4
    assert method.seen[1][0].tolist() != [0.25] * 4


def test_without_its_changes_it_is_dense(world, with_options) -> None:
    """h, μ, ε and β of 0: DENSE with λ₂ = 0, to the bit."""
    same = {**SMALL, "norms": 0.3, "temperature": 2.0, "learning_rate": 0.05, "boundary": 0.0}
    limit = CoBoosting(hardness=0.0, step=0.0, perturbation=0.0, **same)
    assert_equal_runs(world, with_options(limit), with_options(Dense(**same)), "linear")


def test_bytes(world, with_options) -> None:
    """4P up; 4P down, and once more in the first round."""
    run = world()
    run.start(with_options(CoBoosting(**SMALL)), 2)
    size = 4 * 4 * (64 * 10 + 10)
    told = [(r.traffic.up, r.traffic.down_broadcast, r.traffic.down_unicast) for r in run.reports]
    assert told == [(size, 2 * size, 0), (size, size, 0)]
