"""FedGen: both losses in numbers, what clients are told, and its limits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedkt.clients.learners.making import learner_of
from fedkt.knowledge import Knowledge
from fedkt.objectives import Outputs
from fedkt.strategies.weights.fedavg import FedAvg
from fedkt.strategies.weights.fedgen import (
    FeatureGenerator,
    FedGen,
    GeneratedFeatures,
    Header,
    generated,
)
from fedkt.strategies.weights.lg_fedavg import LGFedAvg
from fedkt.testing import check_term

from .by_hand import assert_equal_runs, batch_of

C, NOISE, WIDTH = 4, 3, 2
MODEL = 64 * 64 + 64 + 64 * 10 + 10  # mlp on digits
LAST = 64 * 10 + 10


class Keeping(FedGen):
    """Keeps what it made."""

    def fuse(self, uploads):
        self.seen, self.fused = uploads, super().fuse(uploads)
        return self.fused


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


def tensors_of(numbers):
    return {name: torch.tensor(value) for name, value in numbers.items()}


def generator(inputs: int, width: int) -> FeatureGenerator:
    """Return a generator whose statistics have moved."""
    torch.manual_seed(0)
    net = FeatureGenerator(inputs, 5, width)
    for _ in range(3):
        net(2 * torch.randn(16, inputs) + 1)
    return net.eval()


def features_by_hand(tensors, noise, y, classes: int):
    """Return G(ε, y) of a generator's weights, in evaluation mode."""
    w = {n: t.detach().double().numpy() for n, t in tensors.items()}
    x = np.concatenate([noise, np.eye(classes)[y]], 1)
    hidden = x @ w["hidden.weight"].T + w["hidden.bias"]
    hidden = (hidden - w["norm.running_mean"]) / np.sqrt(w["norm.running_var"] + 1e-5)
    hidden = np.maximum(hidden * w["norm.weight"] + w["norm.bias"], 0)
    return hidden @ w["out.weight"].T + w["out.bias"]


def test_clients_generate_what_the_module_does() -> None:
    net, x = generator(NOISE + C, WIDTH), torch.randn(6, NOISE + C)
    assert torch.allclose(generated(net.state_dict(), x), net(x), atol=1e-6)


def test_the_clients_term_is_the_same_in_both_executors() -> None:
    numbers = {"prior": [0.1] * 10, "alpha": 1.0, "beta": 1.0}
    told = {**generator(NOISE + 10, 64).state_dict(), **tensors_of(numbers)}
    told.pop("norm.num_batches_tracked")
    check_term(GeneratedFeatures(), {"generator": Knowledge("weights", told)}, on="private")


def test_the_clients_loss_is_that_of_the_paper_and_its_program() -> None:
    """α CE(h(z), y), y ~ p̂, and β KL(softmax(h(z)) ‖ output), z of the sample's own label."""
    rng, net = np.random.default_rng(0), generator(NOISE + C, WIDTH)
    head, logits = rng.normal(size=(C, WIDTH)), rng.normal(size=(4, C))
    weight = torch.tensor(head, dtype=torch.float32, requires_grad=True)
    answers = torch.tensor(logits, dtype=torch.float32, requires_grad=True)
    outputs = Outputs(answers, None, {}, classify=lambda z, weights=None: z @ weight.T)
    prior, own = [0.1, 0.6, 0.0, 0.3], [3, 0, 2, 1]
    batch = batch_of(own, [1.0, 1.0, 1.0, 0.0])
    vars(batch)["key"] = torch.tensor(7)

    uniform = torch.special.ndtr(batch.noise("label", (4,)).double()).numpy()
    drawn = np.array([next(c for c in range(C) if u < sum(prior[: c + 1])) for u in uniform])
    of_drawn, of_alike = (batch.noise(n, (4, NOISE)).double().numpy() for n in ("drawn", "alike"))
    q = softmax(features_by_hand(net.state_dict(), of_drawn, drawn, C) @ head.T)
    p = softmax(features_by_hand(net.state_dict(), of_alike, own, C) @ head.T)
    first = np.mean([-np.log(q[i, drawn[i]]) for i in range(3)])
    second = np.mean([(p[i] * np.log(p[i] / softmax(logits)[i])).sum() for i in range(3)])

    for alpha, beta in ((2.0, 0.5), (0.0, 0.5)):
        numbers = {"prior": prior, "alpha": alpha, "beta": beta}
        told = {**net.state_dict(), **tensors_of(numbers)}
        told.pop("norm.num_batches_tracked")
        loss = GeneratedFeatures()(outputs, batch, {"generator": Knowledge("weights", told)})
        assert float(loss.detach()) == pytest.approx(alpha * first + beta * second, rel=1e-4)
    # Without the first term no gradient is left for the last layer: h(z) is a constant there.
    of_head, of_answers = torch.autograd.grad(loss, [weight, answers])
    assert not of_head.any()
    assert np.allclose(of_answers[:3], 0.5 * (softmax(logits) - p)[:3] / 3, atol=1e-6)
    assert not of_answers[3].any()


