"""Labels of any type as numbers 0, ..., K - 1 and the names of the K classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedkt.data.splits import Array, Ints
from fedkt.errors import ConfigError

NOT_HERE = (
    "fedkt does single-label classification; regression, multi-label and segmentation are not "
    "here yet"
)
# Whole floats with more different values than this, in more than half of the rows, are measured.
MANY = 20


def encoded_labels(
    name: str, labels: Sequence[Array], classes: Sequence[str] = (), keys: Sequence[str] = ("y",)
) -> tuple[list[Ints], tuple[str, ...]]:
    """Return the labels of one data set as numbers from 0, and the class names.

    Parameters
    ----------
    name : str
        The data set, for messages.
    labels : Sequence[ndarray]
        The labels of its parts, ``[N]`` or ``[N, 1]``: strings, integers, booleans or floats
        that are whole; or one-hot ``[N, K]``.
    classes : Sequence[str]
        The names of the K classes in order, where they are known. Labels are then numbers from 0
        or from 1, or the names themselves.
    keys : Sequence[str]
        What each part is called in messages.

    Returns
    -------
    list[ndarray]
        int64 ``[N]`` each. Integers of which the smallest is 0 keep their values. All others are
        numbered in ascending order.
    tuple[str, ...]
        K names: those given, else the values as text.

    Raises
    ------
    ConfigError
        For missing labels, targets that are no single class, and labels outside of the names.
    """
    given = tuple(str(c) for c in classes)
    parts = [_plain(name, key, part) for key, part in zip(keys, labels, strict=True)]
    if len({part.dtype.kind == "U" for part in parts}) > 1:
        parts = [part.astype(str) for part in parts]
    values = np.unique(np.concatenate(parts))
    if not len(values):
        raise ConfigError(f"{name} is empty.")
    if values.dtype.kind == "U":
        if absent := sorted(set(values.tolist()) - set(given)) if given else []:
            raise ConfigError(
                f"{name}: a label is {absent[0]!r}; the class names are {', '.join(given)}."
            )
        names = np.array(given or values.tolist())
        order = np.argsort(names, kind="stable")
        return [order[np.searchsorted(names, p, sorter=order)] for p in parts], tuple(
            names.tolist()
        )
    if values.dtype.kind == "b":
        given, parts = given or ("False", "True"), [part.astype(np.int64) for part in parts]
        return parts, given
    if given:
        return _within(name, parts, values, given), given
    if values[0] == 0 and values[-1] < max(map(len, parts)) + len(values):
        return parts, tuple(str(k) for k in range(int(values[-1]) + 1))
    return [np.searchsorted(values, p) for p in parts], tuple(str(v) for v in values.tolist())


def _within(name: str, parts: list[Ints], values: Ints, names: Sequence[str]) -> list[Ints]:
    """Return integer labels as places in the list of names; they may be counted from 1."""
    low, high = int(values[0]), int(values[-1])
    if low == 1 and high == len(names):
        return [part - 1 for part in parts]
    if low < 0 or high >= len(names):
        raise ConfigError(
            f"{name}: a label is {low if low < 0 else high} but classes has {len(names)} names; "
            f"labels must lie in [0, {len(names) - 1}]."
        )
    return parts


def _plain(name: str, key: str, y: Array) -> Array:
    """Return labels ``[N]`` as strings, booleans or int64."""
    y = np.asarray(y)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim == 2 and _is_one_hot(y):
        return np.asarray(y.argmax(1), dtype=np.int64)
    if y.ndim != 1:
        raise ConfigError(f"{name}: {key} has shape {list(y.shape)}; {NOT_HERE}.")
    if y.dtype.kind == "O":
        y = _of_objects(name, key, y)
    if y.dtype.kind == "f":
        _check_whole(name, key, y)
    if y.dtype.kind in "iuf":
        return y.astype(np.int64)
    if y.dtype.kind in "SU":
        return y.astype(str)
    if y.dtype.kind == "b":
        return np.asarray(y)
    raise ConfigError(
        f"{name}: {key} has dtype {y.dtype}; labels are strings, integers, booleans or whole "
        "floats."
    )


def _is_one_hot(y: Array) -> bool:
    if y.dtype.kind not in "biuf":
        return False
    return bool(((y == 0) | (y == 1)).all() and (y.sum(1) == 1).all())


def _of_objects(name: str, key: str, y: Array) -> Array:
    """Return an array of Python objects as one of their common type, text where there is none."""
    # Only what is missing differs from itself; pandas' own mark cannot be compared.
    missing = [v is None or type(v).__name__ == "NAType" or v != v for v in y]
    if any(missing):
        raise ConfigError(
            f"{name}: {key} has no label in {sum(missing)} of {len(y)} rows; drop them or give one."
        )
    kinds = {type(v) for v in y}
    return np.array(y.tolist()) if len(kinds) == 1 and str not in kinds else y.astype(str)


def _check_whole(name: str, key: str, y: Array) -> None:
    if missing := int(np.isnan(y).sum()):
        raise ConfigError(
            f"{name}: {key} has no label in {missing} of {len(y)} rows; drop them or give one."
        )
    different = len(np.unique(y))
    whole = np.isfinite(y) & (y == np.floor(y))
    if not whole.all() or different > max(MANY, len(y) / 2):
        raise ConfigError(
            f"{name}: {key} holds {y.dtype} with {different} different values; {NOT_HERE}."
        )
