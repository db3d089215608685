"""Read-outs as functions: their limits, and the choice of a gate."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fedkt.answers import LARGEST_LOSS
from fedkt.knowledge import Knowledge, Stack
from fedkt.readouts.blends import Blend
from fedkt.readouts.gate import (
    BLENDS,
    FEDERATION_WEIGHT,
    as_knowledge,
    choose,
    held_out_losses,
    mean_losses,
)
from fedkt.upload_check import Expected, check

N, C = 30, 4


def draw(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    y = torch.randint(C, (N,), generator=rng)
    z, other = 2 * torch.randn(2, N, C, generator=rng) + 2 * F.one_hot(y, C)
    return z, other, y, torch.tensor([0.6, 0.2, 0.15, 0.05]).log()


def stack_of(losses: torch.Tensor) -> Stack:
    n = len(losses)
    return Stack("gate", "statistics", {"losses": losses}, None, tuple(range(n)), torch.ones(n))


def test_the_gate_has_the_whole_grid_once() -> None:
    assert len(BLENDS) == len(set(BLENDS)) == 75
    assert {b.scale for b in BLENDS} == {0.5, 0.75, 1, 1.5, 2}
    assert {b.prior for b in BLENDS} == {0, 0.25, 0.5, 1, 1.5}
    assert {b.refreshed for b in BLENDS} == {0, 0.5, 1}
    assert {Blend(prior=0.0), Blend(), Blend(refreshed=0.5)} < set(BLENDS)


def test_without_a_copy_the_blend_is_the_prior_readout() -> None:
    z, other, _, log_prior = draw()
    assert torch.equal(Blend(1, 1, 0)(z, None, log_prior), z + log_prior)
    assert torch.equal(Blend(1, 0, 0)(z, None, log_prior), z)
    whole = Blend(1, 1, 1)(z, other, log_prior)
    assert torch.allclose(whole, F.log_softmax(other + log_prior, -1), atol=1e-6)


@pytest.mark.parametrize("blend", [BLENDS[0], BLENDS[33], BLENDS[74]])
def test_equal_models_blend_to_themselves(blend: Blend) -> None:
    z, _, _, log_prior = draw()
    alone = Blend(blend.scale, blend.prior, 0)(z, None, log_prior)
    both = blend(z, z, log_prior)
    assert torch.allclose(both.softmax(-1), alone.softmax(-1), atol=1e-6)


def test_losses_are_the_cross_entropies_of_the_blends() -> None:
    z, other, y, log_prior = draw()
    losses = held_out_losses(z, other, y, log_prior)
    assert losses is not None
    assert losses.dtype == torch.float32
    at = BLENDS.index(Blend())
    assert torch.allclose(losses[at], F.cross_entropy(z + log_prior, y))
    at = BLENDS.index(Blend(2.0, 0.25, 1.0))
    assert torch.allclose(losses[at], F.cross_entropy(2 * other + 0.25 * log_prior, y))
    assert held_out_losses(z[:0], other[:0], y[:0], log_prior) is None


def test_losses_of_absurd_logits_still_travel() -> None:
    _, other, y, log_prior = draw()
    losses = held_out_losses(-1e30 * F.one_hot(y, C).float(), other, y, log_prior)
    assert losses is not None
    assert float(losses.max()) == LARGEST_LOSS
    assert bool(torch.isfinite(losses.half()).all())


@pytest.mark.parametrize("seed", range(5))
def test_the_chosen_objective_is_never_above_the_priors(seed: int) -> None:
    z, other, y, log_prior = draw(seed)
    own = held_out_losses(z, other, y, log_prior)
    assert own is not None
    rng = torch.Generator().manual_seed(seed)
    federation = own.mean() + 0.1 * torch.rand(75, generator=rng)
    objective = own + FEDERATION_WEIGHT * federation
    chosen = choose(own, as_knowledge(federation))
    assert chosen is not None
    assert float(objective[chosen]) <= float(objective[BLENDS.index(Blend())])
    assert float(objective[chosen]) == float(objective.min())


def test_the_federation_outweighs_a_few_samples() -> None:
    own, federation = torch.ones(75), torch.ones(75)
    own[3], federation[40] = 0.0, 0.9
    assert choose(own, as_knowledge(federation)) == 40, "1 of own against 20 × 0.1"
    federation[40] = 0.96
    assert choose(own, as_knowledge(federation)) == 3, "1 of own against 20 × 0.04"


def test_unknown_losses_leave_the_prior() -> None:
    own = torch.linspace(1, 0, 75)
    assert choose(None, as_knowledge(own)) is None
    assert choose(own, None) is None
    assert choose(own, as_knowledge(None)) is None
    assert choose(own, as_knowledge(own)) == 74


def test_the_mean_is_over_those_who_know() -> None:
    losses = torch.rand(4, 75, generator=torch.Generator().manual_seed(0))
    losses[1] = as_knowledge(None).tensors["losses"]
    found = mean_losses(stack_of(losses)).tensors["losses"]
    assert torch.allclose(found, losses[[0, 2, 3]].mean(0))
    nobody = mean_losses(stack_of(losses[1:2]))
    assert nobody.tensors["losses"].tolist() == [-1.0] * 75


def test_the_statistics_are_sound_knowledge_of_300_bytes() -> None:
    for one in (as_knowledge(torch.rand(75)), as_knowledge(None)):
        check(one, Expected("statistics", None, {"losses": (75,)}), C)
        assert isinstance(one, Knowledge)
        assert one.num_bytes == 300
