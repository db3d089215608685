"""Federated distillation, FD (Jeong et al., 2018, arXiv:1811.11479)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fedkt.knowledge import Fused, Knowledge, Uploads
from fedkt.objectives import KL, Batch, CrossEntropy, Divergence, Outputs, Term, weighted_mean
from fedkt.options import Count, Factor, Positive
from fedkt.recipe import ClassLogits, Recipe, Train, Weighted
from fedkt.registry import register
from fedkt.strategies.server.strategy import KnowledgeStrategy


@register
@dataclass(frozen=True)
class ClassTeacher:
    """Divergence from the others' mean answer for the sample's class, where anybody has one.

    Parameters
    ----------
    divergence : Divergence
        How far the answer is from it.
    form : {"logits", "probabilities"}
        What the mean answers are.
    source : str
        Their name.
    """

    divergence: Divergence = field(default_factory=KL)
    form: Literal["logits", "probabilities"] = "logits"
    source: str = "class-logits"
    part: ClassVar[str] = "objectives"
    name: ClassVar[str] = "class-teacher"
    needs_labels: ClassVar[bool] = True
    per_sample: ClassVar[bool] = True

    def needs(self) -> tuple[str, ...]:
        """Return the name of the mean answers, ``source``."""
        return (self.source,)

    def __call__(
        self, outputs: Outputs, batch: Batch, knowledge: Mapping[str, Knowledge]
    ) -> Tensor:
        """Return the scalar loss."""
        assert batch.y is not None
        teacher, known = knowledge[self.source].known_at(batch.y)
        losses = self.divergence(outputs.logits, teacher, self.form)
        return weighted_mean(torch.where(known, losses, 0.0), batch.weight)


@register
class FD(KnowledgeStrategy):
    """Teach each client the others' mean answers by class; no public set.

    Jeong, Oh, Kim, Park, Bennis and Kim, "Communication-Efficient On-Device Machine Learning:
    Federated Distillation and Augmentation under Non-IID Private Data", 2018, arXiv:1811.11479,
    section 2 and algorithm 1. Client k minimises CE + γ φ(F(x), F̂_{k,y}). The teacher of class l,
    F̂_{k,l} = Σ_{m ≠ k} F_{m,l} / (number of such m), is the mean of the other clients that have
    the class, with equal weights. Where nobody else has it there is no second term.

    Bytes a round and client, C classes: up at most 4C² + 16C (ids and counts included), down at
    most 4C² + 16C (unicast), from the second round on; classes that a client lacks are not sent.
    Of two clients each gets the other's answers.

    Differences: φ is the forward KL divergence of softmax answers, whose gradient is that of the
    paper's cross-entropy. Well-known programs take raw mean logits for the target of a
    cross-entropy, which has no minimum, and count the client itself. Answers are those of the
    trained model, where algorithm 1 sums them up while the weights move. The paper's augmentation
    (FAug) is left out.

    Parameters
    ----------
    gamma : float
        γ ≥ 0; the paper does not say it.
    form : {"logits", "probabilities"}
        What is averaged.
    temperature : float
        T of the divergence, and of shared probabilities.
    local_epochs : int
        Passes over the private data a round.
    """

    name = "fd"

    def __init__(
        self,
        gamma: Factor = 1.0,
        form: Literal["logits", "probabilities"] = "logits",
        temperature: Positive = 1.0,
        local_epochs: Count = 5,
    ) -> None:
        self.gamma, self.form, self.temperature = gamma, form, temperature
        self.local_epochs = local_epochs

    def recipe(self) -> Recipe:
        """Return the recipe: train towards the others' answers, share those of the model."""
        teacher = ClassTeacher(KL(self.temperature), self.form)
        terms: list[Term | Weighted] = [CrossEntropy(), Weighted(self.gamma, teacher)]
        softness = self.temperature if self.form == "probabilities" else 1.0
        return Recipe(
            learn=[Train(on="private", terms=terms, epochs=self.local_epochs)],
            share=[ClassLogits(self.form, softness)],
        )

    def fuse(self, uploads: Uploads) -> Fused:
        """Return for each client the mean of the others that have the class; unicast."""
        stack = uploads["class-logits"]
        assert stack.counts is not None
        present = (stack.counts > 0).float()  # [N, K]
        others = present.sum(0) - present
        answers = present[..., None] * stack.values
        teachers = (answers.sum(0) - answers) / others.clamp_min(1)[..., None]
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
