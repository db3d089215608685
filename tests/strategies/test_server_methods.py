"""FedGen, written as a file outside the packages: its equations."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from fedkt import registry
from fedkt.knowledge import Knowledge
from fedkt.objectives.term import Batch, Outputs

OUTSIDE = Path(__file__).parents[1] / "conformance" / "outside"
fedgen = registry.load_file(OUTSIDE / "fedgen.py")


class Linear:
    """A model at the server that stands for the generator and for the client's classifier."""

    def ask(self, weights: None, x: Tensor) -> Any:
        return SimpleNamespace(logits=torch.cat([x, x[:, :1] * x[:, 1:2]], -1))

    def classify(self, z: Tensor, weights: dict[str, Tensor]) -> Tensor:
        return z @ weights["w"].T


def test_the_generator_s_loss_is_equation_4() -> None:
    class Stub(fedgen.FedGen):
        @property
        def model(self):
            return {"client": Linear(), "generator": Linear()}

    torch.manual_seed(1)
    strategy, (clients, classes, noise) = Stub(noise=2), (3, 4, 2)
    heads = [{"w": torch.randn(classes, 1 + noise + 1)} for _ in range(clients)]
    counts = torch.tensor([[1.0, 2, 0, 5], [3, 2, 0, 0], [0, 4, 8, 1]])
    alpha, prior = counts / counts.sum(0), counts.sum(0) / counts.sum()
    torch.manual_seed(2)
    loss = strategy.loss(heads, alpha, prior)
    torch.manual_seed(2)
    y = torch.multinomial(prior, fedgen.BATCH, replacement=True)
    e = torch.randn(fedgen.BATCH, noise)
    z = torch.stack(
        [torch.cat([c[None].float(), d, (c * d[0])[None]]) for c, d in zip(y, e, strict=True)]
    )
    fooled = 0.0
    for k in range(clients):
        for row, label in zip(z, y.tolist(), strict=True):
            logits = heads[k]["w"] @ row
            fooled -= float(alpha[k, label] * logits.log_softmax(0)[label]) / len(y)
    pairs = [
        float((z[i] - z[j]).abs().mean() * (e[i] - e[j]).square().mean())
        for i in range(len(y))
        for j in range(len(y))
    ]
    diverse = torch.exp(-torch.tensor(pairs).mean())
    assert float(loss) == pytest.approx(fooled + float(diverse), rel=1e-4)


def test_clients_learn_generated_features_of_the_prior_s_classes() -> None:
    classes, width, noise = 4, 3, 2
    net = fedgen.Generator(noise, classes, 5, width)
    weights = {n: t.detach() for n, t in net.named_parameters()}
    last, weight = torch.randn(classes, width), torch.tensor([1.0] * 4 + [0] * 2)
    outputs = Outputs(
        torch.zeros(6, classes), torch.zeros(6, width), {}, classify=lambda z: z @ last.T
    )
    batch = Batch(
        torch.zeros(6, 1),
        None,
        torch.arange(6),
        weight,
        key=torch.tensor(3),
    )
    prior = torch.tensor([0.0, 0, 1, 0])
    known = {"generator": Knowledge("weights", {**weights, "prior": prior})}
    loss = fedgen.Generated()(outputs, batch, known)
    e = batch.noise("noise", (6, noise))
    z = net(torch.cat([torch.full((6, 1), 2.0), e], -1))
    expected = -(z @ last.T).log_softmax(-1)[:4, 2].mean()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_labels_are_drawn_as_often_as_they_are() -> None:
    prior = torch.tensor([0.1, 0.0, 0.6, 0.3])
    seen: list[Tensor] = []
    size = 4000
    outputs = Outputs(torch.zeros(size, 4), torch.zeros(size, 4), {}, classify=lambda z: z)
    batch = Batch(
        torch.zeros(size, 1), None, torch.arange(size), torch.ones(size), key=torch.tensor(5)
    )
    # A generator without noise whose features are 100 times the label, one-hot.
    weights = {
        "hidden.weight": torch.cat([torch.eye(4), torch.zeros(4, 1)], -1),
        "hidden.bias": torch.zeros(4),
        "out.weight": 100 * torch.eye(4),
        "out.bias": torch.zeros(4),
    }
    known = {"generator": Knowledge("weights", {**weights, "prior": prior})}
    outputs = Outputs(outputs.logits, outputs.features, {}, classify=lambda z: seen.append(z) or z)
    assert float(fedgen.Generated()(outputs, batch, known)) == pytest.approx(0.0, abs=1e-6)
    drawn = torch.bincount(seen[0].argmax(-1), minlength=4) / size
    assert torch.allclose(drawn, prior, atol=0.03)


def test_the_generator_learns_what_the_clients_know(world, with_options) -> None:
    strategy = with_options(fedgen.FedGen(epochs=3, steps=150), model="mlp")
    run = world(models=("mlp",), learning_rate=0.01)
    run.start(strategy, 3)
    assert not any(report.failures for report in run.reports)
    told = [report.diagnostics["generator_loss"] for report in run.reports]
    assert told[-1] < told[0]
    y, e = torch.arange(10).repeat(20), torch.randn(200, strategy.noise)
    z = strategy.model["generator"].ask(None, torch.cat([y[:, None].float(), e], -1)).logits
    head = strategy.exchange.latest.shared["weights"]
    right = strategy.model["client"].classify(z, head).argmax(-1) == y
    assert float(right.float().mean()) > 0.5  # by chance: 0.1; some classes are rare
