from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fedkt.data.gathered import gathered
from fedkt.data.samples import ClientData
from fedkt.errors import ConfigError

RNG = np.random.default_rng(0)
X, Y = RNG.random((40, 3, 6, 5)), np.arange(40) % 4
PUBLIC, TEST = RNG.random((9, 3, 6, 5)), (RNG.random((8, 3, 6, 5)), np.arange(8) % 4)


def party(x: Any = X, y: Any = Y, **options: Any) -> ClientData:
    return ClientData.from_arrays(x, y, **{"classes": 4, **options})


def test_ids_are_in_one_row_and_every_sample_is_somewhere() -> None:
    data = party(public=PUBLIC, common_test=TEST)
    sets = (data.public, data.train, data.validation, data.test, data.common_test)
    ids = torch.cat([samples.ids for samples in sets if samples is not None])
    assert torch.equal(ids, torch.arange(9 + 40 + 8))
    assert [len(samples) for samples in sets if samples is not None] == [9, 28, 4, 8, 8]
    own = torch.cat([data.train.x, data.validation.x, data.test.x])
    assert torch.equal(own.sort(0).values, torch.tensor(X).float().sort(0).values)
    assert data.input_shape == (3, 6, 5)
    again = party(public=PUBLIC, common_test=TEST)
    assert torch.equal(again.test.x, data.test.x)
    assert torch.equal(torch.bincount(data.test.y), torch.tensor([2, 2, 2, 2]))  # type: ignore[arg-type]  # it has labels


def test_sets_of_one_s_own_and_names_of_classes() -> None:
    names = ["north", "east", "south", "west"]
    data = party(y=np.array(names)[Y], classes=names, test=TEST, validation=0.0)
    assert torch.equal(torch.as_tensor(data.train.y), torch.tensor(Y))
    assert data.classes == tuple(names)
    assert (len(data.test), len(data.validation)) == (8, 0)
    tokens = party(x=np.arange(80).reshape(40, 2))
    assert tokens.train.x.dtype == torch.int64


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"classes": 3}, "y holds int64 that are no labels: whole numbers from 0 to 2"),
        ({"classes": ["a", "a"]}, "give their number, at least 2, or their names"),
        ({"y": Y[:-1]}, "x has 40 samples and y 39 labels"),
        ({"y": Y[:, None]}, r"y has shape \[40, 1\]; labels are \[n\]"),
        ({"y": ["0"] * 39 + ["4"]}, r"y\[39\] is none of the classes 0, 1, 2, 3"),
        ({"x": (255 * X).astype(np.uint8)}, "x holds torch.uint8; models take floats"),
        ({"x": X[:, 0, 0, 0]}, r"x has shape \[40\]"),
        ({"public": PUBLIC[..., 1:]}, r"public has samples torch.float32 \[3, 6, 4\], and x"),
        ({"test": 0.95}, "leave nothing to train on"),
        ({"common_test": (TEST[0], [0])}, r"common_test\[0\] has 8 samples and common_test\[1\] 1"),
    ],
)
def test_what_does_not_fit_is_one_line(options: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=line) as refused:
        party(**options)
    assert "\n" not in str(refused.value)


def test_a_federation_of_parties_gives_each_its_own_data() -> None:
    parts = [party(X[:20], Y[:20]), party(X[20:], Y[20:])]
    parts = [party(X[a:b], Y[a:b], public=PUBLIC, common_test=TEST) for a, b in ((0, 20), (20, 40))]
    federation = gathered(parts, "two")
    for client, data in enumerate(parts):
        for name in ("train", "validation", "test", "public", "common_test"):
            samples, expected = getattr(federation.client(client), name), getattr(data, name)
            assert torch.equal(samples.x, expected.x)
            assert samples.y is expected.y is None or torch.equal(samples.y, expected.y)
    with pytest.raises(ConfigError, match="client 1 has another public set than client 0"):
        gathered([parts[0], party(public=PUBLIC[1:], common_test=TEST)], "two")
    gap = PUBLIC.copy()
    gap[0, 0, 0, 0] = np.nan
    gathered([party(public=gap.copy()) for _ in range(2)], "two")  # gaps at the same places
    with pytest.raises(ConfigError, match="client 1 has another public set than client 0"):
        gathered([party(public=gap), party(public=PUBLIC)], "two")
    with pytest.raises(ConfigError, match="client 1 has another classes"):
        gathered([parts[0], party(classes=5, public=PUBLIC, common_test=TEST)], "two")
