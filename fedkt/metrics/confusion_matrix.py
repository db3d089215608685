"""The confusion matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fedkt.metrics.metric import Metric
from fedkt.registry import register


@register
@dataclass(frozen=True)
class ConfusionMatrix(Metric):
    """Number of samples of each class (rows) that are predicted as each class (columns)."""

    title: ClassVar[str] = "confusion matrix"
    better: ClassVar[Literal["higher", "lower", ""]] = ""
    bounds: ClassVar[tuple[float, float]] = (0.0, math.inf)
    axes: ClassVar[tuple[str, ...]] = ("label", "prediction")

    def __call__(self, logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
        """Return the sums of weights ``[C, C]``; see ``Metric``."""
        classes = logits.shape[-1]
        cells = torch.bincount(labels * classes + logits.argmax(-1), weight, classes**2)
        return cells.view(classes, classes)
