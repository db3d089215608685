"""Adversarial terms: who learns from which, and what the estimate of information says."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from fedkt.adaptation.adversarial import DomainConfusion, DomainIdentifier
from fedkt.adaptation.disentangling import (
    Disentangler,
    DisentanglerCritics,
    disentangler_heads,
    mutual_information,
)
from fedkt.errors import ConfigError, KnowledgeError
from fedkt.objectives.heads import Head, apply_head
from fedkt.objectives.term import Batch, Outputs
from fedkt.recipe import Beside, Recipe, Train

D, C = 6, 4
HEADS = (Head("identifier", (5, 2)), *disentangler_heads(5))


@pytest.fixture
def parameters() -> dict[str, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        built = {h.name: h.module(D, C) for h in HEADS}
    return {f"heads.{n}.{p}": t for n, m in built.items() for p, t in m.named_parameters()}


@pytest.fixture
def outputs(parameters) -> Outputs:
    order = torch.Generator().manual_seed(1)
    own = torch.randn(8, D, generator=order).requires_grad_()
    other = torch.randn(5, D, generator=order).requires_grad_()
    beside = Outputs(torch.zeros(5, 0), other, {})
    return Outputs(torch.zeros(8, C), own, parameters, beside)


def batch_of(size: int = 8, padding: int = 0) -> Batch:
    weight = torch.tensor([1.0] * size + [0.0] * padding)
    rows = size + padding
    return Batch(torch.zeros(rows, 1), torch.arange(rows) % C, torch.arange(rows), weight)


def learners(loss: torch.Tensor, outputs: Outputs) -> set[str]:
    """Return the heads that a loss trains, and ``features`` and ``beside``."""
    inputs = {
        **outputs.parameters,
        "features": outputs.features,
        "beside": outputs.beside.features,
    }
    found = torch.autograd.grad(loss, list(inputs.values()), allow_unused=True)
    pairs = zip(inputs, found, strict=True)
    names = {n for n, g in pairs if g is not None and bool((g != 0).any())}
    return {n.split(".")[1] if n.startswith("heads.") else n for n in names}


def test_the_identifier_trains_its_head_only(outputs) -> None:
    assert learners(DomainIdentifier()(outputs, batch_of(), {}), outputs) == {"identifier"}


def test_confusion_trains_the_features_only(outputs) -> None:
    assert learners(DomainConfusion()(outputs, batch_of(), {}), outputs) == {"features"}


def test_critics_train_critics_only(outputs) -> None:
    trained = learners(DisentanglerCritics()(outputs, batch_of(), {}), outputs)
    assert trained == {"specific-class", "information"}


def test_the_disentangler_trains_all_but_the_critics(outputs) -> None:
    # Here the critic finds no information yet, so its part of the loss has no gradient.
    trained = learners(Disentangler()(outputs, batch_of(), {}), outputs)
    assert trained == {"features", "invariant", "specific", "invariant-class", "joined"}


def test_information_that_the_critic_finds_is_taken_from_both_parts(outputs) -> None:
    grown = {n: p.detach().clone().requires_grad_() for n, p in outputs.parameters.items()}
    critic = [n for n in grown if n.startswith("heads.information.")]
    for _ in range(200):  # let it find some
        outputs = Outputs(outputs.logits, outputs.features, grown, outputs.beside)
        loss = DisentanglerCritics()(outputs, batch_of(), {})
        steps = torch.autograd.grad(loss, [grown[n] for n in critic])
        for name, step in zip(critic, steps, strict=True):
            grown[name] = (grown[name] - 0.1 * step).detach().requires_grad_()
    outputs = Outputs(outputs.logits, outputs.features, grown, outputs.beside)
    batch = batch_of()
    only = Disentangler(0, 0, 1)(outputs, batch, {}) - Disentangler(0, 0, 0)(outputs, batch, {})
    assert float(only.detach()) > 0.1
    assert learners(only, outputs) == {"features", "invariant", "specific"}


def test_confusion_pulls_against_the_identifier(outputs) -> None:
    """On the batch it goes the way of a reversed gradient."""
    own = outputs.features
    answers = apply_head(outputs.parameters, "identifier", own)
    judged = torch.nn.functional.cross_entropy(answers, torch.zeros(8, dtype=torch.int64))
    (reversed_,) = torch.autograd.grad(-judged, own)
    (confusing,) = torch.autograd.grad(DomainConfusion()(outputs, batch_of(), {}), own)
    along = torch.cosine_similarity(reversed_, confusing, dim=-1)
    assert torch.allclose(along, torch.ones(8), atol=1e-5)


def test_an_undecided_judge_costs_the_logarithm_of_two(outputs) -> None:
    zeros = {n: torch.zeros_like(p) for n, p in outputs.parameters.items()}
    unsure = Outputs(outputs.logits, outputs.features, zeros, outputs.beside)
    for term in (DomainIdentifier(), DomainConfusion()):
        assert float(term(unsure, batch_of(), {}).detach()) == pytest.approx(math.log(2))


TERMS = [DomainIdentifier(), DomainConfusion(), Disentangler(1, 1, 1), DisentanglerCritics()]


@pytest.mark.parametrize("term", TERMS, ids=lambda t: t.name)
def test_padding_has_no_part(term, outputs) -> None:
    plain = term(outputs, batch_of(), {})
    more = torch.cat([outputs.features, torch.full((3, D), 50.0)])
    padded = replace(outputs, features=more)
    assert torch.allclose(plain, term(padded, batch_of(8, 3), {}))


@pytest.mark.parametrize("term", TERMS[1:], ids=lambda t: t.name)
def test_padding_alone_is_worth_nothing(term, outputs) -> None:
    loss = term(outputs, replace(batch_of(), weight=torch.zeros(8)), {})
    assert float(loss.detach()) == 0
    inputs = [outputs.features, *outputs.parameters.values()]
    for gradient in torch.autograd.grad(loss, inputs, allow_unused=True):
        assert gradient is None or not bool(gradient.any())


def test_a_batch_of_one_holds_no_information(parameters) -> None:
    one, weight = torch.randn(1, D), torch.ones(1)
    found = mutual_information(parameters, "information", one, one, weight)
    assert float(found.detach()) == pytest.approx(0, abs=1e-6)


def test_the_parts_are_not_driven_below_no_information(outputs) -> None:
    alone, none = Disentangler(0, 0, 1.0), Disentangler(0, 0, 0)
    batch = batch_of()
    more = alone(outputs, batch, {}) - none(outputs, batch, {})
    assert float(more.detach()) >= 0


def test_the_disentangler_needs_labels(outputs) -> None:
    batch = Batch(torch.zeros(8, 1), None, torch.arange(8), torch.ones(8))
    for term in (Disentangler(), DisentanglerCritics()):
        with pytest.raises(KnowledgeError, match="needs labels"):
            term(outputs, batch, {})


@pytest.mark.parametrize("factors", [(-0.1, 0, 0), (0, math.nan, 0), (0, 0, math.inf)])
def test_factors_are_checked(factors) -> None:
    with pytest.raises(ConfigError, match=r"must be a finite number of at least 0"):
        Disentangler(*factors)


def estimate(dependent: bool) -> float:
    """Train a critic on pairs of numbers; return its estimate on fresh ones."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Head("T", (32, 1), inputs="pair").module(1, C)
        own = {f"heads.T.{n}": p for n, p in module.named_parameters()}
        optimiser = torch.optim.Adam(module.parameters(), 1e-2)

        def bound(samples: int) -> torch.Tensor:
            left = torch.randn(samples, 1)
            right = (0.9 * left + 0.19**0.5 * torch.randn(samples, 1)) if dependent else None
            right = torch.randn(samples, 1) if right is None else right
            return mutual_information(own, "T", left, right, torch.ones(samples))

        for _ in range(300):
            optimiser.zero_grad()
            (-bound(256)).backward()
            optimiser.step()
        with torch.no_grad():
            return float(bound(20_000))


def test_information_is_found_where_there_is_some() -> None:
    assert abs(estimate(dependent=False)) < 0.03
    # Of normal variables with correlation 0.9 it is -log(1 - 0.81) / 2 = 0.83.
    assert 0.6 < estimate(dependent=True) < 0.9


def test_terms_travel_with_the_recipe() -> None:
    terms = [DomainIdentifier("a"), DomainConfusion("a"), Disentangler(0.3), DisentanglerCritics()]
    recipe = Recipe(
        learn=[Train("private", terms, beside=Beside("target", 7))], heads=HEADS, given=["target"]
    )
    assert Recipe.from_json(recipe.to_json()) == recipe
