"""A step towards fused weights, as far as they are good for the client."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedkt.clients import TorchLearner, TrainingOptions, Work
from fedkt.clients.cohorts.learner import CohortLearner
from fedkt.data import ClientData, Samples
from fedkt.knowledge import Knowledge
from fedkt.objectives import CrossEntropy
from fedkt.recipe import Recipe, Train
from fedkt.steps import GatedLoad

ADAM = TrainingOptions("adam", 1e-3)


class Two(nn.Module):
    """Answers class 1 where w · x > 0."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([torch.zeros(len(x), 1), self.w * x], 1)


def work_with(right: int, weight: float = -1.0) -> Work:
    """Return a client's work whose own weight 1 is right on all but ``10 - right`` of 20 rows.

    Classes are even. A negative weight is right on just the others.
    """
    x = torch.tensor([1.0] * 10 + [-1.0] * 10)[:, None]
    y = torch.tensor([1] * 10 + [0] * 10)
    wrong = 10 - right
    x[:wrong] = -x[:wrong]  # of class 1
    x[10 : 10 + wrong] = -x[10 : 10 + wrong]
    rows = Samples(x, y, torch.arange(20))
    none = Samples(x[:0], y[:0], torch.arange(0))
    data = ClientData(rows, none, rows, None, rows, 2, (1,))
    fused = Knowledge("weights", {"w": torch.tensor([weight])})
    return Work(data, {"weights": fused}, ADAM, 0, 1, 0)


def learners() -> list[Any]:
    made: list[Any] = []
    for _ in range(2):
        learner = TorchLearner(Two, 2, "two")
        learner.follow(Recipe())
        learner.reset(0, 0)
        made.append(learner)
    member = CohortLearner(made[1])
    member.take(made[1].state())
    return [made[0], member]


@pytest.mark.parametrize("learner", learners(), ids=["loop", "cohort"])
@pytest.mark.parametrize(
    ("right", "gate"),  # of ten in each class with the client's own weights, ten less with others
    [
        (10, 0.0),  # ρ = 0
        (6, 0.0),  # ρ = 2 / 3
        (5, 1.0),  # ρ = 1
        (4, 1.0),  # ρ = 1.5
        (0, 1.0),  # own answers are all wrong
    ],
)
def test_the_gate_is_open_for_weights_that_are_as_good(
    learner: Any, right: int, gate: float
) -> None:
    before = learner.state()
    GatedLoad(rate=0.25).run(learner, work_with(right), "s")
    w = learner.weights().tensors["w"]
    assert torch.equal(w, torch.tensor([1.0 + 0.25 * gate * (-1.0 - 1.0)]))
    learner.load_state(before)


@pytest.mark.parametrize("learner", learners(), ids=["loop", "cohort"])
def test_between_it_is_linear_and_both_answer_with_the_client_s_prior(learner: Any) -> None:
    x = torch.cat([torch.full((16,), 2.0), torch.full((4,), -2.0)])[:, None]
    x[:6] = -0.3  # right by the prior alone
    y = torch.cat([torch.ones(16), torch.zeros(4)]).long()
    rows = Samples(x, y, torch.arange(20))
    none = Samples(x[:0], y[:0], torch.arange(0))
    data = ClientData(rows, none, rows, None, rows, 2, (1,))
    learner.reset(0, 0)

    def accuracy(weight: float) -> float:
        z = torch.cat([torch.zeros(20, 1), weight * x], 1) + data.log_prior
        return float((z.argmax(1) == y).double().mean())

    step, weight = GatedLoad(rate=1.0, low=0.5, width=1.0), 0.2
    ratio = accuracy(weight) / accuracy(1.0)
    assert 0.5 < ratio < 1.5
    fused = Knowledge("weights", {"w": torch.tensor([weight])})
    step.run(learner, Work(data, {"weights": fused}, ADAM, 0, 1, 0), "s")
    expected = 1 + (ratio - 0.5) * (weight - 1)
    assert learner.weights().tensors["w"].item() == pytest.approx(expected, abs=1e-6)


def test_equal_weights_do_not_move_and_without_weights_or_samples_nothing_does() -> None:
    for learner in learners():
        before = learner.weights().tensors["w"].clone()
        GatedLoad(rate=0.5).run(learner, work_with(10, weight=1.0), "s")
        assert torch.equal(learner.weights().tensors["w"], before)
        work = work_with(5)
        empty = Work(work.data, {}, ADAM, 0, 1, 0)
        GatedLoad(rate=0.5).run(learner, empty, "s")
        assert torch.equal(learner.weights().tensors["w"], before)


def test_the_moments_of_the_optimiser_stay() -> None:
    for learner in learners():
        work = work_with(5)
        learner.train(Train("private", [CrossEntropy()], 3), work, "s")
        before = learner.state()["optimiser"]
        assert before
        GatedLoad(rate=0.5).run(learner, work, "s")
        after = learner.state()["optimiser"]
        assert after.keys() == before.keys()
        for index, moments in before.items():
            for name, value in moments.items():
                assert torch.equal(torch.as_tensor(after[index][name]), torch.as_tensor(value))
