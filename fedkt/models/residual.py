"""A small residual network (He et al., 2016, arXiv:1512.03385) for images ``(C, H, W)``."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from fedkt.models.convolutional import image_shape
from fedkt.registry import register

WIDTHS = (16, 32, 64)
GROUPS = 8

Norm = Callable[[int], nn.Module]


@register(part="models")
def resnet8(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Residual network of a stem and three blocks (16, 32, 64), with group normalisation."""
    return _network("resnet8", input_shape, num_classes, lambda width: nn.GroupNorm(GROUPS, width))


@register(part="models")
def resnet8_bn(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Residual network of a stem and three blocks (16, 32, 64), with batch normalisation."""
    return _network("resnet8-bn", input_shape, num_classes, nn.BatchNorm2d)


class Residual(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut.

    Parameters
    ----------
    inputs, outputs : int
        Channels; the shortcut is a 1 x 1 convolution where they differ.
    stride : int
        Of the first convolution and the shortcut.
    norm : Callable
        Makes a normalisation for a number of channels.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            norm(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            norm(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs or stride != 1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm(outputs)
            )
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[n, inputs, H, W]`` to ``[n, outputs, H / stride, W / stride]``."""
        out: Tensor = self.activation(self.body(x) + self.shortcut(x))
        return out


def _network(name: str, input_shape: tuple[int, ...], num_classes: int, norm: Norm) -> nn.Module:
    channels, _, _ = image_shape(name, input_shape, 4)
    stem = WIDTHS[0]
    layers: list[nn.Module] = [
        nn.Conv2d(channels, stem, 3, padding=1, bias=False),
        norm(stem),
        nn.ReLU(),
    ]
    inputs = stem
    for width in WIDTHS:
        layers.append(Residual(inputs, width, 1 if width == stem else 2, norm))
        inputs = width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, num_classes)]
    return nn.Sequential(*layers)
