"""MOON: a model-contrastive federation (Li, He & Song, CVPR 2021, arXiv:2103.16257).

Without the paper's projection head: the features are those before the last layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F

from fedkt import (
    Fused,
    KnowledgeStrategy,
    Load,
    Recipe,
    Remember,
    Train,
    Uploads,
    Weights,
    register,
)
from fedkt.fusion import mean_by_examples
from fedkt.objectives import CrossEntropy, weighted_mean


@register
@dataclass(frozen=True)
class ModelContrast:
    """Pull the features towards those of the global model, away from the client's earlier ones.

    ``-log(exp(sim(z, z_glob)/τ) / (exp(sim(z, z_glob)/τ) + exp(sim(z, z_prev)/τ)))`` with the
    cosine similarity: equation 3, times μ (equation 4). Nothing before the client has trained once:
    there its last model is the global one, and the gradient is zero.
    """

    mu: float = 1.0
    temperature: float = 0.5
    part: ClassVar[str] = "objectives"
    name: ClassVar[str] = "model-contrast"
    needs_features: ClassVar[bool] = True

    def needs(self):
        return ("weights", "previous")

    def __call__(self, outputs, batch, knowledge):
        now = outputs.features
        together = outputs.ask(knowledge["weights"], batch.x).features
        before = outputs.ask(knowledge["previous"], batch.x).features
        nearer = F.cosine_similarity(now, together) - F.cosine_similarity(now, before)
        losses = -F.logsigmoid(nearer / self.temperature)
        return self.mu * weighted_mean(losses, batch.weight)


@register
class Moon(KnowledgeStrategy):
    """Average weights; clients stay near the global model by contrast with their own last one."""

    name = "moon"

    def __init__(self, mu: float = 1.0, temperature: float = 0.5, local_epochs: int = 2) -> None:
        self.mu, self.temperature, self.local_epochs = mu, temperature, local_epochs

    def recipe(self) -> Recipe:
        terms = [CrossEntropy(), ModelContrast(self.mu, self.temperature)]
        return Recipe(
            learn=[
                Load("weights"),
                Train("private", terms, epochs=self.local_epochs),
                Remember(Weights("previous")),
            ],
            share=[Weights()],
            absorb=[Load("weights")],
        )

    def fuse(self, uploads: Uploads) -> Fused:
        return mean_by_examples(uploads["weights"])
