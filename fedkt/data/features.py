"""What is done to feature vectors before anything else sees them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from fedkt.data.sources import Dataset, complete
from fedkt.data.splits import Array
from fedkt.errors import ConfigError

AS_STORED = "as-stored"


def with_features(dataset: Dataset, how: str) -> Dataset:
    """Return a data set with its feature vectors in the form asked for.

    Parameters
    ----------
    dataset : Dataset
        Images may only be taken as stored: they are scaled to [0, 1] in any case.
    how : str
        ``as-stored``; ``standardise``: every column centred and scaled to variance 1, by the
        present values of the training part of this very data set, then missing values set to
        0, which is the mean (constant columns become 0 altogether); ``log``, for counts:
        log(1 + count), then every row scaled to length √d (mean square 1; rows of zeros stay).

    Returns
    -------
    Dataset
        The same object for ``as-stored``, else in float32.

    Raises
    ------
    ConfigError
        For ``as-stored`` with missing values, images with another form, and logarithms of
        what are no counts.
    """
    if how == AS_STORED:
        return complete(dataset)
    if dataset.x_train.ndim != 2:
        raise ConfigError(
            f'features is "{how}" and {dataset.name} holds images, which are scaled to [0, 1] as '
            f'they are; use features = "{AS_STORED}".'
        )
    x_train, x_test = CHANGES[how](dataset)
    return replace(dataset, x_train=x_train, x_test=x_test)


def standardised(x_train: Array, x_test: Array) -> tuple[Array, Array]:
    """Standardise columns by the training part alone.

    Parameters
    ----------
    x_train, x_test : ndarray
        ``[N, d]`` and ``[T, d]``; NaN = missing.

    Returns
    -------
    tuple of two ndarrays
        float32: over the present training values each column has mean 0 and variance 1
        (population variance), missing values are 0, and so are columns of which the training
        part knows no two different values.
    """
    values = x_train.astype(np.float64)
    present = ~np.isnan(values)
    count = np.maximum(present.sum(0), 1)
    mean = np.where(present, values, 0).sum(0) / count
    variance = np.square(np.where(present, values - mean, 0)).sum(0) / count
    # Not by the variance: that of equal values is a rounding error, which would be blown up.
    varies = np.where(present, values, -np.inf).max(0) > np.where(present, values, np.inf).min(0)
    factor = np.where(varies, 1 / np.sqrt(np.where(varies, variance, 1)), 0)
    both = (np.nan_to_num((x - mean) * factor, nan=0.0) for x in (values, x_test))
    train, test = (x.astype(np.float32) for x in both)
    return train, test


def damped(counts: Array) -> Array:
    """Return log(1 + count) with rows of length √d, float32 ``[N, d]``.

    The logarithm damps frequent terms. The length takes out how long a text is, and brings
    sparse counts, most of which are 0, to the scale that networks are initialised for.
    """
    logs = np.log1p(counts, dtype=np.float32)
    length = np.sqrt(np.square(logs).mean(1, keepdims=True))
    out: Array = np.divide(logs, length, out=logs, where=length > 0)
    return out


def _standardise(dataset: Dataset) -> tuple[Array, Array]:
    return standardised(dataset.x_train, dataset.x_test)


def _log(dataset: Dataset) -> tuple[Array, Array]:
    for x in (complete(dataset).x_train, dataset.x_test):
        if (low := float(x.min())) < 0:
            raise ConfigError(
                f'features is "log" and {dataset.name} holds {low:g}; counts are 0 or more.'
            )
    return damped(dataset.x_train), damped(dataset.x_test)


CHANGES: dict[str, Callable[[Dataset], tuple[Array, Array]]] = {
    "standardise": _standardise,
    "log": _log,
}
FEATURES = (AS_STORED, *CHANGES)
