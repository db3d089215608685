"""Bringing the values of a data set to one scale, by statistics of training rows alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from fedkt.data.dataset import WHITE, Dataset
from fedkt.data.splits import Array
from fedkt.errors import ConfigError

AT_ONCE = 2**20  # values in float64 at a time
# Columns whose largest values differ by a larger factor get a note. Counts of words and features
# of pretrained networks stay below 250 (Office-Caltech, Amazon); tables of measurements do not.
MUCH = 500

Scale = Literal["none", "unit", "standardise"]
# A scale with its statistics, as values that JSON knows: ``how`` and, of ``unit``, ``largest``,
# the value that becomes 1; of ``standardise`` ``mean`` and ``factor``, one for each column.
Statistics = Mapping[str, Any]


def scaled(dataset: Dataset, how: str | None, held_out: Array) -> tuple[Dataset, tuple[str, ...]]:
    """Return a data set on the scale asked for, and notes for the reader of the results.

    Parameters
    ----------
    dataset : Dataset
        As stored.
    how : str, optional
        See :func:`fitted_scale`.
    held_out : ndarray
        bool ``[N]``: the training rows that no statistic may know.

    Returns
    -------
    Dataset
        As of :func:`rescaled`.
    tuple[str, ...]
        Notes.
    """
    known = dataset.x_train[~held_out]
    statistics, notes = fitted_scale(dataset.name, known, dataset.layout, how)
    return rescaled(dataset, statistics), notes


def fitted_scale(
    name: str, known: Array, layout: str, how: str | None
) -> tuple[Statistics, tuple[str, ...]]:
    """Return a scale with its statistics, and notes for the reader of the results.

    Parameters
    ----------
    name : str
        The data set, for the notes.
    known : ndarray
        The samples that statistics may know, as stored.
    layout : str
        What their axes mean.
    how : str, optional
        ``none``: values as stored; ``unit``: bytes divided by 255, floats by the largest
        absolute value, or by 1 if that is smaller; ``standardise``: every column of vectors and
        every channel of series and images gets mean 0 and variance 1, then missing values
        become 0, the mean. By default ``unit`` for images, unless they are floats outside of
        [0, 255], and ``none`` for all else.

    Raises
    ------
    ConfigError
        For token ids, if they should get a scale.
    """
    if layout == "tokens":
        if how not in (None, "none"):
            raise ConfigError(f"{name} holds token ids; they have no scale {how!r}.")
        return {"how": "none"}, ()
    notes: tuple[str, ...] = ()
    columns = known.reshape(-1, columns_of(known, layout))
    if how is None:
        how, note = _default(name, columns, layout)
        notes = (note,) if note else ()
    return {"how": how, **STATISTICS[how](columns)}, notes


def rescaled(dataset: Dataset, statistics: Statistics) -> Dataset:
    """Return a data set on a scale: the same object, or one in float32.

    Images in bytes on the unit scale stay in bytes, see :func:`model_inputs`.
    """
    x_train, x_test = (
        stored_on_scale(x, dataset.layout, statistics) for x in (dataset.x_train, dataset.x_test)
    )
    if x_train is dataset.x_train and x_test is dataset.x_test:
        return dataset
    return replace(dataset, x_train=x_train, x_test=x_test)


def stored_on_scale(x: Array, layout: str, statistics: Statistics) -> Array:
    """Return stored samples on a scale: the same array where models see it so, else float32."""
    seen_as_unit = layout == "image" and x.dtype == np.uint8
    if statistics["how"] == ("unit" if seen_as_unit else "none"):
        return x
    return on_scale(x, statistics)


def on_scale(x: Array, statistics: Statistics) -> Array:
    """Return values on a scale, float32 in the shape of ``x``."""
    if statistics["how"] == "none":
        return x.astype(np.float32)
    if statistics["how"] == "unit":
        return x.astype(np.float32) / np.float32(statistics["largest"])
    mean, factor = (np.array(statistics[key]) for key in ("mean", "factor"))
    blocks = _blocks(x.reshape(-1, len(mean)))
    out = [np.nan_to_num((b - mean) * factor).astype(np.float32) for b in blocks]
    return np.concatenate(out or [np.empty(0, np.float32)]).reshape(x.shape)


def standard_statistics(known: Array) -> dict[str, Any]:
    """Return ``mean`` and ``factor`` of the columns of values that may be known.

    Parameters
    ----------
    known : ndarray
        ``[n, d]``; NaN = missing.

    Returns
    -------
    dict
        By which, over the present known values, each column gets mean 0 and variance 1
        (population variance), missing values become 0, and so do columns of which no two
        different values are known.
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
    return {"mean": mean.tolist(), "factor": factor.tolist()}


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


def columns_of(x: Array, layout: str) -> int:
    """Return how many columns or channels stored samples have; grey images have one."""
    return 1 if layout == "image" and x.ndim == 3 else x.shape[-1]


def _default(name: str, columns: Array, layout: str) -> tuple[str, str]:
    """Return the default scale of samples, by columns, and a note, which may be empty."""
    if layout == "image":
        low, high = float(columns.min()), float(columns.max())
        if low >= 0 and high <= WHITE:
            return "unit", ""
        return "none", (
            f"{name}: float images with values from {low:.3g} to {high:.3g} are left as "
            "stored; data.scale says how to scale them, data.layout if they are no images"
        )
    largest = np.nan_to_num(np.abs(columns)).max(0).astype(np.float64)
    ratio = largest.max() / largest[largest > 0].min(initial=np.inf)
    if ratio <= MUCH:
        return "none", ""
    key = "features" if layout == "vector" else "scale"
    return "none", (
        f"{name}: the largest values of its columns differ by a factor of {ratio:,.0f}; "
        f'data.{key} = "standardise" brings them to one scale'
    )


def _unit_statistics(known: Array) -> dict[str, Any]:
    """Return ``largest``: of bytes 255, of floats their largest absolute value, at least 1."""
    largest = (
        WHITE if known.dtype == np.uint8 else max(float(np.nan_to_num(np.abs(known)).max()), 1.0)
    )
    return {"largest": float(largest)}


def _blocks(values: Array) -> Iterator[Array]:
    """Yield some rows of ``[n, d]`` after the other in float64."""
    rows = max(AT_ONCE // values.shape[1], 1)
    for start in range(0, len(values), rows):
        yield values[start : start + rows].astype(np.float64)


STATISTICS: dict[str, Callable[[Array], dict[str, Any]]] = {
    "none": lambda known: {},
    "unit": _unit_statistics,
    "standardise": standard_statistics,
}
