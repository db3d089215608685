"""Federated distillation of mean answers by class, without a public set."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge

from fedkt import ClassLogits, Fused, Knowledge, KnowledgeStrategy, Recipe, Train, register
from fedkt.objectives import KL, CrossEntropy, weighted_mean
from fedkt.recipe import Weighted

Epochs = Annotated[int, Ge(0)]
Factor = Annotated[float, Ge(0)]


@register
@dataclass(frozen=True)
class ClassTeacher:
    """Divergence from the others' mean answer for the sample's class, where anybody has one."""

    part: ClassVar[str] = "objectives"
    name: ClassVar[str] = "class-teacher"
    needs_labels: ClassVar[bool] = True
    source: str = "class-logits"

    def needs(self):
        return (self.source,)

    def __call__(self, outputs, batch, knowledge):
        teacher, known = knowledge[self.source].known_at(batch.y)
        losses = KL()(outputs.logits, teacher, "logits")
        return weighted_mean(torch.where(known, losses, 0.0), batch.weight)


@register
class FD(KnowledgeStrategy):
    """Federated distillation (FD): each client learns from the others' mean logits of a class.

    Jeong et al. (2018), "Communication-Efficient On-Device Machine Learning: Federated
    Distillation and Augmentation under Non-IID Private Data", arXiv:1811.11479, section 2. Client k
    minimises CE + γ φ(F(x), F̂_{k,y}) with the teacher F̂_{k,l} = mean over m ≠ k of F_{m,l}
    (algorithm 1), here over the clients m that have samples of class l. φ is the forward KL
    divergence of the softmax answers. A class that no other client has is masked.
    """

    name = "fd"

    def __init__(self, local_epochs: Epochs = 5, gamma: Factor = 1.0):
        self.local_epochs, self.gamma = local_epochs, gamma

    def recipe(self):
        terms = [CrossEntropy(), Weighted(self.gamma, ClassTeacher())]
        return Recipe(
            learn=[Train("private", terms, epochs=self.local_epochs)], share=[ClassLogits()]
        )

    def fuse(self, uploads):
        stack = uploads["class-logits"]
        present = (stack.counts > 0).float()  # [N, K]
        others = present.sum(0) - present
        sums = torch.einsum("nk,nkc->kc", present, stack.values) - present[..., None] * stack.values
        teachers = sums / others.clamp_min(1)[..., None]
        return Fused(
            personal={
                client: {
                    stack.name: Knowledge(
                        stack.kind, {"values": teachers[n]}, stack.ids, others[n].long()
                    )
                }
                for n, client in enumerate(stack.clients)
            }
        )
