"""SCAFFOLD: control variates against drift (Karimireddy et al., ICML 2020, arXiv:1910.06378).

Option II of algorithm 1, with global step size 1. Its equations are those of plain gradient
descent: use ``optimiser = "sgd"`` with ``momentum = 0`` and without weight decay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from fedkt import (
    Expected,
    Fused,
    Knowledge,
    KnowledgeStrategy,
    Load,
    Recipe,
    Remember,
    Share,
    Train,
    Uploads,
    Weights,
    register,
)
from fedkt.fusion import mean
from fedkt.objectives import CrossEntropy


@register
@dataclass(frozen=True)
class Correction:
    """``⟨c - c_i, y⟩`` on the parameters, so that a step is y ← y - η (g_i(y) - c_i + c)."""

    part: ClassVar[str] = "objectives"
    name: ClassVar[str] = "control-correction"

    def needs(self):
        return ("control", "own-control")

    def __call__(self, outputs, batch, knowledge):
        c, own = knowledge["control"].tensors, knowledge["own-control"].tensors
        products = [((c[n] - own[n]) * p).sum() for n, p in outputs.parameters.items()]
        return torch.stack(products).sum()


@register(name="control")
@dataclass(frozen=True)
class Control(Share):
    """The change of a client's control variate, ``c_i⁺ - c_i = (x - y) / Σ η - c``.

    Σ η over the client's K steps is K η_l of the paper, right for other numbers of steps too.
    Before any training it is zero, by which ``Remember`` begins the client's own.
    """

    name: str = "control"
    kind: ClassVar[str] = "statistics"

    def keeps(self):
        return () if self.name == "own-control" else ("own-control",)

    def make(self, model, work):
        y = model.weights().tensors
        zero = {n: torch.zeros_like(t) for n, t in y.items()}
        if work.trained is None or not work.trained.rates:
            return Knowledge("statistics", zero)
        x, own = work.knowledge["weights"].tensors, work.knowledge["own-control"].tensors
        c = work.knowledge["control"].tensors if "control" in work.knowledge else zero
        change = {n: (x[n] - y[n]) / work.trained.rates - c[n] for n in y}
        work.keep("own-control", Knowledge("statistics", {n: own[n] + change[n] for n in y}))
        return Knowledge("statistics", change)

    def expected(self, asked):
        return Expected("statistics", None, asked.weights)

    def upload_bytes(self, sizes):
        return sizes.floats * sum(sizes.tensors.values())


@register
class Scaffold(KnowledgeStrategy):
    """Average weights; every client's gradients are corrected towards all clients' direction."""

    name = "scaffold"

    def __init__(self, local_epochs: int = 2) -> None:
        self.local_epochs = local_epochs

    def recipe(self) -> Recipe:
        train = Train("private", [CrossEntropy(), Correction()], epochs=self.local_epochs)
        return Recipe(
            start=[Remember(Control("own-control"))],
            learn=[Load("weights"), train],
            share=[Weights(), Control()],
            absorb=[Load("weights")],
        )

    def fuse(self, uploads: Uploads) -> Fused:
        changes, clients = uploads["control"].tensors, len(self.round.about)
        c = self.memory.get("control", {n: torch.zeros(t.shape[1:]) for n, t in changes.items()})
        self.memory["control"] = {n: c[n] + t.sum(0) / clients for n, t in changes.items()}
        control = Knowledge("statistics", self.memory["control"])
        return Fused({**mean(uploads["weights"]).shared, "control": control})
