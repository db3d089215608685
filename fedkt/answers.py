"""Conversions of answers: logits, probabilities, labels, and the figures that are taken of them.

An argmax of NaN is a class like any other, so an accuracy of a model that has diverged looks like
chance. Every label, accuracy and loss of logits is computed here, and answers that are not finite
are refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkt.errors import KnowledgeError, NotFiniteError

REGISTER = 16  # float32 numbers in the widest vector register of today's processors
LARGEST_LOSS = 1e4  # of mean losses that are shared, so that they travel as float16 too


def log_softmax(logits: Tensor) -> Tensor:
    """Return the log-softmax over the last axis of ``[..., B, C]``, in nats.

    torch's own goes through a last axis shorter than a vector register number by number; along
    the axis before it works on whole registers, which for ten classes is several times faster.
    """
    if logits.dim() < 2 or logits.shape[-1] >= REGISTER:
        return F.log_softmax(logits, dim=-1)
    return F.log_softmax(logits.mT, dim=-2).mT


def softmax(logits: Tensor) -> Tensor:
    """Return the softmax over the last axis of ``[..., B, C]``; see :func:`log_softmax`."""
    return log_softmax(logits).exp()


def torch_softmax(logits: Tensor) -> Tensor:
    """Return the softmax over the last axis as torch computes it.

    Most numbers differ from :func:`softmax` in the last digit. Published figures rest on one or the
    other, so every caller stays with its function.
    """
    return logits.softmax(-1)


def entropy(probabilities: Tensor) -> Tensor:
    """Return the entropy ``[...]`` in nats of the rows of ``probabilities [..., C]``."""
    return -torch.xlogy(probabilities, probabilities).sum(-1)


def log_probabilities(probabilities: Tensor) -> Tensor:
    """Return the logarithm of ``probabilities [..., C]``, in nats; finite for those that are 0."""
    return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()


def logits_of(values: Tensor, kind: str) -> Tensor:
    """Return answers as logits ``[..., C]``; those of probabilities are their logarithms.

    Raises
    ------
    KnowledgeError
        If ``kind`` is neither ``logits`` nor ``probabilities``.
    """
    if kind == "logits":
        return values
    if kind == "probabilities":
        return log_probabilities(values)
    raise KnowledgeError(f"logits can be had of logits or probabilities, not of {kind}")


def probabilities_of(values: Tensor, kind: str, num_classes: int = -1) -> Tensor:
    """Return answers as probabilities ``[..., C]``, of logits by :func:`torch_softmax`.

    Parameters
    ----------
    values : Tensor
        Logits or probabilities ``[..., C]``, or labels ``[...]``, which become one-hot rows.
    kind : {"logits", "probabilities", "labels"}
        What they are.
    num_classes : int
        C, of labels.
    """
    if kind == "labels":
        return F.one_hot(values, num_classes).float()
    return torch_softmax(values) if kind == "logits" else values


def of_kind(
    logits: Tensor,
    kind: str,
    temperature: float = 1.0,
    soft: Callable[[Tensor], Tensor] = softmax,
) -> Tensor:
    """Return logits ``[..., C]`` as answers of a kind.

    Parameters
    ----------
    logits : Tensor
        Taken as they are, finite or not; see :func:`finite`.
    kind : {"logits", "probabilities", "labels"}
        Labels are the classes of the largest logits, int64 ``[...]``.
    temperature : float
        For probabilities: softmax(logits / temperature).
    soft : callable
        The softmax, ours or torch's.
    """
    if kind == "labels":
        return logits.argmax(-1)
    if kind == "probabilities":
        return soft(logits / temperature)
    return logits


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
