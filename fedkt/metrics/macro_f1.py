"""The macro-averaged F1 score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fedkt.metrics.metric import Metric
from fedkt.registry import register


@register
@dataclass(frozen=True)
class MacroF1(Metric):
    """Mean F1 score of the classes that occur among labels or predictions, each counted once."""

    name: ClassVar[str] = "macro-f1"
    title: ClassVar[str] = "macro F1"
    unit: ClassVar[Literal["%", ""]] = "%"
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def __call__(self, logits: Tensor, labels: Tensor, weight: Tensor) -> float:
        """Return the mean of 2 · hits / (labels + predictions); see ``Metric``."""
        predicted, classes = logits.argmax(-1), logits.shape[-1]
        hits = torch.bincount(labels, weight * (predicted == labels), classes)
        both = sum(torch.bincount(y, weight, classes) for y in (labels, predicted))
        assert isinstance(both, Tensor)
        return float((2 * hits / both)[both > 0].mean())
