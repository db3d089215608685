"""Alignment terms: padding, vmap, which side has a gradient, and the laws of their papers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fedkt.adaptation import (
    MMD,
    Coral,
    DomainAdversarial,
    FourierMMD,
    Moments,
    Ramped,
    fourier_mean,
    gaussian_mmd,
    ramp,
    reverse_gradient,
)
from fedkt.errors import ConfigError, KnowledgeError
from fedkt.knowledge import Knowledge
from fedkt.objectives import Batch, CrossEntropy, Outputs, Term
from fedkt.objectives.heads import Head
from fedkt.recipe import Beside, Recipe, Train, Weighted, Weights

D = 6
F64 = torch.float64


def draw(seed: int, *shape: int, dtype: torch.dtype = F64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# --- the ramp and the reversal -------------------------------------------------------------


def test_ramp() -> None:
    assert ramp(0.0, 5.0) == 0
    assert ramp(1.0, 5.0) == pytest.approx(0.98661, abs=5e-6)
    assert ramp(1.0, 5.0) == pytest.approx(math.tanh(2.5), rel=1e-15)
    for p in (0.1, 0.5, 0.9):
        assert ramp(p, 10.0) == pytest.approx(2 / (1 + math.exp(-10 * p)) - 1, rel=1e-12)
        assert float(ramp(torch.tensor(p, dtype=F64), 10.0)) == pytest.approx(ramp(p, 10.0))
        assert ramp(p, 0.0) == 0
        assert ramp(p, 10.0) > ramp(p, 5.0) > ramp(p / 2, 5.0)
    assert ramp(1.0, 1e4) == 1, "no overflow"


@pytest.mark.parametrize("factor", [0.0, 0.3, torch.tensor(0.3, dtype=F64)], ids=str)
def test_reversal(factor: float | Tensor) -> None:
    x, direction = draw(0, 4, D).requires_grad_(), draw(1, 4, D)
    y = reverse_gradient(x, factor)
    assert torch.equal(y, x)
    (y * direction).sum().backward()
    assert torch.equal(x.grad, -factor * direction)
    functional = torch.func.grad(lambda t: (reverse_gradient(t, factor) * direction).sum())
    assert torch.equal(functional(x.detach()), -factor * direction)


def test_reversal_under_vmap_with_a_factor_each() -> None:
    x, factors = draw(0, 3, 4), torch.tensor([0.0, 0.5, 1.0], dtype=F64)
    step = torch.func.grad(lambda t, f: reverse_gradient(t, f).square().sum())
    found = torch.func.vmap(step)(x, factors)
    assert torch.equal(found, -factors[:, None] * 2 * x)


# --- terms ---------------------------------------------------------------------------------

HEAD = Head("domain", (5, 2), norm=True)
KNOWLEDGE = {
    "target": Knowledge(
        "statistics",
        {
            "mean_embedding": fourier_mean(draw(5, 20, D), 0, 40, 9.0),
            "sigma": torch.tensor([9.0], dtype=F64),
            "mean": draw(6, D),
            "variance": draw(7, D).square(),
        },
    )
}
BESIDE: list[Term] = [
    MMD(),
    MMD("unbiased"),
    MMD("linear", kernels=3),
    Coral(),
    DomainAdversarial(),
    Ramped(MMD(), 3.0),
]
ALONE: list[Term] = [FourierMMD(), Moments(), Ramped(Moments())]
TERMS = [*BESIDE, *ALONE]


def head_of(seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    module = HEAD.module(D, 3).double()
    return {f"heads.domain.{n}": p.detach() for n, p in module.named_parameters()}


def value(
    term: Term,
    x: Tensor,
    y: Tensor | None = None,
    weight: Tensor | None = None,
    parameters: dict[str, Tensor] | None = None,
    progress: float = 0.4,
) -> Tensor:
    """Return a term's loss on features ``x`` with features ``y`` beside them."""
    nothing = torch.zeros(len(x), 0)
    y = draw(99, 5, D) + 1 if y is None else y
    head = head_of() if parameters is None else parameters
    outputs = Outputs(nothing, x, head, Outputs(nothing, y, {}))
    weight = torch.ones(len(x), dtype=F64) if weight is None else weight
    batch = Batch(nothing, None, torch.arange(len(x)), weight, progress=progress)
    return term(outputs, batch, KNOWLEDGE)


@pytest.mark.parametrize("term", TERMS, ids=repr)
def test_padding_changes_neither_loss_nor_gradient(term: Term) -> None:
    x = draw(0, 6, D)
    weight = torch.tensor([1.0] * 6 + [0.0] * 3, dtype=F64)
    plain = x.clone().requires_grad_()
    one = value(term, plain)
    one.backward()
    results = []
    for seed in (1, 2):
        padded = torch.cat([x, 50 * draw(seed, 3, D)]).requires_grad_()
        two = value(term, padded, weight=weight)
        two.backward()
        assert float(one.detach()) == pytest.approx(float(two.detach()), rel=1e-9)
        assert torch.allclose(plain.grad, padded.grad[:6], atol=1e-10)
        assert float(padded.grad[6:].abs().max()) == 0
        results.append(float(two.detach()))
    assert results[0] == pytest.approx(results[1], rel=1e-12)


