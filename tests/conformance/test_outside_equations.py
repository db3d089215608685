"""Equations of the methods in ``outside`` whose sign or scale would not show otherwise."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from fedkt.clients import TrainingOptions, Work
from fedkt.clients.learners import batches
from fedkt.clients.learners.making import make_learner
from fedkt.data import FederationSpec, build_federation
from fedkt.knowledge import Knowledge
from fedkt.objectives import Batch, CrossEntropy, Outputs
from fedkt.objectives.heads import answering
from fedkt.recipe import Train
from fedkt.simulations.experiment.config import parse
from fedkt.simulations.experiment.references import read_strategy
from fedkt.simulations.results import checkpoints
from fedkt.simulations.runs.plan import prepare
from fedkt.simulations.runs.run import execute
from fedkt.testing.plugin import references_in

RATE = 0.05


def parts_of(stem: str) -> Any:
    """Return the module of a method."""
    return importlib.import_module(f".outside.{stem}", __package__)


def batch(y: Tensor) -> Batch:
    return Batch(torch.zeros(len(y), 3), y, torch.arange(len(y)), torch.ones(len(y)))


# --- SCAFFOLD -----------------------------------------------------------------------------------


def test_scaffold_steps_and_control_variates(learner: Any, work: Any) -> None:
    """Algorithm 1, option II, by hand: then c_i⁺ is the mean of the gradients along the way."""
    control, term = parts_of("scaffold").Control(), parts_of("scaffold").Correction()
    x = learner.weights().tensors
    c, own = ({n: 0.1 * torch.randn_like(t) for n, t in x.items()} for _ in range(2))
    named = {"weights": Knowledge("weights", x), "control": Knowledge("statistics", c)}
    work = replace(work, knowledge=named)
    work.keep("own-control", Knowledge("statistics", own))
    step, data = Train("private", [CrossEntropy(), term], epochs=2), work.data.train
    y, gradients = dict(x), []
    for rows in (r for epoch in batches.epochs(step, work, "learn/0", len(data)) for r in epoch):
        at = {n: t.clone().requires_grad_() for n, t in y.items()}
        loss = F.cross_entropy(functional_call(learner.model, at, (data.x[rows],)), data.y[rows])
        gradients.append(dict(zip(at, torch.autograd.grad(loss, list(at.values())), strict=True)))
        y = {n: t - RATE * (gradients[-1][n] - own[n] + c[n]) for n, t in y.items()}
    learner.train(step, work, "learn/0")
    change = control.make(learner, work).tensors
    for name, tensor in learner.weights().tensors.items():
        assert torch.allclose(tensor, y[name], atol=1e-6)
        mean = torch.stack([g[name] for g in gradients]).mean(0)
        assert torch.allclose(work.own["own-control"].tensors[name], mean, atol=1e-4)
        assert torch.allclose(change[name], mean - own[name], atol=1e-4)


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


def test_the_control_variates_of_scaffold_sum_up(tmp_path: Path) -> None:
    """Σ c_i = N c where all take part, with clients of other numbers of steps."""
    file = Path(__file__).parent / "outside" / "scaffold.py"
    plan = prepare(parse({
        "rounds": 2,
        "models": ("linear",),
        "strategy": read_strategy(references_in(file)[0]),
        "data": {
            "clients": 3, "partition": "quantity:linear",
            "test_samples": 20, "public_samples": 10,
        },
        "training": {"optimiser": "sgd", "momentum": 0.0, "learning_rate": RATE, "batch_size": 8},
        "run": {"grid": "in-process", "workers": 1, "executor": "loop"},
    }))  # fmt: skip
    execute(plan, tmp_path, label="scaffold")
    saved = checkpoints.newest(tmp_path / "checkpoints", at_most=2)
    assert saved is not None
    c = saved[1]["strategy"]["memory"]["control"]
    for name, tensor in c.items():
        kept = [s["own"]["own-control"].tensors[name] for s in saved[1]["clients"].values()]
        assert float(tensor.abs().max()) > 0
        assert torch.allclose(sum(kept), 3 * tensor, atol=1e-5)


def test_fml() -> None:
    """Equations 4 and 5: each network's gradient is that of its own loss alone."""
    fml, y = parts_of("fml"), torch.tensor([0, 3, 1])
    torch.manual_seed(0)
    local, meme = (torch.randn(3, 4, requires_grad=True) for _ in range(2))
    with answering({"meme": lambda tensors, x: Outputs(meme, None, {})}):
        loss = fml.Mutual(0.3, 0.6)(Outputs(local, None, {}), batch(y), {})
    expected = torch.zeros(())
    for part, student, teacher in ((0.3, local, meme.detach()), (0.6, meme, local.detach())):
        p, q = teacher.softmax(1), student.softmax(1)
        for n in range(3):
            expected = expected - part * q[n, y[n]].log() / 3
            expected = expected + (1 - part) * (p[n] * (p[n] / q[n]).log()).sum() / 3
    assert torch.allclose(loss, expected)
    gradients = (torch.autograd.grad(total, (local, meme)) for total in (loss, expected))
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_fedrep() -> None:
    """Algorithm 1: the head first, with the server's body; then the body, with the new head."""
    recipe = parts_of("fedrep").FedRep(head_epochs=2, body_epochs=1).recipe()
    learner = make_learner("mlp", (1, 8, 8), 10)
    learner.reset(0, 0)
    data = build_federation(FederationSpec(clients=2, samples_per_client=24)).client(0)
    options = TrainingOptions("sgd", RATE, momentum=0.0)
    work = Work(data, {}, options, 0, 1, 0)
    moved = []
    for number, step in enumerate(recipe.learn[1:]):
        before = learner.weights().tensors
        step.run(learner, work, f"learn/{number}")
        after = learner.weights().tensors
        moved.append(
            {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
        )
    assert moved == [{"3.weight", "3.bias"}, {"1.weight", "1.bias"}]
