"""Where logits become labels, accuracies and losses: what is not finite never does."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fedkt import answers
from fedkt.errors import KnowledgeError, NotFiniteError
from fedkt.evaluation.transfer import group_effect, negative_transfer, over_clients, transfer
from fedkt.fusion.voting import vote
from fedkt.knowledge import Stack
from fedkt.readouts.gate import held_out_losses

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
    with pytest.raises(NotFiniteError, match=r"1 of [23] answers hold NaN or infinity"):
        vote(stack, 3, 0, 1)
    for pair in ((GOOD, spoilt(value)), (spoilt(value), GOOD)):
        with pytest.raises(NotFiniteError, match=r"1 of [23] answers hold NaN or infinity"):
            held_out_losses(*pair, LABELS, torch.zeros(3))


@pytest.mark.parametrize("value", BAD)
def test_a_figure_that_is_not_finite_was_not_measured(value: float) -> None:
    found = over_clients([0.5, value, 1.0])
    assert found == {"mean": 0.75, "std": 0.25, "per_client": [0.5, None, 1.0]}
    assert negative_transfer([0.5, value, 0.4], [0.4, 0.3, 0.6]) == pytest.approx((0.5, 0.2))
    assert negative_transfer([0.5], [value]) == (None, None)
    assert transfer([value, 0.5], [0.5, 0.25]) == [None, 0.25]
    assert group_effect([0.5, value], value) is None


@pytest.mark.parametrize("shape", [(7, 10), (7, 15), (7, 16), (7, 100), (3, 7, 10), (10,), (0, 10)])
def test_the_softmax_of_ours_is_torch_s(shape: tuple[int, ...]) -> None:
    z = 10 * torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours, theirs = z.clone().requires_grad_(), z.clone().requires_grad_()
    assert torch.allclose(answers.log_softmax(ours), theirs.log_softmax(-1), rtol=0, atol=1e-13)
    assert torch.allclose(answers.softmax(ours), theirs.softmax(-1), rtol=0, atol=1e-13)
    weight = torch.linspace(0, 1, shape[-1], dtype=torch.float64)
    (answers.log_softmax(ours) * weight).sum().backward()
    (theirs.log_softmax(-1) * weight).sum().backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    assert torch.allclose(ours.grad, theirs.grad, rtol=0, atol=1e-12)


def test_of_softmax_large_logits_do_not_overflow() -> None:
    z = torch.tensor([[1000.0, 0.0, -1000.0]])
    assert answers.softmax(z).tolist() == [[1.0, 0.0, 0.0]]
    assert answers.log_softmax(z).tolist() == [[0.0, -1000.0, -2000.0]]


def test_the_softmax_under_vmap() -> None:
    z = torch.randn(4, 7, 10, dtype=torch.float64)
    assert torch.allclose(torch.func.vmap(answers.log_softmax)(z), z.log_softmax(-1), atol=1e-13)


def test_answers_of_one_kind_as_another() -> None:
    p = torch.tensor([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]])
    assert torch.allclose(
        answers.probabilities_of(answers.logits_of(p, "probabilities"), "logits"), p
    )
    assert answers.probabilities_of(p, "probabilities") is p
    assert answers.logits_of(GOOD, "logits") is GOOD
    assert answers.probabilities_of(torch.tensor([2, 0]), "labels", 3).tolist() == [
        [0, 0, 1],
        [1, 0, 0],
    ]
    assert answers.of_kind(GOOD, "labels").tolist() == [1, 0, 2]
    assert torch.allclose(answers.of_kind(GOOD, "probabilities", 2.0), (GOOD / 2).softmax(-1))
    assert torch.equal(
        answers.of_kind(GOOD, "probabilities", soft=answers.torch_softmax), GOOD.softmax(-1)
    )
    assert answers.of_kind(GOOD, "logits") is GOOD
    with pytest.raises(KnowledgeError, match="not of labels"):
        answers.logits_of(torch.tensor([1]), "labels")