@pytest.mark.parametrize("term", TERMS, ids=repr)
def test_a_batch_of_padding_only_is_worth_nothing(term: Term) -> None:
    x = draw(0, 4, D).requires_grad_()
    loss = value(term, x, weight=torch.zeros(4, dtype=F64))
    loss.backward()
    assert float(loss.detach()) == 0
    assert float(x.grad.abs().max()) == 0


@pytest.mark.parametrize("term", TERMS, ids=repr)
def test_one_row_is_finite(term: Term) -> None:
    x = draw(0, 1, D).requires_grad_()
    loss = value(term, x)
    loss.backward()
    assert bool(torch.isfinite(loss))
    assert bool(torch.isfinite(x.grad).all())


@pytest.mark.parametrize("term", TERMS, ids=repr)
def test_a_cohort_by_vmap_equals_the_loop(term: Term) -> None:
    clients = 3
    w, inputs, y = draw(0, clients, 4, D), draw(1, clients, 6, 4), draw(2, clients, 5, D)
    heads = [head_of(c) for c in range(clients)]
    stacked = {n: torch.stack([h[n] for h in heads]) for n in heads[0]}
    weight = (torch.arange(6).expand(clients, 6) < torch.tensor([[6], [4], [2]])).double()

    def loss(w: Tensor, head: dict[str, Tensor], x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        return value(term, x @ w, y, weight, head)

    step = torch.func.grad_and_value(loss, argnums=(0, 1))
    gradients, values = torch.func.vmap(step)(w, stacked, inputs, y, weight)
    for c in range(clients):
        own, one = step(w[c], heads[c], inputs[c], y[c], weight[c])
        assert torch.allclose(gradients[0][c], own[0], atol=1e-10)
        for name in stacked:
            assert torch.allclose(gradients[1][name][c], own[1][name], atol=1e-10)
        assert float(values[c]) == pytest.approx(float(one), rel=1e-9)
    assert float(gradients[0].abs().amax((1, 2)).min()) > 0


@pytest.mark.parametrize("term", [Coral(), *ALONE], ids=repr)
def test_gradients_are_those_of_finite_differences(term: Term) -> None:
    x = draw(0, 5, D).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: value(term, t), [x])


def test_the_bandwidth_is_a_constant() -> None:
    x, y = draw(0, 5, D), draw(1, 5, D) + 1
    joint = torch.cat([x, y])
    sigma = (torch.cdist(joint, joint) ** 2).sum() / 90
    one, two = x.clone().requires_grad_(), x.clone().requires_grad_()
    gaussian_mmd(one, y).backward()
    gaussian_mmd(two, y, sigma=sigma).backward()
    assert torch.allclose(one.grad, two.grad, rtol=1e-9)
    assert torch.autograd.gradcheck(lambda t: gaussian_mmd(t, y, sigma=7.0), [two])


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("make", [MMD, Coral, DomainAdversarial], ids=lambda c: c.name)
def test_the_side_beside_is_a_constant_unless_asked(make: Any, detach: bool) -> None:
    x, y = draw(0, 6, D).requires_grad_(), draw(1, 5, D).requires_grad_()
    value(make(detach=detach), x, y).backward()
    assert float(x.grad.abs().max()) > 0
    assert (y.grad is None) == detach
    assert make().detach


# --- domain-adversarial --------------------------------------------------------------------


@pytest.mark.parametrize("together", [False, True])
def test_the_head_learns_and_the_features_unlearn(together: bool) -> None:
    head = {n: p.requires_grad_() for n, p in head_of().items()}
    x, y = draw(0, 6, D).requires_grad_(), draw(1, 5, D).requires_grad_()
    term = DomainAdversarial(gamma=5.0, detach=False, together=together)
    value(term, x, y, parameters=head).backward()
    one, two = x.detach().requires_grad_(), y.detach().requires_grad_()
    plain = {n: p.detach().requires_grad_() for n, p in head.items()}
    by_hand(one, two, plain, together).backward()
    factor = ramp(0.4, 5.0)
    assert torch.allclose(x.grad, -factor * one.grad, atol=1e-12)
    assert torch.allclose(y.grad, -factor * two.grad, atol=1e-12)
    for name, p in head.items():
        assert torch.allclose(p.grad, plain[name].grad, atol=1e-12)


