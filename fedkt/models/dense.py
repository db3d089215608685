"""Linear and fully connected networks, for inputs of any shape."""

from __future__ import annotations

import math

from torch import nn

from fedkt.registry import register


@register(part="models")
def linear(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Softmax regression: one linear layer."""
    return _network(input_shape, num_classes)


@register(part="models")
def mlp(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """One hidden layer of 64 units."""
    return _network(input_shape, num_classes, 64)


@register(part="models")
def mlp_wide(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """One hidden layer of 128 units."""
    return _network(input_shape, num_classes, 128)


@register(part="models")
def mlp_deep(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Two hidden layers of 64 units."""
    return _network(input_shape, num_classes, 64, 64)


def _network(input_shape: tuple[int, ...], num_classes: int, *hidden: int) -> nn.Module:
    width = math.prod(input_shape)
    layers: list[nn.Module] = [nn.Flatten()]
    for units in hidden:
        layers += [nn.Linear(width, units), nn.ReLU()]
        width = units
    return nn.Sequential(*layers, nn.Linear(width, num_classes))
