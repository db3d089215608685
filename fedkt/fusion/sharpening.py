"""Sharper averages of probabilities: entropy reduction (ERA) and its successor."""

from __future__ import annotations

from torch import Tensor

from fedkt.answers import log_probabilities, torch_softmax


def entropy_reduction(probabilities: Tensor, temperature: float) -> Tensor:
    """Return softmax(p / T), the entropy reduction aggregation of DS-FL.

    Itahara et al. (IEEE TMC 2021), arXiv:2008.06180. The softmax is of probabilities, not of
    logits: its sharpness depends on C. T → 0 is the top class, T → ∞ the uniform distribution, and
    T = 1 is far flatter than p.

    Parameters
    ----------
    probabilities : Tensor
        Means ``[..., C]``.
    temperature : float
        T > 0.
    """
    return torch_softmax(probabilities / temperature)


def enhanced_entropy_reduction(probabilities: Tensor, exponent: float) -> Tensor:
    """Return p^β / Σ_c p_c^β, the enhanced aggregation of SCARLET; β = 1 returns p.

    Parameters
    ----------
    probabilities : Tensor
        Means ``[..., C]``.
    exponent : float
        β > 0.
    """
    # By logarithms, because powers of small numbers may all vanish.
    return torch_softmax(exponent * log_probabilities(probabilities))