def by_hand(x: Tensor, y: Tensor, head: dict[str, Tensor], together: bool) -> Tensor:
    """Return FedKA's J_dis with torch's own layers."""
    at, functional = "heads.domain", torch.nn.functional

    def answer(rows: Tensor) -> Tensor:
        hidden = functional.linear(rows, head[f"{at}.0.weight"], head[f"{at}.0.bias"])
        affine = head[f"{at}.norm0.weight"], head[f"{at}.norm0.bias"]
        hidden = functional.batch_norm(hidden, None, None, *affine, training=True).relu()
        return functional.linear(hidden, head[f"{at}.1.weight"], head[f"{at}.1.bias"])

    logits = answer(torch.cat([x, y])) if together else torch.cat([answer(x), answer(y)])
    cross_entropy = torch.nn.functional.cross_entropy
    source, target = (torch.full((len(t),), i) for i, t in enumerate((x, y)))
    return cross_entropy(logits[: len(x)], source) + cross_entropy(logits[len(x) :], target)


def test_without_gamma_and_at_the_start_features_do_not_notice_the_head() -> None:
    for gamma, progress in ((0.0, 0.7), (5.0, 0.0)):
        x = draw(0, 6, D).requires_grad_()
        value(DomainAdversarial(gamma=gamma), x, progress=progress).backward()
        assert float(x.grad.abs().max()) == 0


def test_a_shift_of_the_domains_is_seen_only_together() -> None:
    # The domains differ by a shift only: normalised apart from each other they would be one.
    x, y = draw(0, 64, D), draw(1, 64, D) + 3
    head = {n: p.requires_grad_() for n, p in head_of().items()}
    optimiser = torch.optim.Adam(head.values(), 0.05)
    for _ in range(60):
        optimiser.zero_grad()
        loss = value(DomainAdversarial(together=True), x, y, parameters=head)
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.1 < 2 * math.log(2)


def test_what_the_terms_cannot_work_with() -> None:
    x = draw(0, 4, D)
    with pytest.raises(ConfigError, match="no head called 'domains'"):
        value(DomainAdversarial("domains"), x)
    wide = {f"heads.domain.0.{n}": draw(0, *s) for n, s in (("weight", (3, D)), ("bias", (3,)))}
    with pytest.raises(ConfigError, match="must have two outputs, not 3"):
        value(DomainAdversarial(), x, parameters=wide)
    with pytest.raises(KnowledgeError, match="the model has 6 features and those beside it 4"):
        value(MMD(), x, draw(1, 5, 4))
    nothing = torch.zeros(4, 0)
    batch = Batch(nothing, None, torch.arange(4), torch.ones(4))
    with pytest.raises(KnowledgeError, match="beside it and there are none"):
        Coral()(Outputs(nothing, x, {}), batch, {})
    with pytest.raises(KnowledgeError, match="no linear layer"):
        Moments()(Outputs(nothing, None, {}), batch, KNOWLEDGE)
    bare = {"target": Knowledge("statistics", {"mean": torch.zeros(D)})}
    with pytest.raises(KnowledgeError, match="holds no mean_embedding and sigma"):
        FourierMMD()(Outputs(nothing, x, {}), batch, bare)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: MMD("exact"), "not 'exact'"),
        (lambda: MMD(kernels=0), "kernels must be .* at least 1, not 0"),
        (lambda: FourierMMD(multiplier=0.0), "multiplier must be .* above 0, not 0.0"),
        (lambda: DomainAdversarial(gamma=-1), "gamma must be .* at least 0, not -1"),
        (lambda: Ramped(MMD(), float("nan")), "gamma must be .* at least 0, not nan"),
        (lambda: gaussian_mmd(draw(0, 2, D), draw(1, 2, D), estimator="v"), "not 'v'"),
    ],
)
def test_bad_options_are_refused(make: Callable[[], object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()


# --- ramped, and as parts of a recipe ------------------------------------------------------


def test_ramped_is_the_other_term_with_a_growing_weight() -> None:
    x = draw(0, 6, D)
    for progress in (0.0, 0.3, 0.9):
        one = value(Ramped(Coral(), 7.0), x, progress=progress)
        assert float(one) == pytest.approx(ramp(progress, 7.0) * float(value(Coral(), x)))


def test_ramped_asks_for_what_the_other_term_asks_for() -> None:
    for term in TERMS:
        for name in ("needs_features", "needs_beside"):
            assert getattr(Ramped(term), name) == getattr(term, name, False)
        assert Ramped(term).needs() == term.needs()
    plain = Ramped(CrossEntropy())
    assert not plain.needs_features
    assert not plain.needs_beside


def test_a_recipe_with_alignment_travels() -> None:
    terms = [*TERMS, Weighted(0.5, Ramped(MMD("linear", 3, 1.5, detach=False), 10.0))]
    recipe = Recipe(
        learn=[Train("private", [CrossEntropy(), *terms], beside=Beside("public", 16))],
        share=[Weights(local_norms=True)],
        heads=[HEAD],
        given=["target"],
    )
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert recipe.needs("learn") == ("target",)
