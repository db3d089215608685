"""FedSR's term against torch's own distributions, and its limits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from fedkt.errors import ConfigError, KnowledgeError
from fedkt.objectives import Batch, Outputs
from fedkt.objectives.heads import apply_head
from fedkt.objectives.probabilistic import Probabilistic, gaussian_kl
from fedkt.recipe import Recipe, Train

N, D, C = 9, 5, 4


@pytest.fixture
def case() -> tuple[Outputs, Batch]:
    torch.manual_seed(0)
    own = {}
    for head in Probabilistic.heads():
        built = head.module(D, C).named_parameters()
        own |= {f"heads.{head.name}.{n}": p for n, p in built}
    layer = nn.Linear(D, C)
    features = torch.randn(N, D, requires_grad=True)
    batch = Batch(torch.zeros(N, 1), torch.randint(C, (N,)), torch.arange(N), torch.ones(N))
    return Outputs(layer(features), features, own, classify=layer), batch


def loss_of(term: Probabilistic, outputs: Outputs, batch: Batch, seed: int = 1) -> Tensor:
    torch.manual_seed(seed)
    return term(outputs, batch, {})


def quiet(outputs: Outputs) -> Outputs:
    """Let σ go to 0."""
    own = dict(outputs.parameters)
    own["heads.scale.0.bias"] = torch.full((D,), -1e3)
    own["heads.scale.0.weight"] = torch.zeros(D, D)
    return replace(outputs, parameters=own)


def test_kl_is_that_of_torch() -> None:
    torch.manual_seed(0)
    mean, other = torch.randn(2, N, D)
    std, spread = torch.rand(2, N, D) + 0.1
    expected = kl_divergence(Normal(mean, std), Normal(other, spread)).sum(-1)
    assert torch.allclose(gaussian_kl(mean, std, other, spread), expected, rtol=1e-4, atol=1e-4)
    assert gaussian_kl(mean, std, mean, std).tolist() == [0.0] * N


def test_without_noise_and_factors_it_is_cross_entropy(case) -> None:
    outputs, batch = case
    loss = loss_of(Probabilistic(0, 0), quiet(outputs), batch)
    assert torch.allclose(loss, F.cross_entropy(outputs.logits, batch.y), atol=1e-4)


def test_it_is_the_sum_of_its_parts(case) -> None:
    outputs, batch = case
    own, mean = outputs.parameters, outputs.features
    std = F.softplus(apply_head(own, "scale", mean))
    torch.manual_seed(1)
    z = mean + std * torch.randn(N, D)
    one_hot = F.one_hot(batch.y, C).float()
    r = Normal(
        apply_head(own, "class-mean", one_hot), F.softplus(apply_head(own, "class-scale", one_hot))
    )
    expected = (
        F.cross_entropy(outputs.classify(z), batch.y)
        + 0.3 * z.square().sum(-1).sqrt().mean()
        + 0.7 * kl_divergence(Normal(mean, std), r).sum(-1).mean()
    )
    assert torch.allclose(loss_of(Probabilistic(0.3, 0.7), outputs, batch), expected, atol=1e-4)


def test_the_kl_vanishes_where_the_classes_are_met(case) -> None:
    outputs, batch = case
    own = {n: torch.zeros_like(p) for n, p in outputs.parameters.items()}
    own["heads.class-mean.0.bias"] = torch.full((D,), 2.0)
    met = replace(outputs, parameters=own, features=torch.full((N, D), 2.0))
    with_kl, without = (loss_of(Probabilistic(0, a), met, batch) for a in (1.0, 0.0))
    assert torch.equal(with_kl, without), "p = r: softplus(0) is both deviations"


def test_noise_follows_the_global_generator(case) -> None:
    outputs, batch = case
    one, same, other = (loss_of(Probabilistic(), outputs, batch, s) for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_padding_has_no_influence(case) -> None:
    outputs, batch = case
    weight = torch.tensor([1.0] * 6 + [0.0] * 3)
    padded = replace(batch, weight=weight)
    spoiled = outputs.features.detach().clone()
    spoiled[6:] = 50.0
    losses = []
    for features in (outputs.features.detach(), spoiled):
        features = features.clone().requires_grad_()
        loss = loss_of(Probabilistic(), replace(outputs, features=features), padded)
        (gradient,) = torch.autograd.grad(loss, features)
        assert gradient[6:].abs().sum() == 0
        losses.append(loss)
    assert torch.equal(*losses)


def test_every_part_is_trained(case) -> None:
    outputs, batch = case
    loss = loss_of(Probabilistic(), outputs, batch)
    trained = [outputs.features, *outputs.parameters.values(), *outputs.classify.parameters()]
    for gradient in torch.autograd.grad(loss, trained):
        assert bool(torch.isfinite(gradient).all())
        assert gradient.abs().sum() > 0


def test_extreme_deviations_are_finite(case) -> None:
    outputs, batch = case
    loss = loss_of(Probabilistic(1.0, 1.0), quiet(outputs), batch)
    assert bool(torch.isfinite(loss))


def test_what_it_needs(case) -> None:
    outputs, batch = case
    with pytest.raises(KnowledgeError, match="labels and a model with features"):
        Probabilistic()(replace(outputs, features=None), batch, {})
    with pytest.raises(KnowledgeError, match="labels and a model with features"):
        Probabilistic()(outputs, replace(batch, y=None), {})
    for factors in ((-1, 0), (0, -0.1)):
        with pytest.raises(ConfigError, match="at least 0"):
            Probabilistic(*factors)


def test_it_travels() -> None:
    recipe = Recipe(
        learn=[Train("private", [Probabilistic(0.1, 0.2)])], heads=Probabilistic.heads()
    )
    assert Recipe.from_json(recipe.to_json()) == recipe
