"""Heads: a function of the model's parameters that equals the module it was built from."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fedkt.errors import ConfigError
from fedkt.objectives import CrossEntropy
from fedkt.objectives.heads import Head, apply_head
from fedkt.recipe import Recipe, Train


def parameters_of(head: Head, features: int = 6, classes: int = 4) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    module = head.module(features, classes)
    return {f"heads.{head.name}.{n}": p for n, p in module.named_parameters()}


def test_a_head_is_its_layers_with_relu_between() -> None:
    own = parameters_of(Head("d", (5, 2)))
    x = torch.randn(7, 6)
    by_hand = nn.Linear(6, 5), nn.Linear(5, 2)
    for i, layer in enumerate(by_hand):
        layer.load_state_dict({k: own[f"heads.d.{i}.{k}"] for k in ("weight", "bias")})
    expected = by_hand[1](by_hand[0](x).relu())
    assert torch.allclose(apply_head(own, "d", x), expected, atol=1e-6)


def test_normalisation_is_that_of_torch_over_the_batch() -> None:
    head = Head("d", (5, 2), norm=True)
    own = parameters_of(head)
    x = torch.randn(7, 6)
    norm = nn.BatchNorm1d(5)
    hidden = norm(nn.functional.linear(x, own["heads.d.0.weight"], own["heads.d.0.bias"]))
    expected = nn.functional.linear(hidden.relu(), own["heads.d.1.weight"], own["heads.d.1.bias"])
    assert torch.allclose(apply_head(own, "d", x), expected, atol=1e-5)


def test_padding_has_no_part_in_the_normalisation() -> None:
    own = parameters_of(Head("d", (5, 2), norm=True))
    x = torch.randn(7, 6)
    padded = torch.cat([x, torch.full((3, 6), 1e6)])
    weight = torch.tensor([1.0] * 7 + [0.0] * 3)
    assert torch.allclose(apply_head(own, "d", padded, weight)[:7], apply_head(own, "d", x))


@pytest.mark.parametrize(
    ("inputs", "width"), [("features", 6), ("classes", 4), ("pair", 12)], ids=str
)
def test_widths(inputs, width) -> None:
    own = parameters_of(Head("d", (0, -1), inputs=inputs))
    shapes = [tuple(own[f"heads.d.{i}.weight"].shape) for i in range(2)]
    assert shapes == [(6, width), (4, 6)]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"layers": ()}, "needs at least one layer"),
        ({"layers": (-2,)}, "layers must be a sequence"),
        ({"layers": (1,), "inputs": "images"}, "not 'images'"),
    ],
)
def test_bad_heads_are_refused(fields, said) -> None:
    with pytest.raises(ConfigError, match=said):
        Head("d", **fields)


def test_heads_travel_with_the_recipe() -> None:
    recipe = Recipe(
        learn=[Train("private", [CrossEntropy()])],
        heads=[Head("domain", (100, 2), norm=True), Head("scale", (0,), inputs="classes")],
    )
    assert Recipe.from_json(recipe.to_json()) == recipe
