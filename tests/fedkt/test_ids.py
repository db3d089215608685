"""Which samples a round speaks about."""

from __future__ import annotations

import pytest
import torch

from fedkt.recipe import Predict, Recipe, Weights
from fedkt.shares.ids import public_ids


def test_public_ids_are_a_fresh_sorted_draw_each_round() -> None:
    draws = [public_ids(1000, 100, seed=5, round_=r) for r in range(1, 6)]
    for draw in draws:
        assert draw.dtype == torch.int64
        assert draw.tolist() == sorted(set(draw.tolist()))
        assert len(draw) == 100
        assert int(draw[0]) >= 0
        assert int(draw[-1]) < 1000
    assert len({tuple(d.tolist()) for d in draws}) == 5
    assert torch.equal(draws[0], public_ids(1000, 100, seed=5, round_=1))
    assert not torch.equal(draws[0], public_ids(1000, 100, seed=6, round_=1))


def test_public_ids_are_uniform() -> None:
    drawn = torch.cat([public_ids(20, 5, 0, r) for r in range(2000)])
    counts = torch.bincount(drawn, minlength=20).double()
    # 2000 draws of 5 in 20: each id 500 times, standard deviation 19.4
    assert float((counts - 500).abs().max()) < 5 * 19.4


@pytest.mark.parametrize("samples", [0, 8, 9])
def test_public_ids_of_the_whole_set(samples: int) -> None:
    assert public_ids(8, samples, 0, 1).tolist() == list(range(8))


def test_share_ids_follow_the_recipe() -> None:
    recipe = Recipe(share=[Predict(samples=3), Weights()])
    assert recipe.ids("weights", 9, 0, 1) is None
    ids = recipe.ids("public", 9, 4, 2)
    assert torch.equal(ids, public_ids(9, 3, 4, 2))
