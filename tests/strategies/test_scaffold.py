"""SCAFFOLD: algorithm 1, option II, by hand; sums of control variates; its limit."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from fedkt.clients import TrainingOptions, Work
from fedkt.clients.learners import batches
from fedkt.clients.learners.making import make_learner
from fedkt.data import FederationSpec, build_federation
from fedkt.knowledge import Knowledge, Upload, Uploads
from fedkt.objectives import CrossEntropy, Outputs
from fedkt.recipe import Train
from fedkt.strategies.weights.fedavg import FedAvg
from fedkt.strategies.weights.scaffold import Control, ControlCorrection, Scaffold

from .by_hand import assert_equal_runs, batch_of

RATE = 0.05
SGD = {"optimiser": "sgd", "learning_rate": RATE, "momentum": 0.0}


@pytest.fixture
def learner() -> Any:
    learner = make_learner("linear", (1, 8, 8), 10)
    learner.reset(0, 0)
    return learner


@pytest.fixture
def work() -> Work:
    spec = FederationSpec(clients=2, samples_per_client=20, test_samples=10, public_samples=10)
    options = TrainingOptions("sgd", RATE, 0.0, batch_size=8)
    return Work(build_federation(spec).client(1), {}, options, 0, 1, 1)


def test_steps_and_control_variates(learner: Any, work: Work) -> None:
    """Equations 3 and 4: afterwards c_i is the mean of the gradients along the way."""
    x = learner.weights().tensors
    torch.manual_seed(0)
    c, own = ({n: 0.1 * torch.randn_like(t) for n, t in x.items()} for _ in range(2))
    named = {"weights": Knowledge("weights", x), "control": Knowledge("statistics", c)}
    work = replace(work, knowledge=named)
    work.keep("own-control", Knowledge("statistics", own))
    step = Train("private", [CrossEntropy(), ControlCorrection()], epochs=2)
    data, y, gradients = work.data.train, dict(x), []
    for rows in (r for epoch in batches.epochs(step, work, "learn/0", len(data)) for r in epoch):
        at = {n: t.clone().requires_grad_() for n, t in y.items()}
        loss = F.cross_entropy(functional_call(learner.model, at, (data.x[rows],)), data.y[rows])
        gradients.append(dict(zip(at, torch.autograd.grad(loss, list(at.values())), strict=True)))
        y = {n: t - RATE * (gradients[-1][n] - own[n] + c[n]) for n, t in y.items()}
    learner.train(step, work, "learn/0")
    change = Control().make(learner, work).tensors
    for name, tensor in learner.weights().tensors.items():
        assert torch.allclose(tensor, y[name], atol=1e-6)
        average = torch.stack([g[name] for g in gradients]).mean(0)
        assert torch.allclose(work.own["own-control"].tensors[name], average, atol=1e-4)
        assert torch.allclose(change[name], average - own[name], atol=1e-4)


def test_the_server_adds_the_changes_of_all_clients() -> None:
    """Equation 5: two of four clients; the weights' mean is not by examples."""

    class Of4(Scaffold):
        round = SimpleNamespace(about={client: {} for client in range(4)})

    strategy = Of4()
    for expected in ([1.0, 0.5], [2.0, 1.0]):
        fused = strategy.fuse(
            Uploads([
                Upload(client, examples, {
                    "weights": Knowledge("weights", {"w": torch.tensor(weights)}),
                    "control": Knowledge("statistics", {"w": torch.tensor(change)}),
                })
                for client, examples, weights, change in (
                    (0, 9, [1.0, 0.0], [3.0, 0.0]), (2, 1, [3.0, 4.0], [1.0, 2.0])
                )
            ])
        ).shared  # fmt: skip
        assert fused["weights"].tensors["w"].tolist() == [2.0, 2.0]
        assert fused["control"].tensors["w"].tolist() == expected


def test_the_control_variates_sum_up(world, with_options) -> None:
    """Σ c_i = N c where all take part."""
    strategy, run = with_options(Scaffold(local_epochs=1)), world(**SGD, batch_size=8)
    run.start(strategy, 2)
    states = run.grid.snapshot().values()
    for name, c in strategy.memory["control"].items():
        kept = [state["own"]["own-control"].tensors[name] for state in states]
        assert float(c.abs().max()) > 0
        assert torch.allclose(sum(kept), 4 * c, atol=1e-5)


def test_while_controls_are_zero_it_is_fedavg(world, with_options) -> None:
    """In the first round; the clients of this federation have equally many samples."""
    ours, theirs = (with_options(s, model="mlp") for s in (Scaffold(2), FedAvg(2)))
    assert_equal_runs(world, ours, theirs, rounding=True, rounds=1)


def test_equal_controls_change_nothing() -> None:
    y = {"w": torch.randn(3, requires_grad=True)}
    same = Knowledge("statistics", {"w": torch.tensor([5.0, -1.0, 2.0])})
    outputs = Outputs(torch.zeros(1, 2), None, y)
    loss = ControlCorrection()(outputs, batch_of([0]), {"control": same, "own-control": same})
    assert not bool(torch.autograd.grad(loss, y["w"])[0].any())


def test_another_optimiser_is_remarked_on(world, with_options) -> None:
    for options, named in ({}, ["optimiser: adam"]), (SGD, []), ({**SGD, "momentum": 0.9}, ["0.9"]):
        run = world(**options)
        run.start(with_options(Scaffold(local_epochs=1)), 2)
        first, second = (report.notes for report in run.reports)
        assert len(first) == len(named)
        assert all(name in line for name, line in zip(named, first, strict=True))
        assert second == []
