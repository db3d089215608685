"""Which uploads are too far from the others of their round, and which are not."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import pytest
import torch

from fedkt.errors import ConfigError
from fedkt.knowledge import Knowledge, Upload
from fedkt.simulations.experiment.config import parse
from fedkt.strategies.server.bounds import Bounds, magnitude, usual_of_others


def uploads(examples: Sequence[int], sizes: Sequence[float] = ()) -> list[Upload]:
    sizes = sizes or [1.0] * len(examples)
    pairs = enumerate(zip(examples, sizes, strict=True))
    return [
        Upload(c, n, {"weights": Knowledge("weights", {"a": torch.tensor([0.1, -size])})})
        for c, (n, size) in pairs
    ]


@pytest.mark.parametrize(
    ("sizes", "usual"),
    [([], math.inf), ([7], math.inf), ([7, 1], 1), ([9, 1, 5], 1), ([4, 9, 1, 5], 4)],
)
def test_what_the_others_have(sizes: list[float], usual: float) -> None:
    assert usual_of_others(sizes) == usual


@pytest.mark.parametrize(
    ("examples", "out"),
    [
        ([], set()),
        ([10**9], set()),  # alone there is nobody to compare with
        ([1, 60_000], set()),
        ([0, 100_000], set()),
        ([0, 100_001], {1}),
        ([24, 24, 10**7, 24], {2}),
        ([10**7, 24, 10**7, 24, 24], {0, 2}),
        ([12, 700_000, 50, 90, 3000], set()),
    ],
)
def test_examples_beyond_those_of_the_others(examples: list[int], out: set[int]) -> None:
    found = Bounds().outliers(uploads(examples))
    assert set(found) == out
    assert all("num-examples is" in reason for reason in found.values())


@pytest.mark.parametrize(
    ("sizes", "out"),
    [
        ([0.0, 0.0, 9999.0], set()),  # less than 1 counts as 1
        ([0.0, 0.0, 10_001.0], {2}),
        ([1e12, 1e12, 1e14], set()),  # unscaled inputs move all together
        ([0.5, 3.0, 1e30, 2.0], {2}),
    ],
)
def test_numbers_beyond_those_of_the_others(sizes: list[float], out: set[int]) -> None:
    given = uploads([5] * len(sizes), sizes)
    assert set(Bounds().outliers(given)) == out
    assert [magnitude(upload) for upload in given] == pytest.approx([max(0.1, s) for s in sizes])


def test_labels_have_no_size() -> None:
    labels = [torch.tensor([0, 0]), torch.tensor([0, 20_000])]
    given = [Upload(c, 1, {"public": Knowledge.rows("labels", y)}) for c, y in enumerate(labels)]
    assert Bounds().outliers(given) == {}


@pytest.mark.parametrize("value", [0.5, -1, math.nan, math.inf, "many", True])
def test_a_bound_is_a_number_from_one(value: object) -> None:
    with pytest.raises(
        ConfigError, match="Bounds: value_ratio must be a finite number of at least 1"
    ):
        Bounds(value_ratio=value)  # as a user may write it


def test_bounds_in_an_experiment() -> None:
    bounds = parse({"run": {"bounds": {"examples_ratio": 10}}}).run.bounds
    assert bounds == Bounds(examples_ratio=10)
    with pytest.raises(ConfigError, match=re.escape("Did you mean 'examples_ratio'?")):
        parse({"run": {"bounds": {"examples_ration": 10}}})
    with pytest.raises(ConfigError, match=re.escape("run.bounds.value = 0.5")):
        parse({"run": {"bounds": {"value": 0.5}}})
