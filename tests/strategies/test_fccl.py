from __future__ import annotations

import numpy as np
import pytest
import torch

from fedkt.knowledge import Knowledge
from fedkt.objectives import Batch, Outputs
from fedkt.strategies.answers.fccl import FCCL, CrossCorrelation
from fedkt.strategies.baselines.local import Local
from fedkt.testing import check_term

B, C = 8, 3


def loss_of(own: torch.Tensor, fused: torch.Tensor, weight=None, **options) -> float:
    batch = Batch(torch.zeros(len(own), 1), None, torch.arange(len(own)),
                  torch.ones(len(own)) if weight is None else weight)  # fmt: skip
    told = {"public": Knowledge.rows("logits", fused)}
    return float(CrossCorrelation(**options)(Outputs(own, None, {}), batch, told))


def test_the_loss_is_that_of_correlation_coefficients() -> None:
    """With NumPy's correlations, over the samples that are no padding."""
    own, fused = torch.randn(2, B, C, generator=torch.Generator().manual_seed(0))
    weight = torch.tensor([1.0] * (B - 2) + [0, 0])
    rows = slice(0, B - 2)
    c = np.corrcoef(own[rows].double().numpy().T, fused[rows].double().numpy().T)[:C, C:]
    expected = sum((c[i, i] - 1) ** 2 for i in range(C))
    expected += 0.3 * sum((c[i, j] + 1) ** 2 for i in range(C) for j in range(C) if i != j)
    assert loss_of(own, fused, weight, off_diagonal=0.3) == pytest.approx(expected, rel=1e-3)


def test_two_opposite_classes_that_agree_have_no_loss() -> None:
    own = torch.randn(B, 1, generator=torch.Generator().manual_seed(0))
    z = torch.cat([own, -own], 1)
    assert loss_of(z, 5 * z + 2, off_diagonal=1.0) == pytest.approx(0, abs=1e-3)
    assert loss_of(z, -z, off_diagonal=0.0) == pytest.approx(8, abs=1e-2)


def test_a_logit_that_never_changes_is_no_nan() -> None:
    z = torch.randn(B, C, generator=torch.Generator().manual_seed(0))
    z[:, 1] = 4
    z.requires_grad_()
    batch = Batch(torch.zeros(B, 1), None, torch.arange(B), torch.ones(B))
    told = {"public": Knowledge.rows("logits", torch.zeros(B, C))}
    loss = CrossCorrelation()(Outputs(z, None, {}), batch, told)
    assert float(loss.detach()) == pytest.approx(C + 0.0051 * C * (C - 1))
    (slope,) = torch.autograd.grad(loss, z)
    assert bool(torch.isfinite(slope).all())


def test_the_term_is_one() -> None:
    check_term(CrossCorrelation(), on="public")


def test_teachers_are_the_models_before_and_at_the_start(world, with_options) -> None:
    run = world()
    strategy = with_options(FCCL(alone_epochs=2, local_epochs=1))
    run.start(strategy, 1)
    first = {c: state["own"] for c, state in run.grid.snapshot().items()}
    run.start(strategy, 2)
    for client, state in run.grid.snapshot().items():
        within = state["own"]["within"].values
        assert torch.equal(within, first[client]["within"].values)
        assert torch.equal(first[client]["between"].values, within), "nothing happened between"
        assert not torch.equal(state["own"]["between"].values, within)


def test_each_teacher_has_its_factor() -> None:
    recipe = FCCL(between=0.5, within=0.25, local_epochs=3, public_epochs=2).recipe()
    factors = {t.term.source: t.factor for t in recipe.learn[1].terms[1:]}
    assert factors == {"between": 0.5, "within": 0.25}
    assert (recipe.learn[1].epochs, recipe.absorb[0].epochs) == (3, 2)


def test_without_exchange_and_teachers_it_is_local(world, with_options) -> None:
    alone = FCCL(between=0.0, within=0.0, alone_epochs=0, local_epochs=2, public_epochs=0)
    runs = [world(), world()]
    for run, method in zip(runs, (alone, Local(local_epochs=2)), strict=True):
        run.start(with_options(method), 2)
    for client in range(4):
        ours, theirs = (run.model_of(client) for run in runs)
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
