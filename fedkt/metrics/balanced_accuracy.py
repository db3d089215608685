"""Balanced accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fedkt.metrics.metric import Metric
from fedkt.registry import register


@register
@dataclass(frozen=True)
class BalancedAccuracy(Metric):
    """Mean of the accuracies of the classes that occur among the labels, each counted once."""

    title: ClassVar[str] = "balanced accuracy"
    unit: ClassVar[Literal["%", ""]] = "%"
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def __call__(self, logits: Tensor, labels: Tensor, weight: Tensor) -> float:
        """Return the mean recall; see ``Metric``."""
        classes = logits.shape[-1]
        hits = torch.bincount(labels, weight * (logits.argmax(-1) == labels), classes)
        there = torch.bincount(labels, weight, classes)
        return float((hits / there)[there > 0].mean())
