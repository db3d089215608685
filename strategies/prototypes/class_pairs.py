"""Pairs of prototype and class, which servers train on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch

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
