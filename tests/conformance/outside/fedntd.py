"""FedNTD: not-true distillation (Lee et al., NeurIPS 2022, arXiv:2106.03097)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from fedkt import Fused, KnowledgeStrategy, Recipe, Train, Uploads, register
from fedkt.fusion import mean_by_examples
from fedkt.objectives import CrossEntropy, weighted_mean


def not_true(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the logits of all other classes, ``[n, C - 1]``."""
    columns = torch.arange(logits.shape[1] - 1)
    others = columns + (columns >= labels[:, None])
    return logits.gather(1, others)


@register
@dataclass(frozen=True)
class NotTrue:
    """``β τ² KL(q̃_global ‖ q̃_local)`` of the softened answers without the true class (section 4).

    τ = β = 1 are the paper's; the authors' code has τ = 3 and the factor τ².
    """

    beta: float = 1.0
    temperature: float = 1.0
    part: ClassVar[str] = "objectives"
    name: ClassVar[str] = "not-true"

    def needs(self):
        return ("weights",)

    def __call__(self, outputs, batch, knowledge):
        told = outputs.ask(knowledge["weights"], batch.x).logits
        log_q = (not_true(outputs.logits, batch.y) / self.temperature).log_softmax(1)
        log_p = (not_true(told, batch.y) / self.temperature).log_softmax(1)
        losses = (log_p.exp() * (log_p - log_q)).sum(1)
        return self.beta * self.temperature**2 * weighted_mean(losses, batch.weight)


@register
class FedNTD(KnowledgeStrategy):
    """Average weights; clients do not forget what the global model says of absent classes."""

    name = "fedntd"

    def __init__(self, beta: float = 1.0, temperature: float = 1.0, local_epochs: int = 2) -> None:
        self.beta, self.temperature, self.local_epochs = beta, temperature, local_epochs

    def recipe(self) -> Recipe:
        terms = [CrossEntropy(), NotTrue(self.beta, self.temperature)]
        return Recipe.sharing_weights(Train("private", terms, epochs=self.local_epochs))

    def fuse(self, uploads: Uploads) -> Fused:
        return mean_by_examples(uploads["weights"])
