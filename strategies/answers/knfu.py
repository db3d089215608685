"""KnFu, effective knowledge fusion (Seyedmohammadi et al., 2024, arXiv:2403.11892)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from fedkt.errors import ConfigError
from fedkt.fusion import TrustRule, personalised_mean, trust_rule
from fedkt.fusion.neighbours import (
    ESTIMATE,
    Divergence,
    Estimator,
    SemanticNeighbours,
    keep_nearest,
)
from fedkt.fusion.trust import FLOOR
from fedkt.knowledge import Fused, Stack, Uploads
from fedkt.objectives import KL, CrossEntropy, Distil
from fedkt.options import Count, Factor, Positive, PositiveFraction
from fedkt.recipe import Predict, Recipe, Train, Weighted
from fedkt.registry import register
from fedkt.strategies.server.fusing import fusion_round
from fedkt.strategies.server.strategy import KnowledgeStrategy

MOST_SHOWN = 200  # clients: up to so many the whole matrix of weights is in the diagnostics


@register
class KnFu(KnowledgeStrategy):
    """Teach each client by its semantic neighbours: clients with a similar class distribution.

    The server estimates every client's class distribution q_n from its answers on the
    public set, and fuses for each client n with weights
    a_nm = exp(-β D(q_n, q_m)) / Σ_m' exp(-β D(q_n, q_m')), the client itself included.
    β = 0 is the plain average of probabilities. β → ∞ leaves each client its own
    knowledge (or the mean of the clients with the same estimate).

    This is a *reconstruction*: only the abstract and digests of the paper could be read.
    β = 10 is its only known constant, and its tables are not claimed. Every doubtful choice
    is a parameter.

    Uploads that lack rows are refused: q_n is estimated on the same samples for all.

    Bytes a round and client, M public samples in use, C classes: up 4MC, down 4MC
    (unicast: N different matrices).

    Parameters
    ----------
    beta : float
        β ≥ 0, equation 8.
    temperature : float
        T of the shared probabilities and of the distillation.
    divergence : {"kl", "reverse-kl", "js", "tv"}
        D: KL(q_n ‖ q_m), KL(q_m ‖ q_n), Jensen-Shannon (nats), total variation.
    estimator : {"mean", "argmax", "corrected"}
        q_n: the mean answer; the histogram of the top classes of those answers that are
        at least as confident as the client's median answer; the mean answer divided by the
        mean answer of all clients (for a public set that is not balanced).
    epd_from : {"post_learning", "pre_distill"}
        Estimate from this round's answers, or once from the client's first answers, before any
        distillation has changed them.
    epsilon : float
        Smoothing q ← (q + ε)/(1 + Cε), > 0; with β = 10 it matters for one-class clients.
    neighbours : {"sampled", "all"}
        Fuse over the clients of the round, or over the last answers of every client seen.
    nearest : int
        Not in the paper: only the largest ``nearest`` weights of each client are kept and made
        to sum to 1; 0 keeps all. With thousands of clients, fusing all with all costs more than
        their training.
    age_decay : float
        With ``neighbours="all"``: an answer k rounds old has its weight multiplied by
        ``age_decay ** k``, in (0, 1].
    local_epochs, distil_epochs : int
        Passes over the private and over the public data a round.
    distil_steps : int
        Distillation takes at least so many batches, on a small public set in more passes than
        ``distil_epochs``; none at all without any. Not in the paper.
    public_samples : int
        Number of public samples drawn each round; 0 takes all.
    rehearsal : float
        μ ≥ 0: while distilling, every step also draws a private batch, whose cross-entropy
        counts μ times.
    trust : TrustRule or str
        Not in the paper. ``correlation`` or another rule that does no more than weigh clients
        (``fedkt.fusion.trust_rules``): the weights a_nm of the others, m ≠ n, are multiplied by the
        trust r_m in each client m (at least 0.001) and the rows normalised again. a_nn is
        unchanged, so a client that is unlike all others keeps its own knowledge. The answers are
        not softened: unlike entropy weights, KnFu's do not reward confidence in single samples.
    """

    name = "knfu"

    def __init__(
        self,
        beta: Factor = SemanticNeighbours.beta,
        temperature: Positive = 1.0,
        divergence: Divergence = SemanticNeighbours.divergence,
        estimator: Estimator = SemanticNeighbours.estimator,
        epd_from: Literal["post_learning", "pre_distill"] = "post_learning",
        epsilon: Positive = SemanticNeighbours.epsilon,
        neighbours: Literal["sampled", "all"] = "sampled",
        nearest: Count = SemanticNeighbours.nearest,
        age_decay: PositiveFraction = 1.0,
        local_epochs: Count = 5,
        distil_epochs: Count = 3,
        distil_steps: Count = 30,
        public_samples: Count = 0,
        rehearsal: Factor = 0.0,
        trust: TrustRule | str = "off",
    ) -> None:
        if neighbours == "all" and public_samples:
            raise ConfigError("knfu: neighbours='all' needs public_samples = 0 (the same rows).")
        self.beta, self.temperature, self.divergence = beta, temperature, divergence
        self.estimator, self.epd_from, self.epsilon = estimator, epd_from, epsilon
        self._rule = SemanticNeighbours(beta, divergence, estimator, epsilon, nearest)
        self.neighbours, self.nearest, self.age_decay = neighbours, nearest, age_decay
        self.local_epochs, self.distil_epochs = local_epochs, distil_epochs
        self.distil_steps = distil_steps
        self.public_samples, self.rehearsal = public_samples, rehearsal
        self.trust, self._trusts = trust, trust_rule(trust)
        if not self._trusts.by_client:
            raise ConfigError(
                "knfu: trust must be one of off, correlation, or another rule that does no more "
                f"than weigh clients, not {self._trusts.title!r}."
            )

    def recipe(self) -> Recipe:
        """Return the recipe: private training, answers on the public set, distillation."""
        distil = Train(
            on="public",
            terms=[Distil(KL(self.temperature))],
            epochs=self.distil_epochs,
            least_steps=self.distil_steps if self.distil_epochs else 0,
            rehearse=[Weighted(self.rehearsal, CrossEntropy())] if self.rehearsal else [],
        )
        predict = Predict(
            form="probabilities", temperature=self.temperature, samples=self.public_samples
        )
        return Recipe(
            learn=[Train(on="private", terms=[CrossEntropy()], epochs=self.local_epochs)],
            share=[predict],
            absorb=[distil],
        )

    def fuse(self, uploads: Uploads) -> Fused:
        """Return the mean of the answers for each client, with its own weights; unicast."""
        stack: Stack = uploads["public"]
        stack.need_all_rows(ESTIMATE)
        if self.neighbours == "sampled":
            stack_all, age = stack, torch.zeros(len(stack))
        else:
            stack_all, age = self._with_remembered(stack)
        q = self._distributions(stack_all)
        weights = self._rule.weights(q, -math.log(self.age_decay) * age)
        judged: dict[str, Tensor] = {}
        if self._trusts.judges:
            judged["trust"] = self._trusts(stack_all, fusion_round(self))
            diagonal = weights.diagonal().clone()  # a client relies on itself without trust
            weights = weights * judged["trust"].clamp_min(FLOOR)
            weights.diagonal().copy_(diagonal)
            weights = weights / weights.sum(1, keepdim=True)
            judged["mean_weight"] = weights.mean(0)
        weights = keep_nearest(weights, self.nearest)
        fused = personalised_mean(stack_all, weights)
        if len(weights) <= MOST_SHOWN:
            judged["weights"] = weights
        return Fused(personal={c: fused.personal[c] for c in stack.clients}).with_diagnostics(
            clients=list(stack_all.clients),
            estimated_distributions=self._rule.smoothed(q),
            effective_neighbours=1 / weights.square().sum(1),
            **judged,
        )

    def fusion_flops(self, clients: int, rows: float, classes: int) -> float:
        """Return the FLOPs of the products with each client's weights."""
        return self._rule.flops(clients, rows, classes)

    def _distributions(self, stack: Stack) -> Tensor:
        """Return the class distributions ``[N, C]`` of the clients of a stack."""
        q = self._rule.distributions(stack.values)
        if self.epd_from == "pre_distill":
            first = self.memory.setdefault("first_estimates", {})
            for row, client in zip(q, stack.clients, strict=True):
                first.setdefault(client, row.clone())
            q = torch.stack([first[c] for c in stack.clients])
        return q

    def _with_remembered(self, stack: Stack) -> tuple[Stack, Tensor]:
        """Return a stack that includes absent clients' last answers, and ages in rounds ``[N]``."""
        last: dict[int, Tensor] = self.memory.setdefault("last_answers", {})
        ages: dict[int, int] = self.memory.setdefault("ages", {})
        ages.update({c: age + 1 for c, age in ages.items()})
        last.update(zip(stack.clients, stack.values.unbind(), strict=True))
        ages.update(dict.fromkeys(stack.clients, 0))
        clients = tuple(sorted(last))
        values = torch.stack([last[c] for c in clients])
        examples = torch.ones(len(clients))
        everyone = Stack(stack.name, stack.kind, {"values": values}, stack.ids, clients, examples)
        return everyone, torch.tensor([float(ages[c]) for c in clients])
