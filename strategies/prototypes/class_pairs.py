"""Prototypes of classes as servers train on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor

from fedkt.data.samples import Samples
from fedkt.knowledge import Stack


def labelled_prototypes(stack: Stack) -> Samples:
    """Return the prototypes of all clients as samples, each labelled by its class."""
    assert stack.counts is not None
    assert stack.ids is not None
    rows = stack.counts > 0
    y = stack.ids.expand(len(stack), -1)[rows]
    return Samples(stack.values[rows], y, torch.arange(len(y)))


def feature_width(about: Mapping[int, Mapping[str, object]]) -> int:
    """Return d, the width of the clients' features as most of them told it."""
    told = Counter(str(facts["feature width"]) for facts in about.values())
    return int(told.most_common(1)[0][0])


def margin(prototypes: Tensor, most: float) -> Tensor:
    """Return δ: the largest distance of a class's mean from its nearest neighbour, up to τ.

    Parameters
    ----------
    prototypes : Tensor
        The classes' mean prototypes ``[K, d]``.
    most : float
        τ.
    """
    if len(prototypes) < 2:
        return torch.tensor(most)
    gaps = torch.cdist(prototypes, prototypes) + torch.eye(len(prototypes)) * 1e30
    return gaps.min(1).values.max().clamp_max(most)
