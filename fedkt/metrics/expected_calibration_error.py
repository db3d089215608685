"""The expected calibration error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fedkt.metrics.metric import Metric
from fedkt.options import AtLeastOne
from fedkt.registry import register


@register
@dataclass(frozen=True)
class ExpectedCalibrationError(Metric):
    """Mean distance of confidence and accuracy over bins of confidence (Guo et al., 2017, Eq. 3).

    Parameters
    ----------
    bins : int
        Number of bins of equal width; each includes its upper edge.

    References
    ----------
    Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural networks", ICML 2017,
    arXiv:1706.04599.
    """

    title: ClassVar[str] = "expected calibration error"
    short: ClassVar[str] = "ECE"
    unit: ClassVar[Literal["%", ""]] = "%"
    better: ClassVar[Literal["higher", "lower", ""]] = "lower"
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)

    bins: AtLeastOne = 15

    def __call__(self, logits: Tensor, labels: Tensor, weight: Tensor) -> float:
        """Return Σ_b |Σ_{i in b} w_i (hit_i - confidence_i)| / Σ_i w_i; see ``Metric``."""
        confidence, predicted = logits.double().softmax(-1).max(-1)
        edges = torch.linspace(0, 1, self.bins + 1, dtype=torch.float64)[1:-1]
        gaps = weight * ((predicted == labels).double() - confidence)
        by_bin = torch.bincount(torch.bucketize(confidence, edges), gaps, self.bins)
        return float(by_bin.abs().sum() / weight.sum())
