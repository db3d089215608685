"""Bringing the samples of a data set to one shape and one scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fedkt.data.sources import Dataset, scale, unit
from fedkt.data.splits import Array
from fedkt.errors import ConfigError

# Rec. ITU-R BT.601-7, section 2.5.1: luminance from red, green and blue.
LUMINANCE = (0.299, 0.587, 0.114)
CONVERTED_AT_ONCE = 4096


def check_input_shape(shape: tuple[int, ...]) -> None:
    """Check a shape that a user asked for.

    Raises
    ------
    ConfigError
        If it is neither ``(C, H, W)`` with C = 1 or 3, nor ``(d,)``.
    """
    image = len(shape) == 3 and shape[0] in (1, 3)
    if min(shape, default=0) < 1 or not (image or len(shape) == 1):
        raise ConfigError(
            f"input_shape is {list(shape)}; write [1, height, width] for grey or "
            "[3, height, width] for colour images, e.g. [1, 28, 28]."
        )


def fit_input(dataset: Dataset, shape: tuple[int, ...]) -> Dataset:
    """Bring the images of a data set to a shape.

    Colour becomes grey by luminance (ITU-R BT.601), grey becomes colour by repetition, and
    the size changes by bilinear interpolation with antialiasing.

    Parameters
    ----------
    dataset : Dataset
        Any.
    shape : tuple[int, ...]
        ``(C, H, W)`` with C = 1 or 3, or the shape that the samples have.

    Returns
    -------
    Dataset
        The same object if its samples have the shape. Else uint8 images stay uint8, rounded
        to the nearest; float images are divided by their :attr:`Dataset.peak`, so that
        models see every intensity as before.

    Raises
    ------
    ConfigError
        For feature vectors of another length, and images that should become vectors.
    """
    if dataset.input_shape == shape:
        return dataset
    if len(dataset.input_shape) != 3 or len(shape) != 3:
        raise ConfigError(
            f"{dataset.name} has samples of shape {list(dataset.input_shape)}, which cannot be "
            f"brought to {list(shape)}: only images [channels, height, width] can be converted."
        )
    x_train, x_test = (_fitted(x, dataset.peak, shape) for x in (dataset.x_train, dataset.x_test))
    return replace(dataset, x_train=x_train, x_test=x_test)


def one_scale(datasets: Sequence[Dataset]) -> list[Dataset]:
    """Store several data sets such that one peak fits all of them.

    Parameters
    ----------
    datasets : Sequence[Dataset]
        Each with its own dtype and :attr:`Dataset.peak`.

    Returns
    -------
    list[Dataset]
        The same objects if dtype and peak agree, else copies in float32 as models see them,
        with images in [0, 1]: :func:`fedkt.data.sources.scale` gives what it gave before.
    """
    if len({(d.x_train.dtype, d.peak) for d in datasets}) == 1:
        return list(datasets)
    return [
        replace(d, x_train=unit(d.x_train, d.peak), x_test=unit(d.x_test, d.peak)) for d in datasets
    ]


def _fitted(x: Array, peak: float, shape: tuple[int, ...]) -> Array:
    channels, height, width = shape
    stored = (height, width) if channels == 1 else (height, width, channels)
    out = np.empty((len(x), *stored), dtype=x.dtype)
    for start in range(0, len(x), CONVERTED_AT_ONCE):
        rows = slice(start, start + CONVERTED_AT_ONCE)
        images = _with_channels(torch.from_numpy(scale(x[rows], peak)), channels)
        if images.shape[2:] != (height, width):
            images = F.interpolate(images, (height, width), mode="bilinear", antialias=True)
        # White must not come out brighter than white by a rounding error.
        pixels = images.clamp(max=1).permute(0, 2, 3, 1).reshape(-1, *stored)
        if x.dtype == np.uint8:
            pixels = (pixels * 255).round().to(torch.uint8)
        out[rows] = pixels.numpy()
    return out


def _with_channels(images: Tensor, channels: int) -> Tensor:
    if images.shape[1] == channels:
        return images
    if channels == 3:
        return images.expand(-1, 3, -1, -1)
    return (images * torch.tensor(LUMINANCE).view(3, 1, 1)).sum(1, keepdim=True)
