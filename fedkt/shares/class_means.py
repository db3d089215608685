"""Means over the private training samples of each class: the common part of class shares."""

from __future__ import annotations

import torch
from torch import Tensor

from fedkt.data.samples import Samples
from fedkt.errors import KnowledgeError
from fedkt.knowledge import Kind, Knowledge


def class_means(kind: Kind, values: Tensor, samples: Samples) -> Knowledge:
    """Return the mean of each class, with the number of samples behind it.

    Parameters
    ----------
    kind : str
        ``"class-logits"`` or ``"prototypes"``.
    values : Tensor
        float32 ``[n, d]``, a row for each sample.
    samples : Samples
        The n samples, with labels.

    Returns
    -------
    Knowledge
        Rows of the classes that occur only, ids ascending. The sum over a class is its mean times
        its count.
    """
    if samples.y is None:
        raise KnowledgeError("means of classes need labels and this data has none")
    classes, places, counts = torch.unique(samples.y, return_inverse=True, return_counts=True)
    sums = torch.zeros(len(classes), values.shape[1], dtype=torch.float64)
    sums.index_add_(0, places, values.double())
    means = (sums / counts[:, None]).to(values.dtype)
    return Knowledge(kind, {"values": means}, classes, counts)