@pytest.mark.parametrize(("diversity", "adversarial"), [(0, 0), (0.7, 0), (0, 0.3), (0.7, 0.3)])
def test_the_generators_loss(world, with_options, diversity: float, adversarial: float) -> None:
    """Σ_k w_k(y) CE(h_k(z), y) - adversarial KL(t ‖ s) + diversity exp(-E |z - z'| (ε - ε')²)."""
    strategy = with_options(
        FedGen("header", diversity=diversity, adversarial=adversarial, batch=6, local_epochs=0)
    )
    world(models=("mlp",)).start(strategy, 1)
    rng, classes = np.random.default_rng(1), 10
    heads = [(rng.normal(size=(classes, 64)) / 4, rng.normal(size=classes)) for _ in range(4)]
    heads = [tuple(a.astype(np.float32) for a in head) for head in heads]
    counts = rng.integers(0, 9, size=(3, classes)).astype(np.float32)
    told = [dict(zip(("weight", "bias"), map(torch.tensor, head), strict=True)) for head in heads]
    torch.manual_seed(5)
    loss = strategy.loss(told[:3], told[3], torch.tensor(counts))

    torch.manual_seed(5)
    y = torch.multinomial(torch.tensor(counts.sum(0)), 6, replacement=True).numpy()
    noise = torch.randn(6, strategy.noise).double().numpy()
    tensors = strategy.model["generator"].weights().tensors
    z = features_by_hand(tensors, noise, y, classes)
    share = counts / counts.sum(0)
    expected = 0.0
    for i, label in enumerate(y):
        answers = [weight @ z[i] + bias for weight, bias in heads]
        for k in range(3):
            expected -= share[k, label] * np.log(softmax(answers[k])[label]) / 6
        t = softmax(sum(share[k, label] * answers[k] for k in range(3)))
        expected -= adversarial * (t * np.log(t / softmax(answers[3]))).sum() / 6
    pairs = [
        np.abs(z[i] - z[j]).mean() * np.square(noise[i] - noise[j]).mean()
        for i in range(6)
        for j in range(6)
    ]
    expected += diversity * np.exp(-np.mean(pairs))
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)


def test_clients_are_told_the_prior_and_the_factors_of_the_next_round(world, with_options) -> None:
    strategy = with_options(Keeping(alpha=10, beta=5e-5, decay=0.5, steps=2, local_epochs=0))
    world(models=("mlp",)).start(strategy, 3)
    told = strategy.fused.shared["generator"].tensors
    assert float(told["alpha"]) == pytest.approx(10 * 0.5**3)
    assert float(told["beta"]) == pytest.approx(5e-5), "the floor is not above the first factor"
    counts = strategy.seen["class-counts"].tensors["counts"].sum(0)
    assert told["prior"].tolist() == pytest.approx((counts / counts.sum()).tolist())
    strategy = with_options(Keeping(alpha=10, decay=1e-4, steps=0, local_epochs=0))
    world(models=("mlp",)).start(strategy, 3)
    assert float(strategy.fused.shared["generator"].tensors["alpha"]) == pytest.approx(1e-4)


def test_the_generator_learns(world, with_options) -> None:
    strategy, run = with_options(Keeping(learning_rate=1e-2), "mlp"), world(models=("mlp",))
    run.start(strategy, 3)
    losses = [report.diagnostics["generator_loss"] for report in run.reports]
    assert losses[2] < losses[0]
    weights = strategy.fused.shared["weights"].tensors
    y = torch.arange(10).repeat(20)
    torch.manual_seed(0)
    x = torch.cat([torch.randn(200, strategy.noise), F.one_hot(y, 10).float()], -1)
    z = generated(strategy.fused.shared["generator"].tensors, x)
    right = strategy.model["client"].classify(z, weights).argmax(-1) == y
    assert float(right.float().mean()) > 0.5, "and the averaged model understands it"


def test_without_generated_features_it_is_fedavg(world, with_options) -> None:
    ours = with_options(FedGen(alpha=0, beta=0, steps=2), model="mlp")
    assert_equal_runs(world, ours, with_options(FedAvg(), model="mlp"), rounds=3)


def test_without_generated_features_on_last_layers_it_is_lg_fedavg(world, with_options) -> None:
    ours = with_options(FedGen("header", alpha=0, beta=0, steps=2), model="mlp")
    assert_equal_runs(world, ours, with_options(LGFedAvg(), model="mlp"), rounds=3)


def test_clients_of_any_architecture_share_the_last_layer(world, with_options) -> None:
    strategy, run = with_options(Keeping("header", local_epochs=1), "mlp"), world(("mlp", "cnn"))
    run.start(strategy, 2)
    assert not any(report.failures for report in run.reports)
    for client in range(4):
        for name, tensor in strategy.fused.shared["header"].tensors.items():
            model = run.model_of(client)
            same = [t for n, t in model.items() if n.endswith(name) and t.shape == tensor.shape]
            assert any(torch.equal(t, tensor) for t in same)


def test_a_part_that_classifies_by_more_than_a_layer_is_refused(federation) -> None:
    class Two(nn.Sequential):
        feature_layer = "1"

    def build() -> nn.Module:
        return Two(nn.Flatten(), nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10)))

    learner = learner_of(build, 10, federation.input_shape)
    refusal = Header().refuses(learner, federation.client(0))
    assert refusal == "the part that classifies is no linear layer with a bias"


@pytest.mark.parametrize(("shared", "size"), [("model", MODEL), ("header", LAST)])
def test_bytes(world, with_options, shared, size: int) -> None:
    run, h, e = world(models=("mlp",)), 7, 5
    strategy = with_options(FedGen(shared, hidden=h, noise=e, local_epochs=1), model="mlp")
    run.start(strategy, 2)
    net = 4 * (h * (e + 10) + 5 * h + 64 * (h + 1) + 10 + 2)
    assert [r.traffic.up for r in run.reports] == 2 * [4 * (4 * size + 80)]
    assert [r.traffic.down_broadcast for r in run.reports] == [4 * 8 * size, 4 * (4 * size + net)]
    assert [r.traffic.down_unicast for r in run.reports] == [0, 0]
