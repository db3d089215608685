"""Knowledge vote and consensus focus: laws, and Shapley values against all orders."""

from __future__ import annotations

import itertools

import pytest
import torch

from fedkt.errors import ConfigError
from fedkt.fusion.knowledge_vote import ballots, contributions, knowledge_vote, quality, shares

GATE = 0.9


def rows(*answers: list[float]) -> torch.Tensor:
    return torch.tensor(answers)[:, None, :]


def sure(labels: torch.Tensor, confidence: float = 0.95, classes: int = 5) -> torch.Tensor:
    """Answers ``[..., C]`` with a confidence in some labels."""
    rest = (1 - confidence) / (classes - 1)
    one_hot = torch.nn.functional.one_hot(labels, classes).float()
    return rest + (confidence - rest) * one_hot


def random_answers(models: int, samples: int = 40, seed: int = 0) -> torch.Tensor:
    """Answers of which about half pass the gate."""
    logits = 4 * torch.randn(models, samples, 5, generator=torch.Generator().manual_seed(seed))
    return logits.softmax(-1)


def test_one_model_gives_its_own_answer_with_support_where_it_is_confident() -> None:
    answers = random_answers(1)
    targets, support = knowledge_vote(answers, GATE)
    assert torch.allclose(targets, answers[0])
    assert torch.equal(support, (answers[0].amax(-1) >= GATE).long())
    assert 0 < int(support.sum()) < len(support)


def test_nobody_passes_nobody_supports_and_the_target_is_the_mean() -> None:
    targets, support = knowledge_vote(rows([0.6, 0.4, 0.0], [0.2, 0.7, 0.1]), GATE)
    assert support.tolist() == [0]
    assert torch.allclose(targets, torch.tensor([[0.4, 0.55, 0.05]]))


def test_the_consensus_is_the_mean_of_those_that_agree() -> None:
    answers = rows([0.92, 0.08, 0.0], [0.9, 0.0, 0.1], [0.0, 0.99, 0.01], [0.8, 0.2, 0.0])
    targets, support = knowledge_vote(answers, GATE)
    assert support.tolist() == [2]  # two for class 0 outweigh the surest; the last is unsure
    assert torch.allclose(targets, torch.tensor([[0.91, 0.04, 0.05]]))


def test_all_disagree_leaves_the_surest_alone() -> None:
    answers = rows([0.92, 0.08, 0.0], [0.0, 0.99, 0.01], [0.04, 0.0, 0.96])
    targets, support = knowledge_vote(answers, GATE)
    assert support.tolist() == [1]
    assert torch.equal(targets, answers[1])


def test_targets_are_probabilities_and_nobody_is_counted_twice() -> None:
    targets, support = knowledge_vote(random_answers(6), GATE)
    assert torch.allclose(targets.sum(-1), torch.ones(len(targets)))
    assert 0 <= int(support.min()) <= int(support.max()) <= 6


def test_the_order_of_the_models_does_not_matter() -> None:
    answers, order = random_answers(5), torch.tensor([3, 0, 4, 2, 1])
    targets, support = knowledge_vote(answers, GATE)
    again, others = knowledge_vote(answers[order], GATE)
    assert torch.allclose(targets, again)
    assert torch.equal(support, others)
    values = contributions(ballots(answers, GATE))
    assert torch.allclose(contributions(ballots(answers[order], GATE)), values[order])


def test_quality_is_supporters_times_confidence() -> None:
    answers = random_answers(4)
    targets, support = knowledge_vote(answers, GATE)
    by_hand = (support * targets.amax(-1))[support > 0].sum()
    assert quality(ballots(answers, GATE)) == pytest.approx(float(by_hand), rel=1e-5)
    assert quality(ballots(answers, GATE)[:0]) == 0


@pytest.mark.parametrize("models", [1, 2, 3, 4])
def test_shapley_values_are_those_of_all_orders(models: int) -> None:
    cast = ballots(random_answers(models, seed=models), GATE)
    by_hand = torch.zeros(models, dtype=torch.float64)
    orders = list(itertools.permutations(range(models)))
    for order in orders:
        for place, player in enumerate(order):
            gain = quality(cast[list(order[: place + 1])]) - quality(cast[list(order[:place])])
            by_hand[player] += gain / len(orders)
    assert torch.allclose(contributions(cast), by_hand)


@pytest.mark.parametrize("models", [3, 8, 9, 12])
def test_shapley_values_sum_to_the_quality_of_all(models: int) -> None:
    cast = ballots(random_answers(models), GATE)
    values = contributions(cast, 20, torch.Generator().manual_seed(0))
    assert float(values.sum()) == pytest.approx(quality(cast))
    assert float(values.min()) >= 0


def test_drawn_orders_come_near_and_are_reproducible(monkeypatch) -> None:
    cast = ballots(random_answers(6, samples=100), GATE)
    exact = contributions(cast)
    monkeypatch.setattr("fedkt.fusion.knowledge_vote.MOST_EXACT", 5)
    drawn, again = (contributions(cast, 400, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(drawn, again)
    assert torch.allclose(drawn, exact, rtol=0.1)


def test_equal_models_have_equal_shares() -> None:
    answers = random_answers(1).expand(4, -1, -1)
    assert torch.allclose(
        shares(contributions(ballots(answers, GATE))), torch.full((4,), 0.25).double()
    )


def test_a_model_that_answers_at_random_has_the_smallest_share() -> None:
    labels = torch.arange(200) % 5
    noise = torch.randint(0, 5, (200,), generator=torch.Generator().manual_seed(0))
    answers = sure(torch.stack([labels, noise, labels, labels]))
    share = shares(contributions(ballots(answers, GATE)))
    assert float(share[1]) < 0.6 * float(share[[0, 2, 3]].min())
    timid = torch.cat([answers[[0, 2]], torch.full((1, 200, 5), 0.2)])
    assert shares(contributions(ballots(timid, GATE)))[2] == 0


def test_shares_lie_on_the_simplex_and_are_equal_without_any_vote() -> None:
    share = shares(contributions(ballots(random_answers(5), GATE)))
    assert float(share.sum()) == pytest.approx(1)
    silent = shares(contributions(ballots(torch.full((3, 4, 5), 0.2), GATE)))
    assert torch.allclose(silent, torch.full((3,), 1 / 3).double())


@pytest.mark.parametrize("gate", [0, -0.1, 1.1])
def test_the_gate_is_checked(gate: float) -> None:
    with pytest.raises(ConfigError, match="gate must lie in"):
        ballots(random_answers(2), gate)
