"""The log loss."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor

from fedkt.metrics.metric import Metric
from fedkt.registry import register


@register
@dataclass(frozen=True)
class LogLoss(Metric):
    """Mean negative logarithm of the probability of the true class, in nats."""

    title: ClassVar[str] = "log loss"
    better: ClassVar[Literal["higher", "lower", ""]] = "lower"
    bounds: ClassVar[tuple[float, float]] = (0.0, math.inf)

    def __call__(self, logits: Tensor, labels: Tensor, weight: Tensor) -> float:
        """Return the mean loss; see ``Metric``."""
        losses = F.cross_entropy(logits.double(), labels, reduction="none")
        return float((weight * losses).sum() / weight.sum())
