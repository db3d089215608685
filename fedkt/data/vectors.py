"""Forms of feature vectors that need no statistics of other rows."""

from __future__ import annotations

from typing import Literal

import numpy as np

from fedkt.data.dataset import D, complete, with_inputs
from fedkt.data.splits import Array
from fedkt.errors import ConfigError

Features = Literal["as-stored", "standardise", "log"]


def with_features(dataset: D, how: str) -> D:
    """Return a data set with its feature vectors in the form asked for.

    Parameters
    ----------
    dataset : Dataset or Unlabelled
        Of vectors, unless they are taken as stored.
    how : str
        ``log``, for counts: log(1 + count), then every row scaled to length √d (mean square 1;
        rows of zeros stay). ``as-stored`` and ``standardise`` change nothing here: the latter
        is a scale, see :mod:`fedkt.data.scaling`.

    Returns
    -------
    Dataset or Unlabelled
        The same object, or in float32.

    Raises
    ------
    ConfigError
        For images and series in another form than as stored, and for ``log`` of values below 0.
    """
    if how == "as-stored":
        return dataset
    if dataset.layout != "vector":
        raise ConfigError(
            f'features is "{how}" and {dataset.name} holds {_KINDS[dataset.layout]}; it is for '
            'feature vectors, scale = "standardise" is for all.'
        )
    if how == "standardise":
        return dataset
    for x in complete(dataset).inputs.values():
        if (low := float(x.min())) < 0:
            raise ConfigError(
                f'features is "log" and {dataset.name} holds {low:g}; counts are 0 or more.'
            )
    return with_inputs(dataset, damped)


def damped(counts: Array) -> Array:
    """Return log(1 + count) with rows of length √d, float32 ``[N, d]``.

    The logarithm damps frequent terms. The length takes out how long a text is, and brings
    sparse counts, most of which are 0, to the scale that networks are initialised for.
    """
    logs = np.log1p(counts, dtype=np.float32)
    length = np.sqrt(np.square(logs).mean(1, keepdims=True))
    out: Array = np.divide(logs, length, out=logs, where=length > 0)
    return out


_KINDS = {"image": "images", "series": "series", "tokens": "token ids"}
