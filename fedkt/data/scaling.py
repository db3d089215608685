"""Bringing the values of a data set to one scale, by statistics of training rows alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Literal

import numpy as np

from fedkt.data.dataset import WHITE, Dataset
from fedkt.data.splits import Array
from fedkt.errors import ConfigError

AT_ONCE = 2**20  # values in float64 at a time
# Columns whose largest values differ by a larger factor get a note. Counts of words and features
# of pretrained networks stay below 250 (Office-Caltech, Amazon); tables of measurements do not.
MUCH = 500

Change = Callable[[Array], Array]
Scale = Literal["none", "unit", "standardise"]


def scaled(dataset: Dataset, how: str | None, held_out: Array) -> tuple[Dataset, tuple[str, ...]]:
    """Return a data set on the scale asked for, and notes for the reader of the results.

    Parameters
    ----------
    dataset : Dataset
        As stored.
    how : str, optional
        ``none``: values as stored; ``unit``: bytes divided by 255, floats by the largest
        absolute value, or by 1 if that is smaller; ``standardise``: every column of vectors and
        every channel of series and images gets mean 0 and variance 1, then missing values
        become 0, the mean. By default ``unit`` for images, unless they are floats outside of
        [0, 255], and ``none`` for all else.
    held_out : ndarray
        bool ``[N]``: the training rows that no statistic may know.

    Returns
    -------
    Dataset
        The same object, or one in float32. Images in bytes on the unit scale stay in bytes, see
        :func:`model_inputs`.
    tuple[str, ...]
        Notes.
    """
    if dataset.layout == "tokens":
        if how not in (None, "none"):
            raise ConfigError(f"{dataset.name} holds token ids; they have no scale {how!r}.")
        return dataset, ()
    visible, notes = dataset.x_train[~held_out], []
    if how is None:
        how, note = _default(dataset, visible)
        notes += [note] if note else []
    if (how == "unit") == _is_unit(dataset) and how != "standardise":
        return dataset, tuple(notes)
    change = CHANGES[how](visible.reshape(-1, _columns(dataset)))
    x_train, x_test = change(dataset.x_train), change(dataset.x_test)
    return replace(dataset, x_train=x_train, x_test=x_test), tuple(notes)


def standardiser(known: Array) -> Change:
    """Return the standardiser of columns, fitted on values that may be known.

    Parameters
    ----------
    known : ndarray
        ``[n, d]``; NaN = missing.

    Returns
    -------
    callable
        From ``[..., d]`` to float32 of the same shape: over the present known values each
        column has mean 0 and variance 1 (population variance), missing values are 0, and so
        are columns of which no two different values are known.
    """
    count, total, square = np.zeros((3, known.shape[1]))
    low, high = np.full_like(count, np.inf), np.full_like(count, -np.inf)
    for block in _blocks(known):
        present = ~np.isnan(block)
        count += present.sum(0)
        total += np.where(present, block, 0).sum(0)
        low = np.minimum(low, np.where(present, block, np.inf).min(0))
        high = np.maximum(high, np.where(present, block, -np.inf).max(0))
    count = np.maximum(count, 1)
    mean = total / count
    for block in _blocks(known):
        square += np.square(np.nan_to_num(block - mean)).sum(0)
    # Not by the variance: that of equal values is a rounding error, which would be blown up.
    varies = high > low
    factor = np.where(varies, 1 / np.sqrt(np.where(varies, square / count, 1)), 0)

    def change(x: Array) -> Array:
        rows = x.reshape(-1, len(mean))
        out = [np.nan_to_num((b - mean) * factor).astype(np.float32) for b in _blocks(rows)]
        return np.concatenate(out).reshape(x.shape)

    return change


def model_inputs(x: Array, shape: tuple[int, ...]) -> Array:
    """Return stored samples as models see them.

    Parameters
    ----------
    x : ndarray
        As stored; see :class:`Dataset`. What is not in bytes has been scaled, see
        :mod:`fedkt.data.scaling`.
    shape : tuple[int, ...]
        The :attr:`Dataset.input_shape`.

    Returns
    -------
    ndarray
        float32 ``[N, *shape]``, of token ids int64. Images get their channels first, and bytes of
        images are divided by 255; all else keeps its values.
    """
    if x.dtype == np.int64:  # token ids
        return x
    if len(shape) < 3:
        return x.astype(np.float32)
    out = unit_bytes(x).reshape(len(x), *shape[1:], shape[0])
    return np.ascontiguousarray(out.transpose(0, 3, 1, 2))


def unit_bytes(x: Array) -> Array:
    """Return float32 with bytes divided by 255, in the axes of ``x``; floats keep their values."""
    out = x.astype(np.float32)
    if x.dtype == np.uint8:
        out /= np.float32(WHITE)
    return out


def _default(dataset: Dataset, visible: Array) -> tuple[str, str]:
    """Return the default scale of a data set, and a note, which may be empty."""
    if dataset.layout == "image":
        low, high = float(visible.min()), float(visible.max())
        if low >= 0 and high <= WHITE:
            return "unit", ""
        return "none", (
            f"{dataset.name}: float images with values from {low:.3g} to {high:.3g} are left as "
            "stored; data.scale says how to scale them, data.layout if they are no images"
        )
    largest = np.abs(visible.reshape(-1, _columns(dataset))).max(0).astype(np.float64)
    ratio = largest.max() / largest[largest > 0].min(initial=np.inf)
    if ratio <= MUCH:
        return "none", ""
    key = "features" if dataset.layout == "vector" else "scale"
    return "none", (
        f"{dataset.name}: the largest values of its columns differ by a factor of {ratio:,.0f}; "
        f'data.{key} = "standardise" brings them to one scale'
    )


def _is_unit(dataset: Dataset) -> bool:
    """Return whether models see a data set on the unit scale as it is stored."""
    return dataset.layout == "image" and dataset.x_train.dtype == np.uint8


def _columns(dataset: Dataset) -> int:
    """Return how many columns or channels a data set has; grey images have one."""
    x = dataset.x_train
    return 1 if dataset.layout == "image" and x.ndim == 3 else x.shape[-1]


def _as_floats(known: Array) -> Change:
    return lambda x: x.astype(np.float32)


def _to_unit(known: Array) -> Change:
    if known.dtype == np.uint8:
        return unit_bytes
    peak = np.float32(max(float(np.abs(known).max()), 1.0))
    return lambda x: x / peak


def _blocks(values: Array) -> Iterator[Array]:
    """Yield some rows of ``[n, d]`` after the other in float64."""
    rows = max(AT_ONCE // values.shape[1], 1)
    for start in range(0, len(values), rows):
        yield values[start : start + rows].astype(np.float64)


CHANGES: dict[str, Callable[[Array], Change]] = {
    "none": _as_floats,
    "unit": _to_unit,
    "standardise": standardiser,
}
