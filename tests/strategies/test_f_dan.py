"""f-DAN: FedAvg whose clients match kernel means with the target."""

from __future__ import annotations

import numpy as np
import pytest

from fedkt.adaptation import MMD, Ramped
from fedkt.errors import ConfigError
from fedkt.objectives import CrossEntropy
from fedkt.recipe import Beside, Recipe, Weighted
from fedkt.strategies.domains.f_dan import FDAN
from fedkt.strategies.weights.fedavg import FedAvg


@pytest.mark.parametrize("strategy", [FDAN(strength=0.0), FDAN(gamma=0.0)], ids=["0", "gamma 0"])
def test_without_strength_it_is_fedavg_to_the_bit(world, with_options, strategy) -> None:
    left, right = world(models=("mlp",)), world(models=("mlp",))
    one = left.start(with_options(FedAvg(local_epochs=1)), 2)
    two = right.start(with_options(strategy), 2)
    assert set(one.arrays) == set(two.arrays)
    for name in one.arrays:
        assert np.array_equal(one.arrays[name].numpy(), two.arrays[name].numpy())
    assert [r.traffic.up for r in left.reports] == [r.traffic.up for r in right.reports]
    assert [r.traffic.down for r in left.reports] == [r.traffic.down for r in right.reports]


def test_every_option_makes_a_difference(world, with_options) -> None:
    def trained(**options) -> bytes:
        run = world(models=("mlp",))
        result = run.start(with_options(FDAN(**options)), 1)
        return result.arrays["1.weight"].numpy().tobytes()

    answers = [
        trained(**options)
        for options in (
            {},
            {"strength": 0.0},
            {"ramp": False},
            {"gamma": 10.0},
            {"estimator": "biased"},
            {"estimator": "linear"},
            {"target_batch": 8},
            {"local_epochs": 2},
            {"local_samples": 20},
        )
    ]
    assert len(set(answers)) == len(answers)


def test_recipe() -> None:
    train = FDAN().recipe().learn[1]
    distance = MMD("unbiased", detach=False)
    assert train.terms == (CrossEntropy(), Weighted(1.0, Ramped(distance, 5.0)))
    fixed = FDAN(strength=0.5, ramp=False, estimator="linear", target_batch=32).recipe()
    assert fixed.learn[1].terms[1] == Weighted(0.5, MMD("linear", detach=False))
    assert fixed.learn[1].beside == Beside("public", 32)
    assert fixed.heads == ()
    assert Recipe.from_json(fixed.to_json()) == fixed


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"strength": -1.0}, "strength must be .* at least 0, not -1"),
        ({"gamma": float("nan")}, "gamma must be .* at least 0, not nan"),
        ({"estimator": "exact"}, "must be one of biased, unbiased, linear, not 'exact'"),
        ({"target_batch": 0}, "at least 2, not 0"),
    ],
)
def test_bad_options(options, said) -> None:
    with pytest.raises(ConfigError, match=said):
        FDAN(**options).recipe()
