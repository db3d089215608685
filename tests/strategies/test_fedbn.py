"""FedBN: FedAvg of everything but batch normalisation."""

from __future__ import annotations

import numpy as np
import torch
from flwr.app import MetricRecord

from fedkt.recipe import Weights
from fedkt.strategies.weights.fedavg import FedAvg
from fedkt.strategies.weights.fedbn import FedBN


def test_without_batch_normalisation_it_is_fedavg_to_the_bit(world, with_options) -> None:
    left, right = world(models=("mlp",)), world(models=("mlp",))
    left.start(with_options(FedAvg(local_epochs=2)), 2)
    right.start(with_options(FedBN(local_epochs=2)), 2)
    for client in range(4):
        one, two = left.model_of(client), right.model_of(client)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[n], two[n]) for n in one)
    assert [r.traffic for r in left.reports] == [r.traffic for r in right.reports]


def test_normalisation_stays_with_the_clients_and_the_rest_is_one(world, with_options) -> None:
    class Keeping(FedBN):
        def fuse(self, uploads):
            self.seen = {n for u in uploads for n in u.knowledge["weights"].tensors}
            return super().fuse(uploads)

    strategy = Keeping()
    run = world(models=("resnet8-bn",))
    run.start(with_options(strategy), 2)
    models = [run.model_of(client) for client in range(4)]
    home = {n for n in models[0] if n not in strategy.seen}
    norms = {n.rpartition(".")[0] for n in models[0] if n.endswith("running_mean")}
    assert len(norms) == 9, "the stem's, two a block and two of shortcuts"
    assert home == {n for n in models[0] if n.rpartition(".")[0] in norms}
    assert any(n.endswith("num_batches_tracked") for n in home)
    for name in models[0]:
        alike = [torch.equal(models[0][name], other[name]) for other in models[1:]]
        counter = name.endswith("num_batches_tracked")  # equal, as everyone saw as many batches
        assert all(alike) if name in strategy.seen or counter else not any(alike), name


def test_the_server_has_no_model_to_evaluate(world, with_options) -> None:
    run = world(models=("resnet8-bn",))
    strategy = with_options(FedBN())
    strategy.observers = [run.watch]
    asked = []

    def evaluate(round_, arrays):
        asked.append(round_)
        return MetricRecord({"accuracy": 0.5})

    first = run.population.initial_arrays(3, strategy.recipe())
    result = strategy.start(run.grid, first, num_rounds=1, evaluate_fn=evaluate)
    assert asked == [], "least of all the first weights"
    assert len(result.arrays) == 0
    assert run.reports[0].server_accuracy is None
    assert np.isfinite(run.reports[0].metrics[0]["global-accuracy"])


def test_recipe() -> None:
    recipe = FedBN(local_epochs=3, local_samples=7).recipe()
    assert (recipe.learn[1].epochs, recipe.learn[1].samples) == (3, 7)
    assert recipe.share == (Weights(local_norms=True),)
    assert not recipe.needs_public
