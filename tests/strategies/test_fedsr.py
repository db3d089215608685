"""FedSR: FedAvg of models and heads trained on noisy features."""

from __future__ import annotations

import pytest
import torch

from fedkt.errors import ConfigError
from fedkt.knowledge import Knowledge, Upload, Uploads
from fedkt.objectives.probabilistic import Probabilistic
from fedkt.recipe import Recipe
from fedkt.strategies.weights.fedsr import FedSR

D, C = 64, 10  # the linear model's features are its pixels
Q = D * C + C + D * (D + 1) + 2 * D * (C + 1)


def test_recipe() -> None:
    recipe = FedSR(l2r=0.2, cmi=0.3, local_epochs=4).recipe()
    assert recipe.learn[1].terms == (Probabilistic(0.2, 0.3),)
    assert recipe.learn[1].epochs == 4
    assert [h.name for h in recipe.heads] == ["scale", "class-mean", "class-scale"]
    assert Recipe.from_json(recipe.to_json()) == recipe


def test_bytes_are_those_of_the_docstring(world, with_options) -> None:
    run = world()
    run.start(with_options(FedSR(local_epochs=1)), 2)
    assert [r.traffic.up for r in run.reports] == [4 * 4 * Q] * 2
    assert [r.traffic.down_broadcast for r in run.reports] == [2 * 4 * 4 * Q, 4 * 4 * Q]


def test_heads_are_trained_and_averaged(world, with_options) -> None:
    run = world(models=("mlp",))
    strategy = FedSR(local_epochs=2)
    result = run.start(with_options(strategy), 2)
    first = run.population.initial_arrays(3, strategy.recipe())
    heads = [name for name in result.arrays if name.startswith("heads.")]
    assert len(heads) == 6
    for name in heads:
        after = torch.tensor(result.arrays[name].numpy())
        assert not torch.equal(after, torch.tensor(first[name].numpy())), name
        for client in range(4):
            assert torch.equal(run.model_of(client)[name], after)


def test_it_learns(world, with_options) -> None:
    run = world(models=("mlp",), learning_rate=5e-3)
    run.start(with_options(FedSR(local_epochs=5)), 4)
    assert min(run.reports[-1].per_client("global-accuracy")) > 0.5


def test_fuse_is_the_mean_by_examples() -> None:
    uploads = Uploads([
        Upload(c, n, {"weights": Knowledge("weights", {"w": torch.tensor([v])})})
        for c, n, v in ((0, 10, 1.0), (1, 30, 5.0))
    ])  # fmt: skip
    assert FedSR().fuse(uploads).shared["weights"].tensors["w"].tolist() == [4.0]


@pytest.mark.parametrize("options", [{"l2r": -1}, {"cmi": -0.1}])
def test_factors_are_checked(options) -> None:
    with pytest.raises(ConfigError, match=r"(l2r|cmi) must be .* at least 0"):
        FedSR(**options)
