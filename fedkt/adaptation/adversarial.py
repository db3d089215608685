"""Adversarial alignment in two terms: one for the judge of domains, one for the features.

Both can stand in one step: the first trains only the judge, a head of the recipe, the second
only the model. A gradient reversal trains both with one loss and its negative;
the second term's loss has the same minimiser and a gradient that does not vanish while the judge
is sure (Goodfellow et al. 2014, section 3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkt.knowledge import Knowledge
from fedkt.objectives.heads import PREFIX, apply_head
from fedkt.objectives.term import Batch, Outputs, weighted_mean
from fedkt.registry import register

OWN, OTHER = 0, 1  # the judge's classes: the batch, the samples beside it


@register
@dataclass(frozen=True)
class DomainIdentifier:
    """Loss of a judge that tells the batch's features from those beside it.

    The mean of two cross-entropies, Σ over the two domains of -log D(domain | features) / 2. The
    features are constant, so the model learns nothing. As in FADA (Peng et al., ICLR 2020),
    recalled from memory.

    Parameters
    ----------
    head : str
        D, a head of the recipe with features ``[n, d]`` for input and two outputs.
    """

    head: str = "identifier"
    part: ClassVar[str] = "objectives"
    name: ClassVar[str] = "domain-identifier"
    needs_features: ClassVar[bool] = True
    needs_beside: ClassVar[bool] = True

    def needs(self) -> tuple[str, ...]:
        """Return no names: the term reads no fused knowledge."""
        return ()

    def __call__(
        self, outputs: Outputs, batch: Batch, knowledge: Mapping[str, Knowledge]
    ) -> Tensor:
        """Return the scalar loss."""
        assert outputs.features is not None
        assert outputs.beside is not None
        assert outputs.beside.features is not None
        features, beside = outputs.features.detach(), outputs.beside.features.detach()
        ones = beside.new_ones(len(beside))
        losses = (
            _mistaken(outputs.parameters, self.head, features, OWN, batch.weight),
            _mistaken(outputs.parameters, self.head, beside, OTHER, ones),
        )
        return (losses[0] + losses[1]) / 2 * (batch.weight.sum() > 0)


@register
@dataclass(frozen=True)
class DomainConfusion:
    """Loss of features that the judge does not take for those of the other domain.

    -log D(the other domain | features) on the batch, with the judge held constant: FADA's
    confusion, recalled from memory, for the one extractor that is trained here (the features
    beside the batch came as knowledge, so there is nothing to train behind them).

    Parameters
    ----------
    head : str
        D; see :class:`DomainIdentifier`.
    """

    head: str = "identifier"
    part: ClassVar[str] = "objectives"
    name: ClassVar[str] = "domain-confusion"
    needs_features: ClassVar[bool] = True
    needs_beside: ClassVar[bool] = True  # without samples beside it the judge learns nothing

    def needs(self) -> tuple[str, ...]:
        """Return no names: the term reads no fused knowledge."""
        return ()

    def __call__(
        self, outputs: Outputs, batch: Batch, knowledge: Mapping[str, Knowledge]
    ) -> Tensor:
        """Return the scalar loss."""
        assert outputs.features is not None
        judge = frozen(outputs.parameters, self.head)
        return _mistaken(judge, self.head, outputs.features, OTHER, batch.weight)


def frozen(parameters: Mapping[str, Tensor], *heads: str) -> dict[str, Tensor]:
    """Return the parameters of some heads as constants."""
    of = tuple(f"{PREFIX}.{head}." for head in heads)
    return {n: p.detach() for n, p in parameters.items() if n.startswith(of)}


def _mistaken(
    parameters: Mapping[str, Tensor], head: str, features: Tensor, domain: int, weight: Tensor
) -> Tensor:
    answers = apply_head(parameters, head, features, weight)
    target = torch.full((len(features),), domain, device=features.device)
    return weighted_mean(F.cross_entropy(answers, target, reduction="none"), weight)
