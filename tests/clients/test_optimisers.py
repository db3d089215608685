"""One model's optimiser is torch's, without its objects; the stacked one is in test_cohort.py."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from fedkt.clients import TrainingOptions
from fedkt.clients.learners.optimisers import ModelDescent
from fedkt.optimisers import Optimiser, optimiser_of

RATES = (0.1, 0.1, 0.05, 0.02)


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 36, 4)
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def theirs(model: nn.Module, options: TrainingOptions) -> torch.optim.Optimizer:
    decay = options.weight_decay
    if options.optimiser == "adam":
        return torch.optim.Adam(model.parameters(), weight_decay=decay, fused=True)
    if options.optimiser == "adamw":
        return torch.optim.AdamW(model.parameters(), weight_decay=decay, fused=True)
    momentum = options.momentum
    return torch.optim.SGD(model.parameters(), momentum=momentum, weight_decay=decay, fused=True)


def descent(model: nn.Module, options: TrainingOptions, state: Any = None) -> ModelDescent:
    return ModelDescent(
        [*model.parameters()], optimiser_of(options), {} if state is None else state
    )


@pytest.mark.parametrize(
    "given",
    [
        {"optimiser": "sgd"},
        {"optimiser": "sgd", "momentum": 0.0},
        {"optimiser": "sgd", "weight_decay": 0.1},
        {"optimiser": "adam"},
        {"optimiser": "adam", "weight_decay": 0.1},
        {"optimiser": "adamw", "weight_decay": 0.1},
    ],
)
def test_steps_and_state_are_torch_s_to_the_bit(given: dict[str, Any]) -> None:
    options = TrainingOptions(**given)
    ours, others = network(), network()
    torchs, optimiser = (
        theirs(others, options),
        ModelDescent([*ours.parameters()], optimiser_of(options), {}),
    )
    for number, rate in enumerate(RATES):
        x = torch.randn(6, 3, 8, 8)
        for model in (ours, others):
            model.zero_grad()
            model(x).square().mean().backward()
        for group in torchs.param_groups:
            group["lr"] = rate
        torchs.step()
        if number == 2:  # goes on from what was stored, of which a file keeps no memory format
            stored = {
                i: {name: t.contiguous() for name, t in one.items()}
                for i, one in optimiser.state().items()
            }
            optimiser = descent(ours, options, stored)
            assert optimiser.state() is stored
        optimiser.step(rate)
        pairs = zip(ours.parameters(), others.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    held, expected = optimiser.state(), torchs.state_dict()["state"]
    for i, one in held.items():
        assert {n: t.tolist() for n, t in one.items()} == {
            n: t.tolist() for n, t in expected[i].items() if t is not None
        }


@pytest.mark.parametrize("optimiser", ["sgd", "adam", "adamw"])
def test_a_parameter_without_gradient_keeps_still(optimiser: str) -> None:
    """Not even its momentum moves it, as with torch."""
    options = TrainingOptions(optimiser=optimiser, weight_decay=0.1)
    ours, others = network(), network()
    torchs, mine = (
        theirs(others, options),
        ModelDescent([*ours.parameters()], optimiser_of(options), {}),
    )
    for reached in (range(4), (2, 3), range(4)):
        for model in (ours, others):
            for i, p in enumerate(model.parameters()):
                p.grad = torch.full_like(p, 0.5) if i in reached else None
        before = [p.detach().clone() for p in ours.parameters()]
        torchs.param_groups[0]["lr"] = 0.1
        torchs.step()
        mine.step(0.1)
        for i, (p, old, other) in enumerate(
            zip(ours.parameters(), before, others.parameters(), strict=True)
        ):
            assert torch.equal(p, old) == (i not in reached)
            assert torch.equal(p, other)


@dataclass(frozen=True)
class OfTorch(Optimiser):
    """An optimiser that torch.optim steps."""

    def build(self, parameters: Any, rate: float) -> torch.optim.Optimizer:
        return torch.optim.RMSprop(parameters, lr=rate)


def test_a_stored_state_stays_as_it_is_where_torch_steps() -> None:
    """A client that fails goes on from it."""
    model, stored = network(), {}
    for _ in range(2):
        before, optimiser = deepcopy(stored), ModelDescent([*model.parameters()], OfTorch(), stored)
        model(torch.randn(6, 3, 8, 8)).square().mean().backward()
        optimiser.step(0.1)
        assert {i: {n: t.tolist() for n, t in one.items()} for i, one in stored.items()} == {
            i: {n: t.tolist() for n, t in one.items()} for i, one in before.items()
        }
        stored = dict(optimiser.state())
    assert stored[0]["step"] == 2
