"""A strategy that remembers all that a strategy may, and whose results depend on it."""

from __future__ import annotations

import torch

from fedkt.knowledge import Fused, Knowledge, Uploads
from fedkt.objectives import KL, CrossEntropy, Distil
from fedkt.recipe import Predict, Recipe, Train
from fedkt.strategies import KnowledgeStrategy


class Remembering(KnowledgeStrategy):
    """Distil the mean of this round's answers and of what was distilled before.

    Keeps knowledge, tensors by client, and plain values in ``memory``.
    """

    def recipe(self) -> Recipe:
        return Recipe(
            learn=[Train(on="private", terms=[CrossEntropy()])],
            share=[Predict(form="probabilities")],
            absorb=[Train(on="public", terms=[Distil(KL())])],
        )

    def fuse(self, uploads: Uploads) -> Fused:
        stack = uploads["public"]
        answers: dict[int, torch.Tensor] = self.memory.setdefault("answers", {})
        answers.update(zip(stack.clients, stack.values.unbind(), strict=True))
        values = torch.stack([answers[c] for c in sorted(answers)]).mean(0)
        before = self.memory.get("before")
        if isinstance(before, Knowledge):
            values = (values + self.memory["weight"] * before.values) / (1 + self.memory["weight"])
        fused = Knowledge.rows("probabilities", values, stack.ids)
        self.memory.update(before=fused, weight=self.memory.get("weight", 0) + 0.5)
        return Fused(shared={"public": fused})
