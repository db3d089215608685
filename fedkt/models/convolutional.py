"""Small convolutional networks, for images ``(C, H, W)`` of 8 x 8 pixels and more."""

from __future__ import annotations

from torch import nn

from fedkt.errors import ConfigError
from fedkt.registry import register

POOLINGS = 2


@register(part="models")
def cnn(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Two 3 x 3 convolutions (16, 32) with pooling, 64 hidden units."""
    return _network("cnn", input_shape, num_classes, (16, 32), 64)


@register(part="models")
def cnn_wide(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Two 3 x 3 convolutions (32, 64) with pooling, 128 hidden units."""
    return _network("cnn-wide", input_shape, num_classes, (32, 64), 128)


@register(part="models")
def cnn_small(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Two 3 x 3 convolutions (16, 32) of stride 2, averaged to 4 x 4: a quarter of cnn's work."""
    return _strided("cnn-small", input_shape, num_classes, (16, 32))


@register(part="models")
def cnn_tiny(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """As cnn-small with half the channels (8, 16)."""
    return _strided("cnn-tiny", input_shape, num_classes, (8, 16))


def image_shape(model: str, input_shape: tuple[int, ...], smallest: int) -> tuple[int, int, int]:
    """Return ``input_shape`` as channels, height and width.

    Raises
    ------
    ConfigError
        If it is no image of at least ``smallest`` x ``smallest`` pixels.
    """
    if len(input_shape) != 3 or min(input_shape[1:]) < smallest:
        raise ConfigError(
            f"model {model!r} needs images (C, H, W) of at least {smallest} x {smallest} pixels; "
            f"the data has samples of shape {list(input_shape)}"
        )
    channels, height, width = input_shape
    return channels, height, width


def _network(
    name: str,
    input_shape: tuple[int, ...],
    num_classes: int,
    widths: tuple[int, int],
    hidden: int,
) -> nn.Module:
    channels, height, width = image_shape(name, input_shape, 2**POOLINGS)
    pixels = (height // 2**POOLINGS) * (width // 2**POOLINGS)
    # The largest of some positive parts is the positive part of the largest: pooling first gives
    # the same bits, forward and backward, and leaves a quarter of the numbers to the ReLU.
    return nn.Sequential(
        nn.Conv2d(channels, widths[0], 3, padding=1),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(widths[0], widths[1], 3, padding=1),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(widths[1] * pixels, hidden),
        nn.ReLU(),
        nn.Linear(hidden, num_classes),
    )


def _strided(
    name: str, input_shape: tuple[int, ...], num_classes: int, widths: tuple[int, int]
) -> nn.Module:
    channels, height, width = image_shape(name, input_shape, 2**POOLINGS)
    # An image below 16 x 16 pixels has fewer than 4 x 4 places left; none is made up.
    places = (min(4, height // 2**POOLINGS), min(4, width // 2**POOLINGS))
    return nn.Sequential(
        nn.Conv2d(channels, widths[0], 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(widths[0], widths[1], 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(places),
        nn.Flatten(),
        nn.Linear(widths[1] * places[0] * places[1], num_classes),
    )
