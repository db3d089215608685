"""The recall of each class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fedkt.metrics.metric import Metric
from fedkt.registry import register


@register
@dataclass(frozen=True)
class PerClassRecall(Metric):
    """Share of the samples of each class that are predicted as such."""

    title: ClassVar[str] = "recall of each class"
    unit: ClassVar[Literal["%", ""]] = "%"
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    axes: ClassVar[tuple[str, ...]] = ("class",)

    def __call__(self, logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
        """Return the recalls ``[C]``, NaN of a class without samples; see ``Metric``."""
        classes = logits.shape[-1]
        hits = torch.bincount(labels, weight * (logits.argmax(-1) == labels), classes)
        there = torch.bincount(labels, weight, classes)
        return (hits / there).clamp(max=1)
