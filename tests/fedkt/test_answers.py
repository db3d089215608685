"""Where logits become labels, accuracies and losses: what is not finite never does."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fedkt import answers
from fedkt.errors import NotFiniteError
from fedkt.evaluation.metrics import group_effect, negative_transfer, over_clients, transfer
from fedkt.fusion.voting import vote
from fedkt.knowledge import Stack
from fedkt.readouts.blends import held_out_losses

GOOD = torch.tensor([[0.1, 2.0, -1.0], [3.0, 0.0, 0.0], [0.0, 0.5, 0.6]])
LABELS = torch.tensor([1, 2, 2])
BAD = [math.nan, math.inf, -math.inf]


def spoilt(value: float) -> Tensor:
    rows = GOOD.clone()
    rows[1, 2] = value
    return rows


def test_what_is_finite_is_taken_as_ever() -> None:
    assert answers.top(GOOD).tolist() == [1, 0, 2]
    assert answers.correct(GOOD, LABELS).tolist() == [True, False, True]
    assert answers.accuracy(GOOD, LABELS) == pytest.approx(2 / 3)
    expected = torch.nn.functional.cross_entropy(GOOD, LABELS)
    assert torch.equal(answers.mean_loss(GOOD, LABELS), expected)
    assert answers.finite(GOOD) is GOOD
    huge = torch.full((4, 3), torch.finfo(torch.float32).max)  # whose sum overflows in float32
    assert answers.top(huge).tolist() == [0] * 4


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("take", ["top", "correct", "accuracy", "mean_loss", "finite"])
def test_what_is_not_finite_is_refused(value: float, take: str) -> None:
    given = (LABELS,) if take in ("correct", "accuracy", "mean_loss") else ()
    with pytest.raises(NotFiniteError, match="1 of 3 answers hold NaN or infinity"):
        getattr(answers, take)(spoilt(value), *given)


@pytest.mark.parametrize("value", BAD)
def test_neither_votes_nor_gates_take_it(value: float) -> None:
    values = torch.stack([GOOD, spoilt(value)])
    stack = Stack("public", "logits", {"values": values}, torch.arange(3), (0, 1), torch.ones(2))
    with pytest.raises(NotFiniteError):
        vote(stack, 3, 0, 1)
    for pair in ((GOOD, spoilt(value)), (spoilt(value), GOOD)):
        with pytest.raises(NotFiniteError):
            held_out_losses(*pair, LABELS, torch.zeros(3))


@pytest.mark.parametrize("value", BAD)
def test_a_figure_that_is_not_finite_was_not_measured(value: float) -> None:
    found = over_clients([0.5, value, 1.0])
    assert found == {"mean": 0.75, "std": 0.25, "per_client": [0.5, None, 1.0]}
    assert negative_transfer([0.5, value, 0.4], [0.4, 0.3, 0.6]) == pytest.approx((0.5, 0.2))
    assert negative_transfer([0.5], [value]) == (None, None)
    assert transfer([value, 0.5], [0.5, 0.25]) == [None, 0.25]
    assert group_effect([0.5, value], value) is None
