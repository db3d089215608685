"""Pictures of pillow as one array."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fedkt.data.splits import Array
from fedkt.errors import ConfigError

GREY = ("1", "L")
DEEP = ("I", "F")  # how the modes of more than 8 bits begin; pillow would cut their values off


def is_picture(value: Any) -> bool:
    """Return whether a value is a picture of pillow."""
    return hasattr(value, "convert") and hasattr(value, "getbands")


def pixels_of(pictures: Iterable[Any], shape: Sequence[int], what: str) -> Array:
    """Return pictures as bytes ``[N, H, W]`` if all are grey, else ``[N, H, W, 3]``.

    Parameters
    ----------
    pictures : iterable
        Of pillow. They are closed here, one after the other.
    shape : Sequence[int]
        ``(C, H, W)``, to which pictures of any size are brought; empty: all must have one size.
    what : str
        The data set, for messages.

    Raises
    ------
    ConfigError
        If sizes differ and there is no shape, or values have more than 8 bits.
    """
    channels, size = (shape[0], (shape[2], shape[1])) if len(shape) == 3 else (0, None)
    arrays = []
    for picture in pictures:
        if picture.mode.startswith(DEEP):
            raise ConfigError(
                f"{what} holds an image of mode {picture.mode}; images have at most 8 bits for "
                "each value. Save them so, or give their values as arrays (an .npz file)."
            )
        grey = channels == 1 or (not channels and picture.mode in GREY)
        plain = picture.convert("L" if grey else "RGB")
        arrays.append(np.asarray(plain if size in (None, plain.size) else plain.resize(size)))
    sizes = sorted({array.shape[:2] for array in arrays})
    if len(sizes) > 1:
        raise ConfigError(
            f"{what} holds images of {len(sizes)} different sizes; say one that all are brought "
            f"to, e.g. data.input_shape = [3, {sizes[0][0]}, {sizes[0][1]}]."
        )
    if len({array.ndim for array in arrays}) > 1:
        arrays = [np.stack([a] * 3, axis=-1) if a.ndim == 2 else a for a in arrays]
    return np.stack(arrays)
