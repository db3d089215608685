from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from fedkt.knowledge import Knowledge, Upload, Uploads
from fedkt.strategies.answers.fedmd import FedMD
from fedkt.strategies.answers.selective_fd import Selected, SelectiveFD, density_ratio


def test_the_ratio_is_the_solution_of_the_system() -> None:
    """By NumPy with the inverse; without it, as in the program, the estimate is another."""
    own = 0.3 * torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    ratio = density_ratio(own, 0.3, torch.Generator().manual_seed(1))
    y = own.double().numpy()
    u = torch.rand(own.shape, generator=torch.Generator().manual_seed(1)).double().numpy()
    a, m = y.min(0) + (y.max(0) - y.min(0)) * u, len(y)

    def k(p: np.ndarray, q: np.ndarray) -> np.ndarray:
        return np.exp(-((p[:, None] - q[None]) ** 2).sum(-1) / (2 * 0.3**2))

    penalty = m**-0.5
    system = k(a, a) / m + penalty * np.eye(m)
    x = np.array([[0.1, 0.2], [-0.5, 0.4], [3.0, 3.0]])
    ones = np.ones(m) / (m * m * penalty)
    expected, wrong = (
        k(x, y).mean(1) / penalty - k(x, a) @ (matrix @ k(a, y) @ ones)
        for matrix in (np.linalg.inv(system), system)
    )
    ours = ratio(torch.tensor(x))
    assert np.allclose(ours, expected, atol=1e-6)
    assert not np.allclose(ours, wrong, atol=0.1)


def test_the_estimate_is_the_minimum_and_small_outside_of_the_data() -> None:
    own = 0.3 * torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    ratio = density_ratio(own, 0.3, torch.Generator().manual_seed(1))
    inside, outside = ratio(torch.zeros(1, 2)), ratio(torch.tensor([[0.9, -0.9]]))
    assert float(inside) > 2
    assert float(outside) < 0.5
    noise = own.min(0).values + (own.max(0).values - own.min(0).values) * torch.rand(
        own.shape, generator=torch.Generator().manual_seed(1)
    )

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (-torch.cdist(x.double(), y.double()).square() / (2 * 0.3**2)).exp()

    # Where Kanamori's objective is least, λ w(x) = mean of k(x, own) - mean of w(a) k(x, a).
    x = torch.tensor([[0.1, 0.2], [-0.5, 0.4]])
    balance = kernel(x, own).mean(1) - (kernel(x, noise) * ratio(noise)).mean(1)
    assert torch.allclose(ratio(x) * 200**-0.5, balance, atol=1e-6)


def told(*clients: dict[int, list[float]]) -> Uploads:
    """Return uploads of rows by id."""
    return Uploads([
        Upload(c, 1, {"public": Knowledge.rows(
            "probabilities", torch.tensor([*rows.values()]), torch.tensor([*rows]))})
        for c, rows in enumerate(clients)
    ])  # fmt: skip


def test_it_keeps_clear_answers_of_those_who_answered() -> None:
    uploads = told({3: [0.9, 0.1], 5: [0.5, 0.5]}, {3: [0.7, 0.3], 8: [0.1, 0.9]})
    fused = SelectiveFD(threshold=0.5).fuse(uploads).shared["public"]
    assert fused.ids.tolist() == [3, 8]
    assert torch.allclose(fused.values, torch.tensor([[0.8, 0.2], [0.1, 0.9]]))
    everything = SelectiveFD(threshold=2.0).fuse(uploads).shared["public"]
    assert everything.ids.tolist() == [3, 5, 8]


def test_with_all_selected_it_is_fedmd(uploads_of) -> None:
    ours, theirs = SelectiveFD(choose_rows=False), FedMD(form="probabilities", distil_steps=0)
    assert ours.recipe() == theirs.recipe()
    answers = dict(enumerate(torch.rand(3, 6, 4).softmax(-1)))
    fused = [s.fuse(uploads_of(answers)).shared["public"].values for s in (ours, theirs)]
    assert torch.equal(*fused)


def test_clients_choose_samples_like_their_own(world, with_options) -> None:
    run, rows = world(), []

    class Watched(SelectiveFD):
        def fuse(self, uploads: Uploads):
            rows.extend(len(upload.knowledge["public"].values) for upload in uploads)
            return super().fuse(uploads)

    run.start(with_options(Watched(local_epochs=1, distil_epochs=1, quantile=0.5, width=1.0)), 1)
    assert not run.reports[0].failures
    assert 0 < sum(rows) < 4 * 50
    assert run.reports[0].traffic.up == sum(n * (4 * 10 + 8 * (n < 50)) for n in rows)


def test_the_choice_is_said_to_be_of_private_data() -> None:
    assert Selected().private


@pytest.mark.parametrize("threshold", [0.0, 2.1])
def test_options_are_checked(threshold) -> None:
    with pytest.raises(ValueError, match=r"threshold must be .* in \(0, 2\]"):
        SelectiveFD(threshold=threshold)
