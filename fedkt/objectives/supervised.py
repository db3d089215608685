"""Terms that use labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from fedkt.errors import KnowledgeError
from fedkt.knowledge import Knowledge
from fedkt.objectives.base import Batch, Outputs, weighted_mean
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
    name: ClassVar[str] = "cross-entropy"

    def needs(self) -> tuple[str, ...]:
        """Read no fused knowledge."""
        return ()

    def __call__(
        self, outputs: Outputs, batch: Batch, knowledge: Mapping[str, Knowledge]
    ) -> Tensor:
        """Return the scalar loss."""
        if batch.y is None:
            raise KnowledgeError("cross-entropy needs labels and this data has none")
        losses = F.cross_entropy(outputs.logits, batch.y, reduction="none")
        return weighted_mean(losses, batch.weight)
