"""FedAvg, FedProx and Local: the weight-sharing baselines and the baseline of all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedkt.clients import LearnerModels
from fedkt.errors import ConfigError
from fedkt.knowledge import Knowledge, Upload, Uploads
from fedkt.machine import one_thread
from fedkt.objectives import Proximal
from fedkt.recipe import Load, Weights
from fedkt.strategies.baselines.local import Local
from fedkt.strategies.weights.fedavg import FedAvg
from fedkt.strategies.weights.fedprox import FedProx
from fedkt.wire import weights_of

P = 64 * 10 + 10  # parameters of the linear model on 8 x 8 digits


def test_fuse_is_the_mean_by_examples() -> None:
    uploads = Uploads(
        [
            Upload(c, n, {"weights": Knowledge("weights", {"w": torch.tensor([v, 1.0])})})
            for c, n, v in ((0, 10, 1.0), (1, 30, 5.0))
        ]
    )
    for strategy in (FedAvg(), FedProx()):
        fused = strategy.fuse(uploads).shared["weights"]
        assert fused.tensors["w"].tolist() == [4.0, 1.0]


def test_the_result_is_the_weighted_mean_of_what_the_clients_trained(world, with_options) -> None:
    class Keeping(FedAvg):
        def fuse(self, uploads: Uploads):
            self.seen = uploads
            return super().fuse(uploads)

    strategy = Keeping(local_epochs=1)
    run = world()
    result = run.start(with_options(strategy), 1)
    by_hand = np.average(
        [u.knowledge["weights"].tensors["1.weight"].double().numpy() for u in strategy.seen],
        axis=0,
        weights=[u.num_examples for u in strategy.seen],
    )
    assert np.allclose(result.arrays["1.weight"].numpy(), by_hand, atol=1e-6)
    assert [u.num_examples for u in strategy.seen] == [40, 40, 40, 40]
    for client in range(4):  # everyone ends the round with the global weights, to the bit
        for name, array in result.arrays.items():
            assert np.array_equal(run.model_of(client)[name].numpy(), array.numpy())


def test_bytes_are_those_of_the_docstring(world, with_options) -> None:
    run = world()
    run.start(with_options(FedAvg(local_epochs=1)), 3)
    assert [r.traffic.up for r in run.reports] == [4 * 4 * P] * 3
    assert [r.traffic.down_broadcast for r in run.reports] == [2 * 4 * 4 * P] + [4 * 4 * P] * 2
    assert [r.traffic.down_unicast for r in run.reports] == [0, 0, 0]


def test_batch_norm_statistics_are_averaged_and_counters_stay(world, with_options) -> None:
    run = world(models=("resnet8-bn",))
    result = run.start(with_options(FedAvg(local_epochs=1)), 1)
    names = [n.rpartition(".")[2] for n in result.arrays]
    assert "running_mean" in names
    assert "num_batches_tracked" not in names
    counters = [n for n in run.model_of(0) if n.endswith("num_batches_tracked")]
    assert {int(run.model_of(0)[n]) for n in counters} == {2}  # 40 samples in batches of 32


def test_weights_are_needed_to_begin_with(world, with_options) -> None:
    strategy = with_options(FedAvg())
    strategy.options = replace(strategy.options, models=None)
    with pytest.raises(ConfigError, match="fedavg exchanges weights and needs initial_arrays"):
        strategy.start(world().grid, None, num_rounds=1)


def test_a_maker_of_models_makes_the_first_weights_too(world, with_options) -> None:
    given = world(models=("mlp",)).start(with_options(FedAvg(local_epochs=1)), 1)
    strategy = with_options(FedAvg(local_epochs=1))
    strategy.options = replace(strategy.options, models=LearnerModels("mlp"))
    with one_thread():
        made = strategy.start(world(models=("mlp",)).grid, None, num_rounds=1)
    for name in given.arrays:
        assert np.array_equal(given.arrays[name].numpy(), made.arrays[name].numpy())


@pytest.mark.parametrize("options", [{}, {"optimiser": "sgd", "learning_rate": 0.05}])
def test_fedprox_without_mu_is_fedavg_to_the_bit(world, with_options, options) -> None:
    left, right = world(**options), world(**options)
    one = left.start(with_options(FedAvg(local_epochs=2)), 2)
    two = right.start(with_options(FedProx(mu=0.0, local_epochs=2)), 2)
    for name in one.arrays:
        assert np.array_equal(one.arrays[name].numpy(), two.arrays[name].numpy())


def test_a_large_mu_keeps_clients_near_the_global_weights(world, with_options) -> None:
    distances = []
    for mu in (0.0, 1.0, 20.0):
        run = world(optimiser="sgd", learning_rate=0.02, momentum=0.0)
        result = run.start(with_options(FedProx(mu=mu, local_epochs=3)), 1)
        first = weights_of(run.population.initial_arrays(3)).tensors["1.weight"]
        after = torch.tensor(result.arrays["1.weight"].numpy())
        distances.append(float((after - first).norm()))
    assert distances[0] > distances[1] > 2 * distances[2] > 0


@pytest.mark.parametrize("mu", [-0.1, -1])
def test_mu_is_checked(mu: float) -> None:
    with pytest.raises(ConfigError, match=r"mu must be .* at least 0"):
        FedProx(mu=mu)


def test_recipes() -> None:
    for strategy in (FedAvg(local_epochs=4), FedProx(mu=0.5, local_epochs=4)):
        recipe = strategy.recipe()
        assert recipe.learn[-1].epochs == 4
        assert recipe.learn[0] == Load("weights")
        assert recipe.share == (Weights(),)
        assert recipe.absorb == (Load("weights"),)
        assert type(recipe).from_json(recipe.to_json()) == recipe
    assert FedProx(mu=0.5).recipe().learn[1].terms[1] == Proximal(0.5)


# --- local ---------------------------------------------------------------------------------


def test_local_shares_nothing(world, with_options) -> None:
    run = world(models=("linear", "logistic"))
    result = run.start(with_options(Local(local_epochs=1)), 2)
    for report in run.reports:
        assert (report.traffic.up, report.traffic.down) == (0, 0)
        assert None not in report.per_client("personalised-accuracy")
    assert result.train_metrics_clientapp[2]["loss"] < result.train_metrics_clientapp[1]["loss"]
    assert Local(local_epochs=3).recipe().learn[0].epochs == 3


def test_local_clients_do_not_touch_each_other(world, with_options) -> None:
    alone = world()
    alone.start(with_options(Local(local_epochs=1), participation=0.25), 3)
    together = world()
    together.start(with_options(Local(local_epochs=1)), 1)
    (first,) = alone.reports[0].participants
    again = world()
    again.start(with_options(Local(local_epochs=1), participation=0.25), 1)
    model, same = again.model_of(first), together.model_of(first)
    assert all(torch.equal(model[n], same[n]) for n in model)
