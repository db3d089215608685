"""A network that cohorts refuse."""

from __future__ import annotations

import math

from torch import nn


def dropping(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """One linear layer behind dropout."""
    width = math.prod(input_shape)
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.1), nn.Linear(width, num_classes))
