"""What a loss term is and what it is given.

A term is a pure function of tensors, ``term(outputs, batch, knowledge) -> scalar``,
without reductions over padding: means are weighted by ``batch.weight``, so that a term
runs unchanged in a loop and under ``torch.func.vmap``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from torch import Tensor

from fedkt.knowledge import Knowledge


@dataclass(frozen=True)
class Batch:
    """One batch of samples.

    Parameters
    ----------
    x : Tensor
        Inputs, ``[B, ...]`` float32.
    y : Tensor, optional
        Labels, ``[B]`` int64; ``None`` on unlabelled data.
    ids : Tensor
        Sample ids, ``[B]`` int64.
    weight : Tensor
        ``[B]``, in the parameters' dtype; 0 marks padding.
    log_prior : Tensor, optional
        ``[C]``, log of the client's own class prior; the executors always give it.
    """

    x: Tensor
    y: Tensor | None
    ids: Tensor
    weight: Tensor
    log_prior: Tensor | None = None


@dataclass(frozen=True)
class Outputs:
    """What a model answered on a batch.

    Parameters
    ----------
    logits : Tensor
        ``[B, C]``.
    features : Tensor, optional
        Penultimate features ``[B, d]``, the input of the last linear layer; present when
        a term of the step asks for them (``needs_features``).
    parameters : Mapping[str, Tensor]
        The model's trainable parameters by name.
    """

    logits: Tensor
    features: Tensor | None
    parameters: Mapping[str, Tensor]


@runtime_checkable
class Term(Protocol):
    """A differentiable loss on a batch.

    Implementations are frozen dataclasses whose fields are numbers, strings or other
    registered dataclasses, so that a recipe can travel as plain data.
    """

    part: ClassVar[str]

    def __call__(
        self, outputs: Outputs, batch: Batch, knowledge: Mapping[str, Knowledge]
    ) -> Tensor:
        """Return the loss, a scalar."""
        ...

    def needs(self) -> tuple[str, ...]:
        """Return the names of the fused knowledge the term reads."""
        ...


class Divergence(Protocol):
    """How far a student's logits are from a target, per sample."""

    part: ClassVar[str]

    def __call__(self, logits: Tensor, target: Tensor, kind: str) -> Tensor:
        """Return the divergence ``[B]`` of ``logits`` from ``target``, both ``[B, C]``.

        ``kind`` says whether the target holds ``logits`` or ``probabilities``.
        """
        ...


def weighted_mean(losses: Tensor, weight: Tensor) -> Tensor:
    """Mean of ``losses [B]`` weighted by ``weight [B]``; 0 for a batch of padding only."""
    return (losses * weight).sum() / weight.sum().clamp_min(1e-12)
