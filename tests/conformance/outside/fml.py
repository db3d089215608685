"""Federated mutual learning (Shen et al., 2020, arXiv:2006.16765)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch.nn.functional as F
from annotated_types import Interval
from torch import Tensor

from fedkt import Knowledge, KnowledgeStrategy, Load, Net, Recipe, Train, Weights, register
from fedkt.fusion import mean_by_examples
from fedkt.knowledge import Fused, Uploads
from fedkt.objectives import Batch, Outputs, weighted_mean

Part = Annotated[float, Interval(ge=0, le=1)]
MEME = Net("meme", model="mlp")


@register
@dataclass(frozen=True)
class Mutual:
    """Both losses of deep mutual learning (equations 4 and 5).

    L_local = α CE(local, y) + (1 - α) KL(meme ‖ local) and
    L_meme = β CE(meme, y) + (1 - β) KL(local ‖ meme); each network learns from its own loss, so the
    other's answers are constants there.
    """

    alpha: Part = 0.5
    beta: Part = 0.5
    meme: Net = MEME
    part: ClassVar[str] = "objectives"
    needs_labels: ClassVar[bool] = True

    def needs(self) -> tuple[str, ...]:
        """Return no names: the meme is at the client."""
        return ()

    def __call__(
        self, outputs: Outputs, batch: Batch, knowledge: Mapping[str, Knowledge]
    ) -> Tensor:
        """Return the sum of both losses."""
        local, meme = outputs.logits, self.meme(outputs.parameters, batch.x).logits
        losses = _loss(self.alpha, local, meme, batch) + _loss(self.beta, meme, local, batch)
        return weighted_mean(losses, batch.weight)


def _loss(part: float, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
    """Return part · CE + (1 - part) · KL(teacher ‖ student) for each sample, ``[B]``."""
    assert batch.y is not None
    answer, target = F.log_softmax(student, -1), F.log_softmax(teacher.detach(), -1)
    divergence = (target.exp() * (target - answer)).sum(-1)
    return part * F.cross_entropy(student, batch.y, reduction="none") + (1 - part) * divergence


@register
class FML(KnowledgeStrategy):
    """Every client trains a private model of any architecture and a shared one, the meme, together.

    Only the meme's weights are averaged (algorithm 1). Global accuracy is the meme's.
    """

    name = "fml"

    def __init__(self, alpha: Part = 0.5, beta: Part = 0.5, local_epochs: int = 5) -> None:
        self.alpha, self.beta, self.local_epochs = alpha, beta, local_epochs

    def recipe(self) -> Recipe:
        """Return the recipe: load the meme, train both mutually, share the meme."""
        terms = [Mutual(self.alpha, self.beta)]
        return Recipe(
            learn=[Load("meme"), Train("private", terms, epochs=self.local_epochs)],
            share=[Weights("meme", of="heads.meme.")],
            absorb=[Load("meme")],
            heads=[MEME],
            world="heads.meme",
        )

    def fuse(self, uploads: Uploads) -> Fused:
        """Return the mean of the memes by number of examples; broadcast."""
        return mean_by_examples(uploads["meme"])
