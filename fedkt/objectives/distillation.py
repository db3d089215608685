"""Distillation terms: one term, and the divergences it can use.

The target is always a constant: no gradient flows into it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from fedkt.answers import log_probabilities, log_softmax
from fedkt.errors import KnowledgeError
from fedkt.knowledge import Knowledge
from fedkt.objectives.term import Batch, Divergence, Outputs, Target, weighted_mean
from fedkt.options import Factor, Positive
from fedkt.registry import register
from fedkt.schedules import Schedule, settled


@register
@dataclass(frozen=True)
class KL:
    """Forward Kullback-Leibler divergence, ``T² Σ_c t_c log(t_c / s_c)``, in nats.

    Hinton, Vinyals and Dean (2015), arXiv:1503.02531, section 2: student ``s`` (and a
    target given as logits) are softened by T, and the loss is multiplied by T² so that
    its gradient keeps its size as T grows. A target given as probabilities is taken as
    it is: its temperature was chosen where it was made.

    Parameters
    ----------
    temperature : float or Schedule
        T > 0.
    """

    temperature: Positive | Schedule = 1.0
    part: ClassVar[str] = "objectives"
    name: ClassVar[str] = "kl"

    def __call__(self, logits: Tensor, target: Tensor, kind: str) -> Tensor:
        """Return the divergence per sample, ``[B]``."""
        if kind not in ("logits", "probabilities"):
            raise KnowledgeError(f"kl compares answers and the fused knowledge holds {kind}")
        temperature = settled(self.temperature)
        softened = logits if temperature == 1 else logits / temperature
        log_student, teacher = log_softmax(softened), target.detach()
        if kind == "probabilities":
            # 0 log 0 is 0; torch's xlogy, which knows that, goes number by number.
            log_teacher = log_probabilities(teacher)
            losses = (teacher * (log_teacher - log_student)).sum(-1)
        else:
            log_teacher = log_softmax(teacher / temperature)
            losses = (log_teacher.exp() * (log_teacher - log_student)).sum(-1)
        return losses if temperature == 1 else losses * temperature**2


@register
@dataclass(frozen=True)
class MSE:
    """Mean squared difference of logits, mean over classes."""

    part: ClassVar[str] = "objectives"
    name: ClassVar[str] = "mse"

    def __call__(self, logits: Tensor, target: Tensor, kind: str) -> Tensor:
        """Return the divergence per sample, ``[B]``."""
        return (logits - _logits_only(self.name, target, kind)).square().mean(-1)


@register
@dataclass(frozen=True)
class MAE:
    """Mean absolute difference of logits, mean over classes (FedMD's digest loss)."""

    part: ClassVar[str] = "objectives"
    name: ClassVar[str] = "mae"

    def __call__(self, logits: Tensor, target: Tensor, kind: str) -> Tensor:
        """Return the divergence per sample, ``[B]``."""
        return (logits - _logits_only(self.name, target, kind)).abs().mean(-1)


@register
@dataclass(frozen=True)
class Distil:
    """Divergence of the model's answers from fused knowledge about the same samples.

    Parameters
    ----------
    divergence : Divergence
        How far the student is from the target: ``KL(T)``, ``MSE()``, ``MAE()``.
    source : str
        The share whose fused knowledge is the target; its ids must cover the batch.
    """

    divergence: Divergence = field(default_factory=KL)
    source: str = "public"
    part: ClassVar[str] = "objectives"
    name: ClassVar[str] = "distil"

    def needs(self) -> tuple[str, ...]:
        """Return the name of the fused knowledge, ``source``."""
        return (self.source,)

    def as_target(self) -> Target:
        """Return the fused knowledge, at the divergence's temperature."""
        return Target(self.source, temperature=getattr(self.divergence, "temperature", 1.0))

    def __call__(
        self, outputs: Outputs, batch: Batch, knowledge: Mapping[str, Knowledge]
    ) -> Tensor:
        """Return the scalar loss."""
        teacher = knowledge[self.source]
        losses = self.divergence(outputs.logits, teacher.at(batch.ids), teacher.kind)
        return weighted_mean(losses, batch.weight)


@register
@dataclass(frozen=True)
class Supported:
    """Divergence from answers that models have voted for, weighted by their supporters.

    The mean over the batch of max(n, floor) · divergence, where n is the number of models that
    stand behind the target (its ``counts``). It is not divided by the sum of the n, so that a batch
    without supporters weighs less than a batch that all models support. KD3A (Feng et al., ICML
    2021), section 3.2.

    Parameters
    ----------
    divergence : Divergence
        How far the student is from the target.
    source : str
        The knowledge that holds targets and counts; its ids must cover the batch.
    floor : float
        The weight of a target without a supporter, at least 0.
    """

    divergence: Divergence = field(default_factory=KL)
    source: str = "votes"
    floor: Factor = 0.001
    part: ClassVar[str] = "objectives"
    name: ClassVar[str] = "supported"

    def needs(self) -> tuple[str, ...]:
        """Return the name of the knowledge, ``source``."""
        return (self.source,)

    def __call__(
        self, outputs: Outputs, batch: Batch, knowledge: Mapping[str, Knowledge]
    ) -> Tensor:
        """Return the scalar loss."""
        teacher = knowledge[self.source]
        losses = self.divergence(outputs.logits, teacher.at(batch.ids), teacher.kind)
        support = teacher.counts_at(batch.ids).to(losses.dtype).clamp_min(self.floor)
        return weighted_mean(support * losses, batch.weight)


@register
@dataclass(frozen=True)
class PseudoLabels:
    """Cross-entropy of the top classes of fused answers.

    Parameters
    ----------
    source : str
        The fused answers.
    """

    source: str = "public"
    part: ClassVar[str] = "objectives"
    name: ClassVar[str] = "pseudo-labels"

    def needs(self) -> tuple[str, ...]:
        """Return the name of the fused answers, ``source``."""
        return (self.source,)

    def __call__(
        self, outputs: Outputs, batch: Batch, knowledge: Mapping[str, Knowledge]
    ) -> Tensor:
        """Return the scalar loss."""
        labels = knowledge[self.source].at(batch.ids).argmax(-1)
        losses = -log_softmax(outputs.logits).gather(-1, labels[..., None]).squeeze(-1)
        return weighted_mean(losses, batch.weight)


def _logits_only(name: str, target: Tensor, kind: str) -> Tensor:
    if kind != "logits":
        raise KnowledgeError(f"{name} compares logits and the fused knowledge holds {kind}")
    return target.detach()
