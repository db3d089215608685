"""SCAFFOLD, stochastic controlled averaging (Karimireddy et al., ICML 2020, arXiv:1910.06378)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedkt.about import Model
from fedkt.fusion import mean
from fedkt.knowledge import Fused, Kind, Knowledge, Uploads
from fedkt.objectives import Batch, CrossEntropy, Outputs
from fedkt.options import Count
from fedkt.recipe import Load, Recipe, Remember, Share, Train, Weights
from fedkt.registry import register
from fedkt.shares import Asked, Sizes
from fedkt.shares.share import ShareWork
from fedkt.strategies.server.strategy import KnowledgeStrategy
from fedkt.upload_check import Expected

OWN = "own-control"
PLAIN = {"optimiser: sgd", "momentum: 0", "weight_decay: 0"}  # plain gradient descent


@register
@dataclass(frozen=True)
class ControlCorrection:
    """⟨c - c_i, y⟩ over all parameters y, so that a step is y ← y - η (g_i(y) - c_i + c)."""

    part: ClassVar[str] = "objectives"
    name: ClassVar[str] = "control-correction"

    def needs(self) -> tuple[str, ...]:
        """Return the names of the server's control variate and of the client's."""
        return ("control", OWN)

    def __call__(
        self, outputs: Outputs, batch: Batch, knowledge: Mapping[str, Knowledge]
    ) -> Tensor:
        """Return the scalar loss."""
        c, c_i = (knowledge[name].tensors for name in self.needs())
        products = [((c[n] - c_i[n]) * p).sum() for n, p in outputs.parameters.items()]
        return torch.stack(products).sum()


@register(name="control")
@dataclass(frozen=True)
class Control(Share):
    """The change of a client's control variate, c_i⁺ - c_i = (x - y) / Σ η - c.

    Σ η over the steps of the round is K η_l of the paper, right for any number of steps and any
    schedule. Before a client has trained it is zero, by which ``Remember`` begins the client's own.

    Parameters
    ----------
    name : str
        The share's name.
    """

    name: str = "control"

    @property
    def kind(self) -> Kind:
        """The kind of knowledge shared."""
        return "statistics"

    def keeps(self) -> tuple[str, ...]:
        """Return the name of the client's control variate."""
        return () if self.name == OWN else (OWN,)

    def make(self, model: Model, work: ShareWork) -> Knowledge:
        """Return the change, and keep the client's new control variate."""
        y = model.weights().tensors
        zero = {n: torch.zeros_like(t) for n, t in y.items()}
        if work.trained is None or not work.trained.rates:
            return Knowledge("statistics", zero)
        x, c_i = work.knowledge["weights"].tensors, work.knowledge[OWN].tensors
        c = work.knowledge["control"].tensors if "control" in work.knowledge else zero
        change = {n: (x[n] - y[n]) / work.trained.rates - c[n] for n in y}
        work.keep(OWN, Knowledge("statistics", {n: c_i[n] + change[n] for n in y}))
        return Knowledge("statistics", change)

    def expected(self, asked: Asked) -> Expected:
        """Return tensors of the shapes of the first global weights."""
        return Expected(self.kind, None, asked.weights)

    def upload_bytes(self, sizes: Sizes) -> int:
        """Return the bytes of as many numbers as the weights have."""
        return sizes.floats * sum(sizes.tensors.values())


@register
class Scaffold(KnowledgeStrategy):
    """Average weights; every client's gradients are corrected towards all clients' direction.

    Karimireddy, Kale, Mohri, Reddi, Stich and Suresh, "SCAFFOLD: Stochastic Controlled Averaging
    for Federated Learning", ICML 2020, arXiv:1910.06378, algorithm 1 with option II and global
    step size 1. Local step: y ← y - η (g_i(y) - c_i + c) (equation 3); then
    c_i⁺ = c_i - c + (x - y) / (K η) (equation 4). Server: x ← the mean of the y, with equal
    weights, and c ← c + Σ (c_i⁺ - c_i) / N over the N clients of the run (equation 5). All c and
    c_i are 0 at first, and while they are it is FedAvg with equal weights.

    The equations are those of plain gradient descent: use ``training.optimiser = "sgd"`` with
    ``momentum = 0`` and without weight decay. Under another optimiser c_i is no mean of gradients,
    and the method is none of the paper's. With unequal numbers of steps it can end far below
    FedAvg.

    Bytes a round and client, P parameters in float32: up 8P, down 8P (broadcast); 4P more down for
    a client that did not take part in the round before, and no controls in the first round.

    Parameters
    ----------
    local_epochs : int
        Passes over the private data a round.
    """

    name = "scaffold"

    def __init__(self, local_epochs: Count = 5) -> None:
        self.local_epochs = local_epochs

    def recipe(self) -> Recipe:
        """Return the recipe: load the weights, train with the correction, share both changes."""
        train = Train("private", [CrossEntropy(), ControlCorrection()], epochs=self.local_epochs)
        return Recipe(
            start=[Remember(Control(OWN))],
            learn=[Load("weights"), train],
            share=[Weights(), Control()],
            absorb=[Load("weights")],
        )

    def remarks(self, training: Collection[str]) -> Sequence[str]:
        """Return that the clients' optimiser is none of the paper's, if it is."""
        names = {line.partition(":")[0] for line in PLAIN}
        others = sorted(x for x in set(training) - PLAIN if x.partition(":")[0] in names)
        if not others:
            return ()
        return (
            f"scaffold is defined for {', '.join(sorted(PLAIN))}; here {', '.join(others)}: its "
            "control variates are no mean gradients, and may lead astray",
        )

    def fuse(self, uploads: Uploads) -> Fused:
        """Return the mean of the weights and the server's control variate; broadcast."""
        changes, clients = uploads["control"].tensors, len(self.round.about)
        c = self.memory.get("control") or {n: torch.zeros_like(t[0]) for n, t in changes.items()}
        c = {n: c[n] + t.sum(0) / clients for n, t in changes.items()}
        self.memory["control"] = c
        return Fused({**mean(uploads["weights"]).shared, "control": Knowledge("statistics", c)})
