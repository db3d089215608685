"""The Brier score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor

from fedkt.metrics.metric import Metric
from fedkt.registry import register


@register
@dataclass(frozen=True)
class BrierScore(Metric):
    """Mean squared distance of the probabilities from the true class, summed over classes.

    Of two classes it is twice what is often called so: 0 is best and 2 is worst, as in the paper.

    References
    ----------
    Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather Review
    78 (1950), Eq. 2.
    """

    title: ClassVar[str] = "Brier score"
    better: ClassVar[Literal["higher", "lower", ""]] = "lower"
    bounds: ClassVar[tuple[float, float]] = (0.0, 2.0)

    def __call__(self, logits: Tensor, labels: Tensor, weight: Tensor) -> float:
        """Return Σ_i w_i Σ_c (p_ic - 1[y_i = c])² / Σ_i w_i; see ``Metric``."""
        probabilities = logits.double().softmax(-1)
        truth = F.one_hot(labels, logits.shape[1])
        distances = (probabilities - truth).square().sum(-1)
        return float((weight * distances).sum() / weight.sum())
