from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from fedkt.rng import derive, global_torch_stream, numpy_rng, torch_rng


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ((0, "batches", 1, 0), 5399053832354041967),
        ((0, "model", 0, 3), 9191451317358115349),
        ((7, "participants", 12, 0), 1137221995427358125),
        ((0, "dropout/learn/0", 5, -1), 4070593845324777237),
    ],
)
def test_seeds_never_change(name: tuple[int, str, int, int], value: int) -> None:
    # Pinned: a change here changes the result of every run ever made.
    assert derive(*name) == value


def test_streams_never_change() -> None:
    assert numpy_rng(0, "batches", 1).integers(0, 1000, 4).tolist() == [198, 381, 41, 49]
    order = torch.randperm(6, generator=torch_rng(0, "batches", 1))
    assert order.tolist() == [4, 2, 1, 5, 0, 3]


def test_defaults_are_round_0_and_client_0() -> None:
    assert derive(3, "x") == derive(3, "x", 0, 0)


def test_every_part_of_the_name_counts() -> None:
    names = itertools.product((0, 1, 11), ("a", "b", "a/1"), (0, 1, 11), (0, 1, 11))
    seeds = [derive(*name) for name in names]
    assert len(set(seeds)) == 81
    assert all(0 <= s < 2**63 for s in seeds)


def test_streams_are_independent_of_global_state_and_of_each_other() -> None:
    first = numpy_rng(0, "a").random(5)
    np.random.seed(1)
    torch.manual_seed(1)
    numpy_rng(0, "b").random(100)
    assert np.array_equal(numpy_rng(0, "a").random(5), first)
    draw = torch.rand(5, generator=torch_rng(0, "a"))
    torch.manual_seed(2)
    assert torch.equal(torch.rand(5, generator=torch_rng(0, "a")), draw)


def test_streams_of_neighbours_are_uncorrelated() -> None:
    draws = np.stack(
        [numpy_rng(0, "x", r, c).standard_normal(2000) for r in (1, 2) for c in (0, 1)]
    )
    correlation = np.corrcoef(draws) - np.eye(4)
    assert np.abs(correlation).max() < 5 / np.sqrt(2000)


def test_the_seeds_themselves_look_uniform() -> None:
    seeds = np.array([derive(0, "x", 0, c) for c in range(4000)], dtype=np.float64) / 2**63
    counts, _ = np.histogram(seeds, bins=10, range=(0, 1))
    assert np.abs(counts - 400).max() < 5 * 19


def test_the_global_stream_is_named_and_then_gone() -> None:
    torch.manual_seed(123)
    before = torch.random.get_rng_state()
    with global_torch_stream(0, "model", 0, 4):
        inside = torch.rand(3)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(999)
    with global_torch_stream(0, "model", 0, 4):
        assert torch.equal(torch.rand(3), inside)
    with global_torch_stream(0, "model", 0, 5):
        assert not torch.equal(torch.rand(3), inside)


def fail_inside() -> None:
    with global_torch_stream(0, "x"):
        torch.rand(1)
        raise RuntimeError("inside")


def test_the_global_stream_restores_after_an_error() -> None:
    before = torch.random.get_rng_state()
    with pytest.raises(RuntimeError, match="inside"):
        fail_inside()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_global_streams_nest() -> None:
    with global_torch_stream(0, "outer"):
        straight = torch.rand(4)
    with global_torch_stream(0, "outer"):
        first = torch.rand(2)
        with global_torch_stream(0, "inner"):
            torch.rand(7)
        second = torch.rand(2)
    assert torch.equal(torch.cat([first, second]), straight)
