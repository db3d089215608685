"""A strategy whose fusion overflows where answers are huge, and which changes its memory."""

from __future__ import annotations

import torch

from fedkt.knowledge import Fused, Knowledge, Uploads
from fedkt.objectives import MSE, CrossEntropy, Distil
from fedkt.recipe import Predict, Recipe, Train
from fedkt.strategies import KnowledgeStrategy


class Squaring(KnowledgeStrategy):
    """Fuses logits to their root mean square, with the mean of all rounds taken off."""

    def recipe(self) -> Recipe:
        return Recipe(
            learn=[Train(on="private", terms=[CrossEntropy()])],
            share=[Predict(form="logits")],
            absorb=[Train(on="public", terms=[Distil(MSE())])],
        )

    def fuse(self, uploads: Uploads) -> Fused:
        stack = uploads["public"]
        total: torch.Tensor = self.memory.setdefault("total", torch.zeros(stack.values.shape[1:]))
        total += stack.values.mean(0)  # in place
        self.memory["times"] = self.memory.get("times", 0) + 1
        values = stack.values.square().mean(0).sqrt() - total / self.memory["times"]
        return Fused(shared={"public": Knowledge.rows("logits", values, stack.ids)})
