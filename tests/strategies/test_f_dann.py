"""f-DANN: FedAvg whose clients also learn to deceive a domain classifier."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedkt.errors import ConfigError
from fedkt.objectives.heads import Head
from fedkt.recipe import Beside, Load, Recipe, Weights
from fedkt.strategies.domains.f_dann import FDANN
from fedkt.strategies.weights.fedavg import FedAvg


@pytest.mark.parametrize("options", [{}, {"optimiser": "sgd", "learning_rate": 0.05}])
def test_without_gamma_the_model_is_fedavgs_to_the_bit(world, with_options, options) -> None:
    # True of nets without batch normalisation and dropout, which would notice the target.
    left, right = (world(models=("mlp",), **options) for _ in range(2))
    one = left.start(with_options(FedAvg(local_epochs=2)), 2)
    two = right.start(with_options(FDANN(local_epochs=2, gamma=0.0)), 2)
    heads = [n for n in two.arrays if n.startswith("heads.")]
    assert len(heads) == 6, "two layers and a normalisation"
    assert set(two.arrays) == {*one.arrays, *heads}
    for name in one.arrays:
        assert np.array_equal(one.arrays[name].numpy(), two.arrays[name].numpy())


def test_the_head_learns_and_the_features_notice(world, with_options) -> None:
    deaf, hearing = world(models=("mlp",)), world(models=("mlp",))
    one = deaf.start(with_options(FDANN(gamma=0.0)), 2)
    two = hearing.start(with_options(FDANN(gamma=10.0)), 2)
    recipe = FDANN().recipe()
    first = hearing.population.initial_arrays(3, recipe)
    assert not np.array_equal(one.arrays["1.weight"].numpy(), two.arrays["1.weight"].numpy())
    for name in ("heads.domain.0.weight", "heads.domain.norm0.weight", "heads.domain.1.bias"):
        assert not np.array_equal(first[name].numpy(), two.arrays[name].numpy())
        for client in range(4):  # everyone ends the round with the average, the head's too
            assert torch.equal(
                hearing.model_of(client)[name], torch.tensor(two.arrays[name].numpy())
            )


def test_bytes_are_those_of_the_docstring(world, with_options) -> None:
    run = world(models=("mlp",))
    run.start(with_options(FDANN()), 2)
    d = 64
    whole = (64 * d + d) + (d * 10 + 10) + (100 * d + 502)
    assert [r.traffic.up for r in run.reports] == [4 * 4 * whole] * 2
    assert [r.traffic.down_broadcast for r in run.reports] == [2 * 4 * 4 * whole, 4 * 4 * whole]


def test_recipe() -> None:
    recipe = FDANN(local_epochs=3, local_samples=20, gamma=5.0, target_batch=8).recipe()
    load, train = recipe.learn
    assert load == Load("weights")
    assert (train.epochs, train.samples, train.beside) == (3, 20, Beside("public", 8))
    assert [t.name for t in train.terms] == ["cross-entropy", "domain-adversarial"]
    assert (train.terms[1].gamma, train.terms[1].detach) == (5.0, False)
    assert recipe.share == (Weights(),)
    assert recipe.heads == (Head("domain", (100, 2), norm=True),)
    assert recipe.needs_public
    assert Recipe.from_json(recipe.to_json()) == recipe


@pytest.mark.parametrize(
    ("options", "said"),
    [({"gamma": -1.0}, "gamma must be .* at least 0"), ({"target_batch": 0}, "at least 2, not 0")],
)
def test_bad_options(options, said) -> None:
    with pytest.raises(ConfigError, match=said):
        FDANN(**options).recipe()
