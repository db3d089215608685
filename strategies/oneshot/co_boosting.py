"""Co-Boosting (Dai, Zhang, Li, Liu, Yang and Han, ICLR 2024, arXiv:2402.15070)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkt.options import AtLeastOne, AtLeastTwo, Count, Factor, Positive, PositiveFraction
from fedkt.registry import register
from fedkt.rng import torch_rng
from fedkt.strategies.oneshot.dense_one_shot import Dense, Members, Synthetic, divergence, ensemble

ADVERSARY = 3.0  # the temperature of the generator's adversary
DIRECTION = 4.0  # the temperature of the answers that samples are moved along


def hard_cross_entropy(teacher: Tensor, y: Tensor, hardness: float) -> Tensor:
    """Return mean((1 - p)^h CE), p the probability of the label, whose power is a constant."""
    losses = F.cross_entropy(teacher, y, reduction="none")
    return ((1 - (-losses.detach()).exp()) ** hardness * losses).mean()


def stepped(weights: Tensor, logits: Tensor, y: Tensor, step: float) -> Tensor:
    """Return clip(w - step · sign(∂/∂w CE(Σ_k w_k z_k, y)), 0, 1), ``[N]``.

    Parameters
    ----------
    weights, logits, y : Tensor
        w ``[N]``, the clients' logits z ``[N, B, C]`` and the labels ``[B]``.
    step : float
        At least 0.
    """
    errors = ensemble(weights, logits).softmax(-1) - F.one_hot(y, logits.shape[-1])
    slope = torch.einsum("bc,kbc->k", errors, logits)
    return (weights - step * slope.sign()).clamp(0, 1)


@register
class CoBoosting(Dense):
    """Distil an ensemble whose weights learn from generated samples that are hard for it.

    :class:`~fedkt.strategies.Dense` with three changes, in which samples and ensemble
    D(x) = Σ_k w_k z_k(x) improve each other. The generator minimises
    (1 - p)^h CE(D(x), y) - β KL(D(x) ‖ f(x)) at T = 3 (:func:`hard_cross_entropy`), on all
    samples. After batch e, from the second on, each earlier batch moves the weights, 1/N at first,
    by w ← clip(w - μ d^e sign(∂CE(D(x), y)/∂w), 0, 1) (:func:`stepped`). The server's model learns
    samples that are moved anew in each pass, x + ε sign(∂/∂x u · softmax(D(x) / 4)) with u uniform
    in [-1, 1]^C.

    With ``hardness``, ``step``, ``perturbation`` and ``boundary`` 0 it is DENSE with ``boundary``
    0, at the same temperature, ``norms`` and rate. As in DENSE the server trains a model of each
    architecture. In the authors' program, whose values of h, μ, d, ε, β and T are the defaults,
    there are 200 batches of 128 samples, rates of 0.001 for the generator and 0.01, and 256 random
    numbers.

    Bytes a round and client with P parameters: up 4P, down 4P (broadcast to an architecture); 4P
    more down for a client that did not take part in the round before, and in the first round.

    Parameters
    ----------
    hardness : float
        h ≥ 0.
    step, decay : float
        μ ≥ 0 and d in (0, 1].
    perturbation : float
        ε ≥ 0.
    boundary : float
        β ≥ 0.
    temperature : float
        T of the distillation.
    local_epochs, batches, generator_steps, batch_size : int
        As in :class:`~fedkt.strategies.Dense`.
    norms, learning_rate, generator_rate : float
        As there.
    noise, width : int
        As there.
    """

    name = "co-boosting"
    tried_with: ClassVar[Mapping[str, Any]] = {**Dense.tried_with, "batches": 3}

    def __init__(
        self,
        hardness: Factor = 1.0,
        step: Factor = 0.01,
        decay: PositiveFraction = 0.99,
        perturbation: Factor = 8 / 255,
        boundary: Factor = 1.0,
        temperature: Positive = 4.0,
        local_epochs: Count = 100,
        batches: Count = 20,
        generator_steps: AtLeastOne = 30,
        batch_size: AtLeastTwo = 64,
        norms: Factor = 0.0,
        learning_rate: Positive = 0.03,
        generator_rate: Positive = 0.01,
        noise: AtLeastOne = 64,
        width: AtLeastOne = 16,
    ) -> None:
        sizes = local_epochs, batches, generator_steps, batch_size
        rates = temperature, learning_rate, generator_rate
        super().__init__(*sizes, norms, boundary, *rates, noise, width)
        self.hardness, self.step, self.decay = hardness, step, decay
        self.perturbation = perturbation

    def sample_loss(self, teacher: Tensor, student: Tensor, y: Tensor) -> Tensor:
        """Return the generator's loss of answers ``[B, C]``, but for normalisation."""
        hard = hard_cross_entropy(teacher, y, self.hardness)
        return hard - self.boundary * divergence(teacher, student, ADVERSARY).mean()

    def reweighted(self, weights: Tensor, pool: Sequence[Synthetic], number: int) -> Tensor:
        """Return the weights ``[N]`` after a step for each earlier batch."""
        for batch in pool:
            weights = stepped(weights, batch.logits, batch.y, self.step * self.decay**number)
        return weights

    def lesson(
        self, members: Members, weights: Tensor, pool: Sequence[Synthetic], number: int
    ) -> tuple[Tensor, Tensor]:
        """Return moved samples ``[n, ...]`` and the ensemble's logits ``[n, C]`` about them."""
        if not self.perturbation:
            return super().lesson(members, weights, pool, number)
        now = self.round
        lots, parts = torch_rng(now.seed, f"moved/{number}", now.number), []
        for batch in pool:
            x = batch.x.clone().requires_grad_()
            answers = (self.told(members, weights, x) / DIRECTION).softmax(-1)
            along = 2 * torch.rand(answers.shape, generator=lots) - 1
            (slope,) = torch.autograd.grad((along * answers).sum(), x)
            moved = batch.x + self.perturbation * slope.sign()
            parts.append((moved, self.told(members, weights, moved, grad=False)))
        samples, logits = zip(*parts, strict=True)
        return torch.cat(samples), torch.cat(logits)

    def told(self, members: Members, weights: Tensor, x: Tensor, grad: bool = True) -> Tensor:
        """Return the logits ``[n, C]`` of the ensemble."""
        asked = [model.ask(mine, x, grad).logits for model, mine in members]
        return ensemble(weights, torch.stack(asked))
