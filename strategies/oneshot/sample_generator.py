"""A generator of samples, from noise of its own, for servers without data."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fedkt.knowledge import Knowledge

SCALE = 0.02  # deviation of fresh weights


class SampleGenerator(nn.Module):
    """A batch of samples, made of trainable noise.

    Images ``[C, H, W]`` come from a map of a quarter of their size, by two 3 x 3 convolutions with
    batch normalisation, each after an enlargement by 2, and a third; their pixels are in [0, 1].
    Samples of another shape come from two hidden layers; batch normalisation gives each of their
    numbers a mean and a deviation that are learnt, 0 and 1 at first.

    Parameters
    ----------
    shape : tuple[int, ...]
        The shape of one sample.
    batch, noise : int
        Number of samples, and of random numbers behind each.
    width : int
        Channels of the last but one layer; the layers before have twice as many. Vectors have
        layers of 8 times as many units.
    """

    def __init__(self, shape: tuple[int, ...], batch: int, noise: int, width: int) -> None:
        super().__init__()
        self.shape = shape
        self.noise = nn.Parameter(torch.randn(batch, noise))
        image = len(shape) == 3
        self.body = _of_images(shape, noise, width) if image else _of_vectors(shape, noise, width)

    def forward(self, rows: Tensor) -> Tensor:
        """Return the samples of some rows of the noise, ``[n, ...]``; ``rows`` is int64 ``[n]``."""
        made: Tensor = self.body(self.noise[rows])
        if len(self.shape) == 3:
            return made[:, :, : self.shape[1], : self.shape[2]]
        return made.reshape(len(made), *self.shape)


def _of_images(shape: tuple[int, ...], noise: int, width: int) -> nn.Sequential:
    channels, height, tall = shape
    quarter = -(-height // 4), -(-tall // 4)
    return nn.Sequential(
        nn.Linear(noise, 2 * width * math.prod(quarter)),
        nn.Unflatten(-1, (2 * width, *quarter)),
        nn.BatchNorm2d(2 * width),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(2 * width, 2 * width, 3, padding=1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.LeakyReLU(0.2),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(2 * width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width, channels, 3, padding=1),
        nn.Sigmoid(),
    )


def _of_vectors(shape: tuple[int, ...], noise: int, width: int) -> nn.Sequential:
    units, numbers = 8 * width, math.prod(shape)
    layers: list[nn.Module] = []
    for inputs in (noise, units):
        layers += [nn.Linear(inputs, units), nn.BatchNorm1d(units), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Linear(units, numbers), nn.BatchNorm1d(numbers))


def fresh(weights: Knowledge, lots: torch.Generator) -> Knowledge:
    """Return new weights of a generator: N(0, 0.02²), of normalisation around 1; noise N(0, 1).

    Parameters
    ----------
    weights : Knowledge
        Weights of the same shapes; biases and running statistics begin as zeros and ones.
    lots : torch.Generator
        The random numbers.
    """
    return weights.with_tensors(
        {name: _fresh(name, tensor, lots) for name, tensor in weights.tensors.items()}
    )


def _fresh(name: str, tensor: Tensor, lots: torch.Generator) -> Tensor:
    if name.endswith(".running_var"):
        return torch.ones_like(tensor)
    if name != "noise" and not name.endswith(".weight"):
        return torch.zeros_like(tensor)
    drawn = torch.randn(tensor.shape, generator=lots)
    return drawn if name == "noise" else (tensor.dim() == 1) + SCALE * drawn
