"""Features in two parts: one that tells the class in any domain, one that tells the domain.

A reconstruction of FADA's disentangler (Peng et al., ICLR 2020, section 4) from memory of its
equations. Two heads split features f into an invariant part i and a specific part s of the
same width. :class:`DisentanglerCritics` and :class:`Disentangler` are the two sides of the
adversarial games: the first trains critics on parts held constant, the second the parts, and the
features behind them, with critics held constant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkt.adaptation.adversarial import frozen
from fedkt.errors import KnowledgeError
from fedkt.knowledge import Knowledge
from fedkt.objectives.heads import Head, apply_head
from fedkt.objectives.term import Batch, Outputs, weighted_mean
from fedkt.options import Factor
from fedkt.registry import register

INVARIANT, SPECIFIC, JOINED = "invariant", "specific", "joined"
INVARIANT_CLASS, SPECIFIC_CLASS, INFORMATION = "invariant-class", "specific-class", "information"


def disentangler_heads(hidden: int = 64) -> tuple[Head, ...]:
    """Return the heads that the two terms use; ``hidden`` is the width of their middle layers.

    Two parts d → d and two classifiers d → C, all linear; the reconstruction 2 d → hidden → d
    and the information critic 2 d → hidden → 1.
    """
    return (
        Head(INVARIANT, (0,)),
        Head(SPECIFIC, (0,)),
        Head(INVARIANT_CLASS, (-1,)),
        Head(SPECIFIC_CLASS, (-1,)),
        Head(JOINED, (hidden, 0), inputs="pair"),
        Head(INFORMATION, (hidden, 1), inputs="pair"),
    )


@register
@dataclass(frozen=True)
class DisentanglerCritics:
    """Loss of critics of the two parts of the features; the parts learn nothing.

    The cross-entropy of the labels from the specific part, minus the mutual information of the
    two parts that their critic finds (:func:`mutual_information`).
    """

    part: ClassVar[str] = "objectives"
    name: ClassVar[str] = "disentangler-critics"
    needs_features: ClassVar[bool] = True

    def needs(self) -> tuple[str, ...]:
        """Return no names: the term reads no fused knowledge."""
        return ()

    def __call__(
        self, outputs: Outputs, batch: Batch, knowledge: Mapping[str, Knowledge]
    ) -> Tensor:
        """Return the scalar loss."""
        assert outputs.features is not None
        parameters = outputs.parameters
        invariant, specific = (p.detach() for p in _parts(parameters, outputs.features.detach()))
        loss = _cross_entropy(apply_head(parameters, SPECIFIC_CLASS, specific), batch)
        return loss - mutual_information(parameters, INFORMATION, invariant, specific, batch.weight)


@register
@dataclass(frozen=True)
class Disentangler:
    """Loss of the two parts of the features; the critics learn nothing.

    CE(y; c(i)) + confusion · CE(uniform; k(s)) + reconstruction · mean (f - R(i, s))² +
    information · max(0, I(i; s)), where the class critic k and the information critic in I are
    constants, and so is f as the target of the reconstruction. CE(uniform; ·) is the mean over
    classes of -log probability; below 0 an estimate of information says nothing, and a loss
    without a floor would reward parts that fool the critic without end.

    Parameters
    ----------
    confusion, reconstruction, information : float
        Factors, at least 0.
    """

    confusion: Factor = 0.1
    reconstruction: Factor = 0.1
    information: Factor = 0.1
    part: ClassVar[str] = "objectives"
    name: ClassVar[str] = "disentangler"
    needs_features: ClassVar[bool] = True

    def needs(self) -> tuple[str, ...]:
        """Return no names: the term reads no fused knowledge."""
        return ()

    def __call__(
        self, outputs: Outputs, batch: Batch, knowledge: Mapping[str, Knowledge]
    ) -> Tensor:
        """Return the scalar loss."""
        assert outputs.features is not None
        parameters, features, weight = outputs.parameters, outputs.features, batch.weight
        critics = frozen(parameters, SPECIFIC_CLASS, INFORMATION)
        invariant, specific = _parts(parameters, features)
        invariant_loss = _cross_entropy(apply_head(parameters, INVARIANT_CLASS, invariant), batch)
        guesses = F.log_softmax(apply_head(critics, SPECIFIC_CLASS, specific), -1)
        undecided = weighted_mean(-guesses.mean(-1), weight)
        joined = apply_head(parameters, JOINED, torch.cat([invariant, specific], -1))
        lost = weighted_mean((joined - features.detach()).square().mean(-1), weight)
        shared = mutual_information(critics, INFORMATION, invariant, specific, weight)
        return (
            invariant_loss
            + self.confusion * undecided
            + self.reconstruction * lost
            + self.information * shared.clamp_min(0)
        )


def mutual_information(
    parameters: Mapping[str, Tensor], head: str, left: Tensor, right: Tensor, weight: Tensor
) -> Tensor:
    """Return a lower bound of the mutual information of two parts, in nats.

    The Donsker-Varadhan bound of MINE (Belghazi et al. 2018, arXiv:1801.04062),
    E[T(l, r)] - log E[exp T(l, r')], with each r' from the sample before l's own: batches come in
    random order. A batch of one gives 0.

    Parameters
    ----------
    parameters : Mapping[str, Tensor]
        The parameters of the critic T are among them.
    head : str
        T's name, a head with ``inputs="pair"`` and one output.
    left, right : Tensor
        ``[B, d]``.
    weight : Tensor
        ``[B]``, 0 for padding, which comes last.

    Returns
    -------
    Tensor
        A scalar; its maximum over T is the mutual information, in a batch it may be below 0.
    """
    together = apply_head(parameters, head, torch.cat([left, right], -1))[:, 0]
    before = torch.arange(len(left), device=left.device) - 1
    before = torch.where(before < 0, (weight > 0).sum() - 1, before)
    apart = apply_head(parameters, head, torch.cat([left, right[before]], -1))[:, 0]
    # A number as good as -infinity, whose gradient is 0 and not NaN where all is padding.
    apart = torch.where(weight > 0, apart + weight.clamp_min(1e-30).log(), -1e30)
    log_mean = torch.logsumexp(apart, 0) - weight.sum().clamp_min(1e-30).log()
    bound = weighted_mean(together, weight) - log_mean
    return torch.where(weight.sum() > 0, bound, torch.zeros_like(bound))


def _parts(parameters: Mapping[str, Tensor], features: Tensor) -> tuple[Tensor, Tensor]:
    return apply_head(parameters, INVARIANT, features), apply_head(parameters, SPECIFIC, features)


def _cross_entropy(answers: Tensor, batch: Batch) -> Tensor:
    if batch.y is None:
        raise KnowledgeError("the disentangler needs labels and this data has none")
    return weighted_mean(F.cross_entropy(answers, batch.y, reduction="none"), batch.weight)
