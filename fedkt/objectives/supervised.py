"""Terms that use labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fedkt.answers import log_softmax
from fedkt.errors import KnowledgeError
from fedkt.knowledge import Knowledge
from fedkt.objectives.term import Batch, Outputs, Target, weighted_mean
from fedkt.options import Memory, checked
from fedkt.registry import register


@register
@dataclass(frozen=True)
class CrossEntropy:
    """Mean cross-entropy of the labels, in nats.

    Raises
    ------
    KnowledgeError
        On a batch without labels.
    """

    part: ClassVar[str] = "objectives"
    needs_labels: ClassVar[bool] = True
    name: ClassVar[str] = "cross-entropy"

    def needs(self) -> tuple[str, ...]:
        """Return no names: the term reads no fused knowledge."""
        return ()

    def as_target(self) -> Target:
        """Return the labels."""
        return Target()

    def __call__(
        self, outputs: Outputs, batch: Batch, knowledge: Mapping[str, Knowledge]
    ) -> Tensor:
        """Return the scalar loss."""
        return _cross_entropy(outputs.logits, batch)


@register
@checked
@dataclass(frozen=True)
class AdjustedCrossEntropy:
    """Cross-entropy of softmax(z + log π), π the client's own class prior; in nats.

    Logit adjustment (Menon et al. 2021, arXiv:2007.07314, equation 10) with τ = 1, the
    balanced softmax of Ren et al. (2020). The model learns logits z free of the client's
    prior: classes that the client lacks are hardly pushed down, so what it has been taught
    about them survives its private training.

    Parameters
    ----------
    floor : float
        In [0, 1): the prior in the loss is (1 - floor) π + floor / C. Without a floor a client that
        holds one class has almost no gradient, because softmax(z + log π) is its label already.
    """

    part: ClassVar[str] = "objectives"
    needs_labels: ClassVar[bool] = True
    name: ClassVar[str] = "adjusted-cross-entropy"
    floor: Memory = 0.0

    def needs(self) -> tuple[str, ...]:
        """Return no names: the term reads no fused knowledge."""
        return ()

    def as_target(self) -> Target:
        """Return the labels, free of the prior."""
        return Target(adjusted=True, floor=self.floor)

    def __call__(
        self, outputs: Outputs, batch: Batch, knowledge: Mapping[str, Knowledge]
    ) -> Tensor:
        """Return the scalar loss."""
        if batch.log_prior is None:
            raise KnowledgeError("adjusted-cross-entropy needs the client's prior")
        log_prior = floored(batch.log_prior, self.floor)
        return _cross_entropy(outputs.logits + log_prior, batch)


def floored(log_prior: Tensor, floor: float) -> Tensor:
    """Return log((1 - floor) π + floor / C) for log π ``[..., C]``; at floor 0 the same tensor."""
    if not floor:
        return log_prior
    return ((1 - floor) * log_prior.exp() + floor / log_prior.shape[-1]).log()


def _cross_entropy(logits: Tensor, batch: Batch) -> Tensor:
    if batch.y is None:
        raise KnowledgeError("cross-entropy needs labels and this data has none")
    losses = -log_softmax(logits).gather(-1, batch.y[..., None]).squeeze(-1)
    return weighted_mean(losses, batch.weight)
