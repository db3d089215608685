"""Opening data sets and bringing their samples to one shape."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fedkt.data.columns import load_domain
from fedkt.data.dataset import WHITE, D, Dataset, Unlabelled, with_inputs
from fedkt.data.scaling import model_inputs
from fedkt.data.spec import FederationSpec
from fedkt.data.splits import Array
from fedkt.data.vectors import with_features
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


def fit_input(dataset: D, shape: tuple[int, ...]) -> D:
    """Bring the images of a data set to a shape.

    Colour becomes grey by luminance (ITU-R BT.601), grey becomes colour by repetition, and
    the size changes by bilinear interpolation with antialiasing.

    Parameters
    ----------
    dataset : Dataset or Unlabelled
        Any.
    shape : tuple[int, ...]
        ``(C, H, W)`` with C = 1 or 3, or the shape that the samples have.

    Returns
    -------
    Dataset or Unlabelled
        The same object if its samples have the shape. Else uint8 images stay uint8, rounded
        to the nearest, and float images keep their scale.

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
    before = dataset.input_shape
    return with_inputs(dataset, lambda x: _fitted(x, before, shape))


def prepared(
    reference: str,
    spec: FederationSpec,
    needs_labels: bool = False,
    opened: dict[str, Dataset | Unlabelled] | None = None,
) -> Dataset | Unlabelled:
    """Return a data set, or one domain of it, in the layout and form that a federation asks for.

    Missing values stay: whether they are filled is a matter of the scale, and whether a model
    takes them is one of its learner.

    Raises
    ------
    ConfigError
        If it cannot be opened.
    """
    reading = replace(spec.reading, needs_labels=needs_labels)
    loaded = load_domain(reference, spec.data_dir, spec.seed, reading, opened)
    return with_features(loaded, spec.features)


def _fitted(x: Array, current: tuple[int, ...], shape: tuple[int, ...]) -> Array:
    channels, height, width = shape
    stored = (height, width) if channels == 1 else (height, width, channels)
    out = np.empty((len(x), *stored), dtype=x.dtype)
    white = 1.0 if x.dtype == np.uint8 else float(x.max())
    for start in range(0, len(x), CONVERTED_AT_ONCE):
        rows = slice(start, start + CONVERTED_AT_ONCE)
        images = _with_channels(torch.from_numpy(model_inputs(x[rows], current)), channels)
        if images.shape[2:] != (height, width):
            images = F.interpolate(images, (height, width), mode="bilinear", antialias=True)
        # White must not come out brighter than white by a rounding error.
        pixels = images.clamp(max=white).permute(0, 2, 3, 1).reshape(-1, *stored)
        if x.dtype == np.uint8:
            pixels = (pixels * WHITE).round().to(torch.uint8)
        out[rows] = pixels.numpy()
    return out


def _with_channels(images: Tensor, channels: int) -> Tensor:
    if images.shape[1] == channels:
        return images
    if channels == 3:
        return images.expand(-1, 3, -1, -1)
    return (images * torch.tensor(LUMINANCE).view(3, 1, 1)).sum(1, keepdim=True)
