"""Terms that compare features with prototypes of classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedkt.knowledge import Knowledge
from fedkt.objectives.term import Batch, Outputs, weighted_mean
from fedkt.registry import register


@register
@dataclass(frozen=True)
class PrototypeDistance:
    """Mean squared difference of the features from the prototype of the sample's class.

    The mean over the d features, and over the batch. A class without prototype adds nothing.
    Tan et al. (2022), arXiv:2105.00243, equation 7.

    Parameters
    ----------
    source : str
        The name of the fused prototypes.
    """

    source: str = "prototypes"
    part: ClassVar[str] = "objectives"
    name: ClassVar[str] = "prototype-distance"
    needs_features: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = True
    per_sample: ClassVar[bool] = True

    def needs(self) -> tuple[str, ...]:
        """Return the name of the prototypes, ``source``."""
        return (self.source,)

    def __call__(
        self, outputs: Outputs, batch: Batch, knowledge: Mapping[str, Knowledge]
    ) -> Tensor:
        """Return the scalar loss."""
        assert outputs.features is not None
        assert batch.y is not None
        prototypes, known = knowledge[self.source].known_at(batch.y)
        distances = (outputs.features - prototypes).square().mean(-1)
        return weighted_mean(torch.where(known, distances, 0.0), batch.weight)
