from __future__ import annotations

import numpy as np
import pytest
import torch

from fedkt.data.samples import Samples
from fedkt.data.splits import row_digests, sizes_around, split_rows, split_sizes, stratified
from fedkt.errors import KnowledgeError


def samples(labelled: bool = True) -> Samples:
    x = torch.arange(8, dtype=torch.float32).reshape(4, 2)
    y = torch.tensor([0, 1, 2, 3]) if labelled else None
    return Samples(x, y, torch.tensor([30, 10, 40, 20]))


def test_select_takes_positions_and_masks() -> None:
    by_position = samples().select(torch.tensor([3, 0]))
    by_mask = samples().select(torch.tensor([True, False, False, True]))

    assert by_position.ids.tolist() == [20, 30]
    assert by_position.x.tolist() == [[6.0, 7.0], [0.0, 1.0]]
    assert by_mask.ids.tolist() == [30, 20]
    assert by_mask.y is not None
    assert by_mask.y.tolist() == [0, 3]


def test_at_ids_keeps_the_order_asked_for() -> None:
    found = samples().at_ids(torch.tensor([20, 30, 10]))

    assert found.ids.tolist() == [20, 30, 10]
    assert found.y is not None
    assert found.y.tolist() == [3, 0, 1]


@pytest.mark.parametrize("missing", [5, 25, 99])
def test_at_ids_names_an_unknown_id(missing: int) -> None:
    with pytest.raises(KnowledgeError, match=f"id {missing}$"):
        samples().at_ids(torch.tensor([20, missing]))


def test_unlabelled_samples_stay_unlabelled() -> None:
    assert samples(labelled=False).select(torch.tensor([1])).y is None
    assert len(samples(labelled=False)) == 4


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="length"):
        Samples(torch.zeros(3, 2), None, torch.arange(2))


@pytest.mark.parametrize("count", [0, 1, 7, 30, 99, 100])
def test_stratified_keeps_class_shares(count: int) -> None:
    labels = np.array([0] * 50 + [1] * 30 + [2] * 20)
    rows = stratified(labels, count, np.random.default_rng(1))

    assert len(rows) == len(np.unique(rows)) == count
    assert (np.diff(rows) > 0).all()
    shares = np.bincount(labels[rows], minlength=3)
    assert np.abs(shares - count * np.array([0.5, 0.3, 0.2])).max() < 1


def test_stratified_draws_every_row_sometimes() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    seen = {int(r) for s in range(60) for r in stratified(labels, 2, np.random.default_rng(s))}
    assert seen == set(range(6))


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (1, (1, 0, 0)),
        (2, (2, 0, 0)),
        (3, (2, 0, 1)),
        (4, (3, 0, 1)),
        (5, (3, 1, 1)),
        (10, (7, 1, 2)),
        (100, (70, 10, 20)),
    ],
)
def test_split_sizes_of_the_default_fractions(n: int, expected: tuple[int, int, int]) -> None:
    assert split_sizes(n, 0.1, 0.2) == expected


@pytest.mark.parametrize("validation", [0.0, 0.1, 0.45])
@pytest.mark.parametrize("test", [0.0, 0.2, 0.5])
def test_split_sizes_always_leave_something_to_train(validation: float, test: float) -> None:
    for n in range(1, 60):
        sizes = split_sizes(n, validation, test)
        assert sum(sizes) == n
        assert sizes[0] >= 1
        assert min(sizes) >= 0
        assert (sizes[2] >= 1) or test == 0 or n < 3


def test_sizes_around_put_validation_and_test_on_top() -> None:
    assert sizes_around(70, 0.1, 0.2) == (70, 10, 20)
    assert sizes_around(1, 0.1, 0.2) == (1, 1, 1)
    assert sizes_around(50, 0.0, 0.5) == (50, 0, 50)
    assert sizes_around(50, 0.0, 0.0) == (50, 0, 0)


def test_split_rows_is_a_stratified_partition() -> None:
    labels = np.array([0] * 60 + [1] * 40)
    parts = split_rows(labels, (70, 10, 20), np.random.default_rng(0))

    assert sorted(np.concatenate(parts).tolist()) == list(range(100))
    assert [np.bincount(labels[p]).tolist() for p in parts] == [[42, 28], [6, 4], [12, 8]]


def test_equal_rows_have_equal_digests() -> None:
    x = np.zeros((2000, 3), dtype=np.float32)
    x[1, 2] = 1.0
    digests = list(row_digests(x))

    assert len(digests) == 2000
    assert digests[0] == digests[2] == digests[1999]
    assert digests[0] != digests[1]
