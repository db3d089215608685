"""Ditto: its two steps by hand, and its limits."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from fedkt.strategies.weights.ditto import Ditto
from fedkt.strategies.weights.fedavg import FedAvg
from fedkt.wire import weights_of

from .by_hand import LocalSecond, assert_equal_runs, uploads_of_weights

RATE = 0.05
SGD = {"optimiser": "sgd", "learning_rate": RATE, "momentum": 0.0}


def test_one_step_of_both_models(world, with_options) -> None:
    """Algorithm 1 for the linear model: v ← v - η (∇F(v) + λ (v - w)), w ← w - η ∇F(w)."""
    seen = {}

    class Keeping(Ditto):
        def fuse(self, uploads):
            seen.update({u.client: u.knowledge["weights"].tensors for u in uploads})
            return super().fuse(uploads)

    run = world(**SGD, batch_size=40)  # one batch
    strategy = with_options(Keeping(lam=3.0, local_epochs=1))
    w = weights_of(run.population.initial_arrays(3, strategy.recipe())).tensors
    learner = run.population.learner("linear")
    learner.reset(3, 2)
    v = {n: t.clone() for n, t in learner.weights().tensors.items()}
    run.start(strategy, 1)
    data = run.population.federation.client(2).train

    def stepped(weights, pull):
        at = {n: t.clone().requires_grad_() for n, t in weights.items()}
        loss = F.cross_entropy(data.x.flatten(1) @ at["1.weight"].T + at["1.bias"], data.y)
        gradients = dict(zip(at, torch.autograd.grad(loss, list(at.values())), strict=True))
        return {n: t - RATE * (gradients[n] + pull * (t - w[n])) for n, t in weights.items()}

    for name, tensor in stepped(v, 3.0).items():
        assert torch.allclose(run.model_of(2)[name], tensor, atol=1e-5)
    for name, tensor in stepped(w, 0.0).items():
        assert torch.allclose(seen[2][name], tensor, atol=1e-5)


def test_the_mean_is_by_examples() -> None:
    told = uploads_of_weights("weights", (10, {"w": torch.ones(2)}), (30, {"w": 5 * torch.ones(2)}))
    assert Ditto().fuse(told).shared["weights"].tensors["w"].tolist() == [4.0, 4.0]


def test_without_lambda_the_own_model_is_trained_alone(world, with_options) -> None:
    ours, theirs = with_options(Ditto(lam=0.0), model="mlp"), with_options(LocalSecond(5))
    assert_equal_runs(world, ours, theirs, rounding=True)


def test_the_global_model_is_that_of_fedavg(world, with_options) -> None:
    """With batches of all samples, whose order does not matter."""
    results = [
        world(models=("mlp",), **SGD, batch_size=40).start(with_options(s, model="mlp"), 2).arrays
        for s in (Ditto(local_epochs=2), FedAvg(2))
    ]
    for name, array in results[0].items():
        assert np.allclose(array.numpy(), results[1][name].numpy(), atol=1e-5)


def test_a_large_lambda_holds_the_own_model_at_the_global_one(world, with_options) -> None:
    distances = []
    for lam in (0.0, 1.0, 15.0):
        run = world(**SGD)
        result = run.start(with_options(Ditto(lam=lam)), 3)
        w = torch.tensor(result.arrays["1.weight"].numpy())
        distances.append(float((run.model_of(1)["1.weight"] - w).norm()))
    assert distances[0] > distances[1] > 2 * distances[2]
