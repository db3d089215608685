"""FedTGP: margin, loss and generated prototypes in numbers, and its limit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedkt.knowledge import Knowledge
from fedkt.objectives import Outputs
from fedkt.strategies.baselines.local import Local
from fedkt.strategies.prototypes.class_pairs import margin
from fedkt.strategies.prototypes.fedtgp import (
    FedTGP,
    MarginCrossEntropy,
    PrototypeNet,
    generated,
)

from .by_hand import assert_equal_runs, batch_of


def test_the_margin_is_the_largest_gap_to_a_nearest_neighbour() -> None:
    """Equation 8: the gaps are 3, 3 and 5."""
    means = torch.tensor([[0.0, 0.0], [3.0, 0.0], [3.0, 5.0]])
    assert float(margin(means, 100.0)) == pytest.approx(5.0)
    assert float(margin(means, 4.0)) == 4.0
    assert float(margin(means[:1], 4.0)) == 4.0, "one class has no neighbour"


def test_the_loss_pushes_prototypes_off_the_other_classes_by_the_margin() -> None:
    """Equation 9 in NumPy, for prototypes of two classes among three."""
    torch.manual_seed(0)
    generator, delta, y = PrototypeNet(2, 3), 1.5, [1, 2, 1, 0]
    w = {n: t.detach().double().numpy() for n, t in generator.named_parameters()}
    hidden = np.maximum(w["vectors.weight"] @ w["hidden.weight"].T + w["hidden.bias"], 0)
    made = hidden @ w["out.weight"].T + w["out.bias"]
    assert np.allclose(generated(dict(generator.named_parameters())).detach(), made, atol=1e-6)
    x = np.random.default_rng(0).normal(size=(4, 2))
    losses = []
    for row, label in list(zip(x, y, strict=True))[:3]:
        far = [np.sqrt(((row - prototype) ** 2).sum()) for prototype in made]
        far[label] += delta
        losses.append(-np.log(np.exp(-far[label]) / np.exp(-np.array(far)).sum()))
    outputs = Outputs(generator(torch.tensor(x, dtype=torch.float32)), None, {})
    told = {"margin": Knowledge("statistics", {"margin": torch.tensor(delta)})}
    loss = MarginCrossEntropy()(outputs, batch_of(y, [1, 1, 1, 0]), told)
    assert float(loss.detach()) == pytest.approx(np.mean(losses), rel=1e-4)


def test_a_prototype_on_a_global_one_has_a_gradient() -> None:
    """The root of a distance of 0 has none."""
    generator = PrototypeNet(2, 3)
    x = generated(dict(generator.named_parameters()))[:1].detach()
    gradients = torch.autograd.grad(generator(x).sum(), list(generator.parameters()))
    assert all(bool(torch.isfinite(g).all()) for g in gradients)


def test_clients_get_the_generated_prototypes_of_the_classes_there_are(world, with_options) -> None:
    class Keeping(FedTGP):
        def fuse(self, uploads):
            self.seen, self.fused = uploads["prototypes"], super().fuse(uploads)
            return self.fused

    losses = []
    for epochs in (1, 100):
        strategy, run = with_options(Keeping(server_epochs=epochs)), world(models=("mlp", "cnn"))
        run.start(strategy, 1)
        assert run.reports[0].failures == []
        fused = strategy.fused.shared["prototypes"]
        made = generated(strategy.model["generator"].weights().tensors)
        assert fused.ids.tolist() == strategy.seen.ids.tolist()
        assert torch.equal(fused.values, made[fused.ids])
        losses.append(run.reports[0].diagnostics["server_loss"])
    assert losses[1] < losses[0]


def test_without_the_distance_it_is_local_training(world, with_options) -> None:
    ours = with_options(FedTGP(factor=0, readout="raw", server_epochs=1))
    assert_equal_runs(world, ours, with_options(Local(local_epochs=1)))
