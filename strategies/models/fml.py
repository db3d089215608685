"""FML, federated mutual learning (Shen et al., 2020, arXiv:2006.16765)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from fedkt.fusion import mean_by_examples
from fedkt.knowledge import Fused, Knowledge, Uploads
from fedkt.objectives import KL, Batch, Net, Outputs, weighted_mean
from fedkt.options import Count, Fraction
from fedkt.recipe import Load, Recipe, Train, Weights
from fedkt.registry import register
from fedkt.strategies.server.strategy import KnowledgeStrategy

MEME = Net("meme")


@register
@dataclass(frozen=True)
class Mutual:
    """Both losses of mutual learning: equations 4 and 5 of Shen et al. (2020).

    L_local = α CE(local, y) + (1 - α) KL(meme ‖ local) and
    L_meme = β CE(meme, y) + (1 - β) KL(local ‖ meme), means over the batch. Each network learns
    from its own loss, so the other's answers are constants there.

    Parameters
    ----------
    alpha, beta : float
        In [0, 1].
    meme : Net
        The shared network.
    """

    alpha: Fraction = 0.5
    beta: Fraction = 0.5
    meme: Net = MEME
    part: ClassVar[str] = "objectives"
    name: ClassVar[str] = "mutual"
    needs_labels: ClassVar[bool] = True
    per_sample: ClassVar[bool] = True

    def needs(self) -> tuple[str, ...]:
        """Return no names: the meme is at the client."""
        return ()

    def __call__(
        self, outputs: Outputs, batch: Batch, knowledge: Mapping[str, Knowledge]
    ) -> Tensor:
        """Return the sum of both losses."""
        assert batch.y is not None
        local, meme = outputs.logits, self.meme(outputs.parameters, batch.x).logits
        losses = _loss(self.alpha, local, meme, batch.y) + _loss(self.beta, meme, local, batch.y)
        return weighted_mean(losses, batch.weight)


def _loss(part: float, student: Tensor, teacher: Tensor, y: Tensor) -> Tensor:
    """Return part · CE + (1 - part) · KL(teacher ‖ student) for each sample, ``[B]``."""
    divergence = KL()(student, teacher, "logits")
    return part * F.cross_entropy(student, y, reduction="none") + (1 - part) * divergence


@register
class FML(KnowledgeStrategy):
    """Every client trains a private model and a shared one, the meme, which teach each other.

    Shen, Zhang, Jia, Zhang, Huang, Zhou, Kuang, Wu and Wu, "Federated Mutual Learning", 2020,
    arXiv:2006.16765, algorithm 1: deep mutual learning at the client (equations 4 and 5), and the
    mean of the memes, by number of examples, at the server. Private models may be of any
    architecture and never travel. Personal answers are the private model's, global accuracy is the
    meme's. α = 1 leaves the private model to itself, and β = 1 the meme to FedAvg.

    Bytes a round and client, P parameters of the meme in float32: up 4P, down 4P (broadcast); 4P
    more down for a client that did not take part in the round before, and in the first round.

    Differences: both networks take their steps on the same batches at once. Known programs divide
    the divergence by the number of classes as well (the mean over all entries) and set α = β = 1 by
    default, which is no mutual learning. A meme has no buffers.

    Parameters
    ----------
    alpha : float
        α in [0, 1], of the labels in the private model's loss.
    beta : float
        β in [0, 1], of the labels in the meme's loss.
    meme : str
        The registered model that is shared; ``own`` is one like the client's, for one architecture.
    local_epochs : int
        Passes over the private data a round.
    """

    name = "fml"

    def __init__(
        self,
        alpha: Fraction = 0.5,
        beta: Fraction = 0.5,
        meme: str = MEME.model,
        local_epochs: Count = 5,
    ) -> None:
        self.alpha, self.beta, self.meme = alpha, beta, meme
        self.local_epochs = local_epochs

    def recipe(self) -> Recipe:
        """Return the recipe: load the meme, train both mutually, share the meme."""
        net = Net(MEME.name, self.meme)
        terms = [Mutual(self.alpha, self.beta, net)]
        return Recipe(
            learn=[Load(net.name), Train("private", terms, epochs=self.local_epochs)],
            share=[Weights(net.name, of=f"heads.{net.name}.")],
            absorb=[Load(net.name)],
            heads=[net],
            world=f"heads.{net.name}",
        )

    def fuse(self, uploads: Uploads) -> Fused:
        """Return the mean of the memes; broadcast."""
        return mean_by_examples(uploads[MEME.name])
