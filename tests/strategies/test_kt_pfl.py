from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from fedkt.strategies.answers.fedmd import FedMD
from fedkt.strategies.answers.kt_pfl import KTpFL, onto_simplex

N, M, C = 4, 6, 3


@pytest.fixture
def answers() -> dict[int, torch.Tensor]:
    logits = 2 * torch.randn(N, M, C, generator=torch.Generator().manual_seed(0))
    return dict(zip((0, 2, 3, 5), logits.softmax(-1), strict=True))


class Supposed:
    about = dict.fromkeys((0, 2, 3, 5))


def fuse(uploads_of, answers, rounds=1, **options):
    strategy = KTpFL(**options)
    strategy.__dict__["_supposed"] = Supposed()
    for _ in range(rounds):
        fused = strategy.fuse(uploads_of(answers))
    return strategy, fused


def test_the_projection_is_the_nearest_point() -> None:
    rows = torch.randn(5, N, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for row, ours in zip(rows.numpy(), onto_simplex(rows).numpy(), strict=True):
        found = minimize(
            lambda c, at=row: ((c - at) ** 2).sum(), np.full(N, 1 / N), bounds=[(0, 1)] * N,
            constraints={"type": "eq", "fun": lambda c: c.sum() - 1}, tol=1e-12,
        )  # fmt: skip
        assert np.allclose(ours, found.x, atol=1e-5)


@pytest.mark.parametrize("constraint", ["simplex", "softmax"])
def test_steps_go_down_the_loss_of_the_coefficients(uploads_of, answers, constraint) -> None:
    """The slope by differences of the written-out loss, client by client."""
    p = torch.stack([*answers.values()]).double().numpy()
    rho, rate = 0.7, 0.8

    def loss(n: int, c: np.ndarray) -> float:
        teacher = sum(c[m] * p[m] for m in range(N))
        return ((p[n] - teacher) ** 2).mean() + rho * ((c - 1 / N) ** 2).mean()

    c = np.full((N, N), 1 / N)
    for _ in range(2):
        moved, h = c.copy(), 1e-6
        for n in range(N):
            for m in range(N):
                up, down = c[n].copy(), c[n].copy()
                up[m] += h
                down[m] -= h
                moved[n, m] -= rate * (loss(n, up) - loss(n, down)) / (2 * h)
        if constraint == "simplex":
            c = onto_simplex(torch.tensor(moved)).numpy()
        else:
            c = np.exp(5 * moved) / np.exp(5 * moved).sum(1, keepdims=True)
    options = {"steps": 1, "rate": rate, "rho": rho, "constraint": constraint}
    _, fused = fuse(uploads_of, answers, 2, **options)
    assert np.allclose(fused.diagnostics["coefficients"], c, atol=1e-7)
    for n, client in enumerate(answers):
        teacher = np.einsum("m,mij->ij", c[n], p)
        assert np.allclose(fused.personal[client]["public"].values, teacher, atol=1e-6)
    assert (c.argmax(1) == np.arange(N)).all(), "own answers explain themselves best"


def test_without_steps_it_is_fedmd(uploads_of, answers) -> None:
    strategy, fused = fuse(uploads_of, answers, steps=0)
    theirs = FedMD(form="probabilities", distil_steps=0)
    ours = strategy.recipe()
    assert (ours.learn, ours.absorb) == (theirs.recipe().learn, theirs.recipe().absorb)
    average = theirs.fuse(uploads_of(answers)).shared["public"].values
    for own in fused.personal.values():
        assert torch.allclose(own["public"].values, average, atol=1e-6)


def test_a_strong_pull_keeps_the_mean_and_none_leaves_it(uploads_of, answers) -> None:
    _, pulled = fuse(uploads_of, answers, steps=200, rate=0.001, rho=1000.0)
    assert torch.allclose(
        pulled.diagnostics["coefficients"], torch.tensor(0.25).double(), atol=1e-3
    )
    _, free = fuse(uploads_of, answers, steps=3000, rate=1.0, rho=0.0)
    assert torch.allclose(free.diagnostics["coefficients"], torch.eye(N).double(), atol=0.05)


def test_clients_that_are_away_keep_their_coefficients(uploads_of, answers) -> None:
    strategy, _ = fuse(uploads_of, answers)
    before = {n: dict(row) for n, row in strategy.memory["coefficients"].items()}
    here = {c: answers[c] for c in (0, 3)}
    fused = strategy.fuse(uploads_of(here))
    after = strategy.memory["coefficients"]
    assert after[2] == before[2]
    assert after[0][5] == before[0][5]
    assert sum(after[0].values()) == pytest.approx(1)
    assert set(fused.personal) == {0, 3}
    assert torch.allclose(fused.diagnostics["coefficients"].sum(1), torch.ones(2).double())


def test_bytes_are_those_of_the_docstring(world, with_options) -> None:
    run = world()
    run.start(with_options(KTpFL(local_epochs=1, distil_epochs=1)), 1)
    traffic = run.reports[0].traffic
    assert (traffic.up, traffic.down_unicast, traffic.down_broadcast) == (8000, 8000, 0)
