"""MOON: equation 3 in numbers, the models it compares, and its limit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedkt.strategies.weights.fedavg import FedAvg
from fedkt.strategies.weights.moon import ModelContrast, Moon

from .by_hand import Asked, assert_equal_runs, batch_of


def test_the_contrast() -> None:
    """Equation 3, written out in NumPy; padding has no part in the mean."""
    now, weights, previous = np.random.default_rng(0).normal(size=(3, 5, 4))

    def near(a, b):
        return np.exp(a @ b / np.linalg.norm(a) / np.linalg.norm(b) / 0.5)

    losses = [
        -np.log(near(z, g) / (near(z, g) + near(z, p)))
        for z, g, p in zip(now[:4], weights, previous, strict=False)
    ]
    tensors = [torch.tensor(a, dtype=torch.float32) for a in (now, weights, previous)]
    asked = Asked(tensors[0], tensors[0], weights=tensors[1], previous=tensors[2])
    batch = batch_of([0] * 5, [1, 1, 1, 1, 0])
    loss = ModelContrast(temperature=0.5)(asked.outputs, batch, asked.knowledge)
    assert float(loss) == pytest.approx(np.mean(losses), rel=1e-5)


def test_where_both_models_are_one_it_is_log_2_without_gradient() -> None:
    z, told = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4)
    asked = Asked(z, z, weights=told, previous=told)
    loss = ModelContrast()(asked.outputs, batch_of([0] * 3), asked.knowledge)
    assert float(loss.detach()) == pytest.approx(np.log(2))
    assert torch.allclose(torch.autograd.grad(loss, z)[0], torch.zeros(3, 4), atol=1e-6)


def test_a_client_keeps_its_model_after_training_and_before_averaging(world, with_options) -> None:
    seen = {}

    class Keeping(Moon):
        def fuse(self, uploads):
            seen.update({upload.client: upload.knowledge["weights"] for upload in uploads})
            return super().fuse(uploads)

    run = world(models=("mlp",))
    run.start(with_options(Keeping(local_epochs=1), model="mlp"), 2)
    for client, state in run.grid.snapshot().items():
        for name, tensor in seen[client].tensors.items():
            assert torch.equal(state["own"]["previous"].tensors[name], tensor)
            assert not torch.equal(run.model_of(client)[name], tensor)


def test_without_mu_it_is_fedavg(world, with_options) -> None:
    ours, theirs = (with_options(s, model="mlp") for s in (Moon(mu=0.0), FedAvg()))
    assert_equal_runs(world, ours, theirs, rounding=True)
    recipe = Moon(mu=5, temperature=0.3).recipe()
    assert recipe.learn[1].terms[1].factor == 5
    assert recipe.learn[1].terms[1].term.temperature == 0.3
    assert type(recipe).from_json(recipe.to_json()) == recipe
