"""f-CORAL: FedAvg whose clients match covariances with the target."""

from __future__ import annotations

import numpy as np
import pytest

from fedkt.adaptation import Coral
from fedkt.errors import ConfigError
from fedkt.objectives import CrossEntropy
from fedkt.recipe import Beside, Weighted
from fedkt.strategies.domains.f_coral import FCoral
from fedkt.strategies.weights.fedavg import FedAvg


def test_without_strength_it_is_fedavg_to_the_bit_and_with_it_is_not(world, with_options) -> None:
    results = []
    for strategy in (FedAvg(local_epochs=1), FCoral(strength=0.0), FCoral(strength=10.0)):
        results.append(world(models=("mlp",)).start(with_options(strategy), 2).arrays)
    fedavg, without, with_it = results
    for name in fedavg:
        assert np.array_equal(fedavg[name].numpy(), without[name].numpy())
    assert not np.array_equal(fedavg["1.weight"].numpy(), with_it["1.weight"].numpy())


def test_recipe() -> None:
    train = FCoral(local_epochs=2, local_samples=9, strength=3.0, target_batch=4).recipe().learn[1]
    assert train.terms == (CrossEntropy(), Weighted(3.0, Coral(detach=False)))
    assert (train.epochs, train.samples, train.beside) == (2, 9, Beside("public", 4))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"strength": -0.1}, "strength must be .* at least 0"),
        ({"target_batch": 1}, "target_batch must be .* at least 2, not 1"),
    ],
)
def test_bad_options(options, said) -> None:
    with pytest.raises(ConfigError, match=said):
        FCoral(**options)
