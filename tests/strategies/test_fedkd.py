"""FedKD: its losses and ranks in numbers, its limits, and the bytes of its factors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedkt.objectives import Outputs
from fedkt.objectives.heads import answering
from fedkt.recipe import Recipe
from fedkt.strategies.models.fedkd import AdaptiveMutual, FedKD
from fedkt.strategies.models.fml import FML

from .by_hand import LocalSecond, assert_equal_runs, batch_of

Y = [0, 3, 1, 2]
SGD = {"optimiser": "sgd", "learning_rate": 0.05, "momentum": 0.0}


def softmax(z: np.ndarray) -> np.ndarray:
    return np.exp(z) / np.exp(z).sum(-1, keepdims=True)


def task(z: np.ndarray) -> float:
    """Return the mean cross-entropy over the first three samples."""
    return float(np.mean([-np.log(softmax(z)[i, Y[i]]) for i in range(3)]))


def by_hand(student: np.ndarray, teacher: np.ndarray, divisor: float, factor: float) -> float:
    """Return CE + γ KL(teacher ‖ student) / divisor, means over the first three samples."""
    p, q = softmax(teacher)[:3], softmax(student)[:3]
    return task(student) + factor * float((p * np.log(p / q)).sum(-1).mean()) / divisor


def test_each_network_learns_from_its_own_loss() -> None:
    """The paper's two losses, and their gradients by differences; the divisor is a constant."""
    mentor, mentee = np.random.default_rng(0).normal(size=(2, 4, 4))
    divisor = task(mentor) + task(mentee)
    tensors = [torch.tensor(a, requires_grad=True) for a in (mentor, mentee)]
    with answering({"mentee": lambda weights, x: Outputs(tensors[1], None, {})}):
        outputs = Outputs(tensors[0], None, {})
        loss = AdaptiveMutual(0.7)(outputs, batch_of(Y, [1, 1, 1, 0]), {})
    told = by_hand(mentor, mentee, divisor, 0.7) + by_hand(mentee, mentor, divisor, 0.7)
    assert float(loss.detach()) == pytest.approx(told, rel=1e-5)
    gradients = torch.autograd.grad(loss, tensors)
    pairs = ((mentor, mentee, gradients[0]), (mentee, mentor, gradients[1]))
    for student, teacher, gradient in pairs:
        for place in np.ndindex(student.shape):
            step = np.zeros_like(student)
            step[place] = 1e-4
            up, down = (by_hand(student + s * step, teacher, divisor, 0.7) for s in (1, -1))
            assert float(gradient[place]) == pytest.approx((up - down) / 2e-4, abs=1e-6)


def test_a_batch_of_padding_has_no_loss() -> None:
    logits = torch.zeros(2, 4)
    with answering({"mentee": lambda weights, x: Outputs(logits, None, {})}):
        loss = AdaptiveMutual()(Outputs(logits + 1, None, {}), batch_of([0, 1], [0.0, 0.0]), {})
    assert float(loss) == 0


class Seen(FedKD):
    """FedKD that remembers what arrived and what the server holds."""

    codecs = True

    def recipe(self) -> Recipe:
        recipe = super().recipe()
        if self.codecs:
            return recipe
        return replace(recipe, share=[replace(recipe.share[0], codec_up=None, codec_down=None)])

    def fuse(self, uploads):
        self.before = self.memory["mentee"].tensors
        fused = super().fuse(uploads)
        self.arrived, self.after = list(uploads), fused.shared["mentee"].tensors
        return fused


class Plain(Seen):
    """FedKD without codecs."""

    codecs = False


def low_rank(matrix: np.ndarray, energy: float) -> tuple[np.ndarray, int]:
    """Return the nearest matrix of the smallest rank with the energy, and its bytes."""
    u, s, v = np.linalg.svd(matrix.astype(float), full_matrices=False)
    k = next(k for k in range(1, len(s) + 1) if (s[:k] ** 2).sum() >= energy * (s**2).sum())
    size = k * sum(matrix.shape)
    return (
        (matrix, 4 * matrix.size) if size >= matrix.size else ((u[:, :k] * s[:k]) @ v[:k], 4 * size)
    )


def coded(tensors, energy: float, masked: bool = False) -> tuple[dict[str, np.ndarray], int]:
    """Return tensors after a message, and its bytes; masked: only rows that are not 0 travel."""
    arrived, total = {}, 0
    for name, tensor in tensors.items():
        array = tensor.numpy()
        rows = array.reshape(len(array), -1).any(1) if masked else np.ones(len(array), bool)
        told = array[rows], 4 * array[rows].size
        told, size = low_rank(array[rows], energy) if tensor.dim() > 1 else told
        arrived[name] = np.zeros(array.shape)
        arrived[name][rows] = told
        total += size + (0 if rows.all() else -(-len(rows) // 8))
    return arrived, total


def test_one_round_by_brute_force(world, with_options) -> None:
    """E = 0.75 + 0.24 · 1/3 after round 1 of 3, both ways; bytes from the ranks."""
    energy, runs = 0.75 + 0.24 / 3, []
    for kind in (Seen, Plain):
        run = world(models=("mlp", "linear"), **SGD)
        strategy = with_options(kind(0.75, 0.99, local_epochs=1), schedule_rounds=3)
        run.start(strategy, 1)
        assert run.reports[0].failures == []
        runs.append((run, strategy))
    (run, ours), (_, plain) = runs
    up, whole = 0, sum(4 * t.numel() for t in ours.after.values())
    sums = dict.fromkeys(ours.before, 0.0)
    for arrived, told in zip(ours.arrived, plain.arrived, strict=True):
        expected, size = coded(told.knowledge["mentee"].tensors, energy)
        up += size
        for name, tensor in arrived.knowledge["mentee"].tensors.items():
            assert np.allclose(tensor.numpy(), expected[name], atol=1e-5)
            sums[name] += told.num_examples * expected[name] / 160  # 40 samples each
    for name, tensor in ours.after.items():
        assert np.allclose(tensor, ours.before[name] + sums[name], atol=1e-5)
    changes = {n: ours.after[n] - t for n, t in ours.before.items()}
    expected, size = coded(changes, energy, masked=True)
    for client in range(4):
        model = run.model_of(client)
        for name, change in expected.items():
            assert np.allclose(model[name], ours.before[name] + change, atol=1e-5)
    traffic = run.reports[0].traffic
    assert size < whole
    assert up < 4 * whole
    assert (traffic.up, traffic.down_broadcast) == (up, 4 * (whole + size))


def test_with_all_energy_nothing_is_left_out(world, with_options) -> None:
    ours, theirs = (with_options(kind(1.0, 1.0, local_epochs=1)) for kind in (FedKD, Plain))
    assert_equal_runs(world, ours, theirs, rounding=True, rounds=3)


def test_without_distillation_mentors_are_alone_and_mentees_fedavgs(world, with_options) -> None:
    """FML's memes with β = 1 are FedAvg's."""
    ours = with_options(FedKD(1.0, 1.0, 0.0, local_epochs=2))
    assert_equal_runs(world, ours, with_options(LocalSecond(2)), rounding=True)
    models = []
    for strategy in (FedKD(1.0, 1.0, 0.0, local_epochs=1), FML(1.0, 1.0, local_epochs=1)):
        run = world(models=("linear", "mlp"), **SGD)
        run.start(with_options(strategy), 2)
        models.append(run.model_of(1))
    for name, tensor in models[1].items():
        same = models[0][name.replace("meme", "mentee")]
        assert torch.allclose(tensor, same, atol=1e-5), name
