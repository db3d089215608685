"""A whole strategy: everyone learns the median of everyone's answers."""

from __future__ import annotations

from fedkt.knowledge import Fused, Knowledge, Uploads
from fedkt.objectives import KL, CrossEntropy, Distil
from fedkt.recipe import Predict, Recipe, Train
from fedkt.strategies import KnowledgeStrategy


class Median(KnowledgeStrategy):
    """Distil the median of the clients' probabilities, scaled to sum to 1."""

    def __init__(self, local_epochs: int = 2, distil_epochs: int = 2) -> None:
        self.local_epochs, self.distil_epochs = local_epochs, distil_epochs

    def recipe(self) -> Recipe:
        return Recipe(
            learn=[Train(on="private", terms=[CrossEntropy()], epochs=self.local_epochs)],
            share=[Predict(form="probabilities")],
            absorb=[Train(on="public", terms=[Distil(KL())], epochs=self.distil_epochs)],
        )

    def fuse(self, uploads: Uploads) -> Fused:
        stack = uploads["public"]
        median = stack.values.median(0).values.clamp_min(1e-6)
        fused = Knowledge.rows("probabilities", median / median.sum(-1, keepdim=True), stack.ids)
        return Fused(shared={"public": fused})
