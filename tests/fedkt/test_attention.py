"""Dynamic attention: laws."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

from fedkt.fusion.attention import dynamic_attention, looseness


def blobs(apart: float, samples: int = 120) -> torch.Tensor:
    order = torch.Generator().manual_seed(0)
    centres = apart * torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    return centres[torch.arange(samples) % 3] + 0.1 * torch.randn(samples, 2, generator=order)


def test_blobs_further_apart_are_less_loose() -> None:
    values = [looseness(blobs(apart), 3, 0) for apart in (0.2, 1.0, 5.0)]
    assert 1 > values[0] > values[1] > values[2] > 0
    assert values[2] < 0.01


def test_scale_and_order_do_not_matter_and_a_seed_is_enough() -> None:
    points = blobs(1.0)
    value = looseness(points, 3, 0)
    assert looseness(points, 3, 0) == value
    assert looseness(1000 * points, 3, 0) == pytest.approx(value)
    assert looseness(points.flip(0), 3, 0) == pytest.approx(value)


def test_it_is_the_gap_statistic_over_that_of_one_cluster() -> None:
    points = blobs(50.0, 30).double()

    def within(parts: list[torch.Tensor]) -> float:
        return sum(float(torch.cdist(p, p).square().sum()) / (2 * len(p)) for p in parts)

    parts = [points[torch.arange(30) % 3 == r] for r in range(3)]
    assert looseness(points, 3, 0) == pytest.approx(within(parts) / within([points]))


@pytest.mark.parametrize(
    "points",
    [
        torch.ones(5, 3),
        torch.ones(1, 3),
        torch.tensor([[0.0], [math.nan]]),
        torch.full((4, 1), 3e38),
    ],
    ids=["equal", "one", "nan", "huge"],
)
def test_no_clusters(points) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert looseness(points, 2, 0) in (1.0, pytest.approx(1.0))


def test_fewer_points_than_clusters() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert looseness(torch.tensor([[0.0], [1.0]]), 10, 0) == 0
        assert looseness(torch.tensor([[0.0], [1.0], [1.0], [1.0]]), 3, 0) == 0


def test_attention_lies_on_the_simplex_and_is_equal_for_equal_gains() -> None:
    before, after = torch.tensor([0.9, 0.5, 0.4]), torch.tensor([0.8, 0.4, 0.3])
    assert torch.allclose(dynamic_attention(before, after), torch.full((3,), 1 / 3))
    found = dynamic_attention(torch.rand(5), torch.rand(5), 0.1)
    assert float(found.sum()) == pytest.approx(1)
    assert float(found.min()) >= 0


def test_who_gains_more_counts_more() -> None:
    before = torch.full((3,), 0.5)
    found = dynamic_attention(before, torch.tensor([0.5, 0.3, 0.6]), 0.1)
    assert found[1] > found[0] > found[2]
    sharper = dynamic_attention(before, torch.tensor([0.5, 0.3, 0.6]), 0.05)
    assert sharper[1] > found[1]


def test_the_order_of_clients_does_not_matter() -> None:
    before, after, order = torch.rand(4), torch.rand(4), torch.tensor([2, 0, 3, 1])
    found = dynamic_attention(before, after, 0.1)
    assert torch.allclose(dynamic_attention(before[order], after[order], 0.1), found[order])


def test_nothing_known_is_equal_and_a_newcomer_gains_what_is_usual() -> None:
    unknown = torch.full((4,), math.nan)
    assert torch.equal(dynamic_attention(unknown, torch.rand(4)), torch.full((4,), 0.25))
    before, after = torch.tensor([0.9, math.nan, 0.5]), torch.tensor([0.7, 0.1, 0.5])
    known = dynamic_attention(torch.tensor([0.9, 0.6, 0.5]), torch.tensor([0.7, 0.5, 0.5]))
    assert torch.allclose(dynamic_attention(before, after), known)
