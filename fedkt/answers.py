"""Where answers of models become labels and figures: those that are not finite are refused.

An argmax of NaN is a class like any other, so an accuracy of a model that has diverged looks like
chance. Every label, accuracy and loss that the library takes of logits is taken here.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from fedkt.errors import NotFiniteError


def is_finite(values: Tensor) -> bool:
    """Return whether a tensor holds neither NaN nor infinity."""
    return not values.is_floating_point() or math.isfinite(largest(values))


def largest(values: Tensor) -> float:
    """Return the largest absolute value of a tensor; NaN if it holds one, 0 if it is empty."""
    if not values.numel():
        return 0.0
    low, high = values.aminmax()  # NaN spreads to both; ten times cheaper than abs or isfinite
    return max(-float(low), float(high))


def finite(answers: Tensor, what: str = "answers") -> Tensor:
    """Return the answers as they are.

    Parameters
    ----------
    answers : Tensor
        ``[n, ...]``, one row a sample.
    what : str
        Their name in the message.

    Raises
    ------
    NotFiniteError
        If a row holds NaN or infinity, with the number of such rows.
    """
    if not is_finite(answers):
        rows = int((~answers.isfinite()).flatten(1).any(1).sum())
        raise NotFiniteError(f"{rows} of {len(answers)} {what} hold NaN or infinity")
    return answers


def top(answers: Tensor) -> Tensor:
    """Return the class of the largest entry of each row, int64 ``[...]``, of ``[..., C]``.

    Raises
    ------
    NotFiniteError
        As :func:`finite`.
    """
    return finite(answers).argmax(-1)


def correct(answers: Tensor, labels: Tensor) -> Tensor:
    """Return whether each sample's top class is its label.

    Parameters
    ----------
    answers : Tensor
        Logits or probabilities ``[n, C]``.
    labels : Tensor
        int64 ``[n]``.

    Returns
    -------
    Tensor
        bool ``[n]``.

    Raises
    ------
    NotFiniteError
        As :func:`finite`.
    """
    return top(answers) == labels


def accuracy(answers: Tensor, labels: Tensor) -> float:
    """Return the share of samples whose top class is their label; see :func:`correct`."""
    return float(correct(answers, labels).double().mean())


def mean_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy in nats, a scalar, of logits ``[n, C]`` and labels ``[n]``.

    Raises
    ------
    NotFiniteError
        As :func:`finite`.
    """
    return F.cross_entropy(finite(logits), labels)
