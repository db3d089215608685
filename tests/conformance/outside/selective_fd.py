"""Selective federated distillation: clients answer the public samples that they know about."""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le

from fedkt import Fused, Knowledge, KnowledgeStrategy, Predict, Recipe, Train, register
from fedkt.fusion import mean
from fedkt.objectives import KL, CrossEntropy, Distil

Epochs = Annotated[int, Ge(0)]
Positive = Annotated[float, Gt(0)]
Fraction = Annotated[float, Ge(0), Le(1)]


@register(name="selected")
@dataclass(frozen=True)
class Selected(Predict):
    """Answers on the public samples that look like the client's own; see :class:`SelectiveFD`."""

    quantile: Fraction = 0.125
    width: Positive = 5.0
    partial: bool = True

    def make(self, model, work):
        answers, train = super().make(model, work), work.data.train.x.flatten(1)
        samples = work.data.public.at_ids(answers.ids).x.flatten(1)
        random = torch.Generator().manual_seed(1_000_003 * work.seed + work.client)
        if len(train) < 2:  # it knows about nothing
            return Knowledge.rows(answers.kind, answers.values[:0], answers.ids[:0])
        train = train[torch.randperm(len(train), generator=random)]
        held_out = max(1, len(train) // 10)
        ratio = density_ratio(train[held_out:], self.width, random)
        keep = ratio(samples) >= ratio(train[:held_out]).quantile(self.quantile)
        return Knowledge.rows(answers.kind, answers.values[keep], answers.ids[keep])


def density_ratio(own, width, random):
    """Return x -> p(x) / u(x) by KuLSIF, u uniform over the range of ``own [m, d]``."""
    low, high = own.min(0).values, own.max(0).values
    noise = low + (high - low) * torch.rand(own.shape, generator=random)
    n, penalty = len(own), len(own) ** -0.5

    def kernel(x, y):
        return (-torch.cdist(x.double(), y.double()).square() / (2 * width**2)).exp()

    system = kernel(noise, noise) / n + penalty * torch.eye(n, dtype=torch.float64)
    alpha = -torch.linalg.solve(system, kernel(noise, own).mean(1)) / (n * penalty)
    return lambda x: kernel(x, own).mean(1) / penalty + kernel(x, noise) @ alpha


@register
class SelectiveFD(KnowledgeStrategy):
    """Selective-FD: answers of clients out of their depth, and ambiguous means, are left out.

    Shao, Wu and Zhang (2023), "Selective Knowledge Sharing for Privacy-Preserving Federated
    Distillation without A Good Teacher", arXiv:2304.01731. A client answers the public samples x
    whose density ratio ŵ(x) of its own data to uniform noise, estimated by KuLSIF (Kanamori et
    al., 2012: ŵ(x) = Σ_j k(x, y_j)/(m λ) + Σ_i α_i k(x, a_i)), is at least a quantile of those of
    a tenth of its samples that is held out. The server averages the answers that there are and
    keeps a row where ||onehot(p̄) - p̄||_1 is at most ``threshold``; 2, the default, keeps all.
    """

    name = "selective-fd"

    def __init__(
        self,
        local_epochs: Epochs = 5,
        distil_epochs: Epochs = 3,
        quantile: Fraction = 0.125,
        width: Positive = 5.0,
        threshold: Positive = 2.0,
    ):
        self.local_epochs, self.distil_epochs = local_epochs, distil_epochs
        self.quantile, self.width, self.threshold = quantile, width, threshold

    def recipe(self):
        return Recipe(
            learn=[Train("private", [CrossEntropy()], epochs=self.local_epochs)],
            share=[Selected(quantile=self.quantile, width=self.width)],
            absorb=[Train("public", [Distil(KL())], epochs=self.distil_epochs)],
        )

    def fuse(self, uploads):
        fused = mean(uploads["public"]).shared["public"]
        clear = 2 * (1 - fused.values.amax(-1)) <= self.threshold
        kept = Knowledge.rows(fused.kind, fused.values[clear], fused.ids[clear])
        return Fused({"public": kept}).with_diagnostics(rows=len(kept.ids))
