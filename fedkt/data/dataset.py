"""A data set as it is stored: its arrays, what their axes mean, and what may be in them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from fedkt.data.splits import Array, stratified
from fedkt.errors import ConfigError, unknown
from fedkt.rng import numpy_rng

# For data without an official split; the same for every run, whatever its seed.
HOLD_OUT_SEED = 0
HOLD_OUT_FRACTION = 0.2
Layout = Literal["image", "series", "vector"]
LAYOUTS: tuple[str, ...] = get_args(Layout)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A classification data set, as stored.

    Labels become int64, floats float32, and inputs take the axes of their layout on
    construction.

    Parameters
    ----------
    name : str
        The reference by which it was loaded.
    x_train, x_test : ndarray
        uint8 or float: images ``[N, H, W]`` or ``[N, H, W, C]`` (C = 1 or 3), series
        ``[N, T, C]`` (``[N, T]``: of one channel), or feature vectors ``[N, d]``. Float vectors
        and series may hold NaN for missing values.
    y_train, y_test : ndarray
        Integers ``[N]`` in [0, K).
    classes : tuple[str, ...]
        The K class names; by default ``"0"``, ``"1"``, ... up to the largest label.
    domain_train, domain_test : ndarray, optional
        Integers or strings ``[N]``: the domain of each row, where the set holds several. They
        are checked when a federation asks for them; see :mod:`fedkt.data.columns`.
    domain_names : tuple[str, ...]
        The names of integer domains 0, 1, ...; by default their numbers.
    layout : {"", "image", "series", "vector"}
        What the axes mean. Empty: two axes are vectors, three or four are images. Vectors of
        more axes are flattened.
    columns : tuple[str, ...]
        The names of the columns of vectors, in order; dropped where samples are none.

    Raises
    ------
    ConfigError
        Naming the set, the array at fault and what is allowed.
    """

    name: str
    x_train: Array
    y_train: Array
    x_test: Array
    y_test: Array
    classes: tuple[str, ...] = ()
    domain_train: Array | None = None
    domain_test: Array | None = None
    domain_names: tuple[str, ...] = ()
    layout: str = ""
    columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.layout not in ("", *LAYOUTS):
            raise unknown(f"layout of {self.name}", self.layout, LAYOUTS)
        if not self.layout:
            object.__setattr__(self, "layout", "vector" if np.ndim(self.x_train) == 2 else "image")
        for split in ("train", "test"):
            for key in (f"x_{split}", f"y_{split}"):
                object.__setattr__(self, key, np.asarray(getattr(self, key)))
            x = _checked_inputs(self.name, f"x_{split}", getattr(self, f"x_{split}"), self.layout)
            y = _checked_labels(self.name, f"y_{split}", getattr(self, f"y_{split}"), len(x))
            object.__setattr__(self, f"x_{split}", x)
            object.__setattr__(self, f"y_{split}", y)
        if self.x_train.shape[1:] != self.x_test.shape[1:]:
            raise ConfigError(
                f"{self.name}: x_train holds samples of shape {list(self.x_train.shape[1:])} but "
                f"x_test of shape {list(self.x_test.shape[1:])}; they must agree."
            )
        if self.x_train.dtype != self.x_test.dtype:
            raise ConfigError(
                f"{self.name}: x_train has dtype {self.x_train.dtype} but x_test "
                f"{self.x_test.dtype}; they must agree."
            )
        object.__setattr__(self, "classes", self._checked_classes())
        object.__setattr__(self, "columns", self._checked_columns())

    @property
    def num_classes(self) -> int:
        """The number of classes, K."""
        return len(self.classes)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one sample as models see it: ``(C, H, W)``, ``(T, C)`` or ``(d,)``."""
        axes = self.x_train.shape[1:]
        if self.layout != "image":
            return tuple(axes)
        return (*(axes[2:] or (1,)), *axes[:2])

    def _checked_classes(self) -> tuple[str, ...]:
        low = int(min(self.y_train.min(), self.y_test.min()))
        high = int(max(self.y_train.max(), self.y_test.max()))
        names = tuple(str(c) for c in self.classes)
        if low < 0 or (low > 0 and not names):
            raise ConfigError(f"{self.name}: labels start at {low}; they must be 0, ..., K - 1.")
        if names and high >= len(names):
            raise ConfigError(
                f"{self.name}: a label is {high} but classes has {len(names)} names; labels must "
                f"lie in [0, {len(names) - 1}]."
            )
        classes = names or tuple(str(k) for k in range(high + 1))
        if len(classes) < 2:
            raise ConfigError(f"{self.name}: all labels are equal; at least 2 classes are needed.")
        return classes

    def _checked_columns(self) -> tuple[str, ...]:
        names = tuple(str(c) for c in self.columns) if self.layout == "vector" else ()
        width = self.x_train.shape[-1]
        if names and len(names) != width:
            raise ConfigError(
                f"{self.name}: columns has {len(names)} names and vectors have {width} columns; "
                "each needs one."
            )
        return names


def laid_out(dataset: Dataset, layout: str) -> Dataset:
    """Return a data set whose axes mean ``layout``; with an empty one, the same data set."""
    return replace(dataset, layout=layout) if layout else dataset


def complete(dataset: Dataset) -> Dataset:
    """Return a data set as it is if no value is missing.

    Raises
    ------
    ConfigError
        Naming the array with gaps, and the option that fills them.
    """
    for key in ("x_train", "x_test"):
        x = getattr(dataset, key)
        if x.dtype.kind == "f" and (gaps := int(np.isnan(x).reshape(len(x), -1).any(1).sum())):
            raise ConfigError(
                f"{dataset.name}: {key} holds NaN or infinity in {gaps} of {len(x)} rows; fill or "
                'drop them, or set data.features = "standardise" (NaN = missing value).'
            )
    return dataset


def held_out(name: str, x: Array, y: Array, classes: tuple[str, ...] = ()) -> Dataset:
    """Return a data set without an official split: a fixed stratified 20 % is the test part."""
    rng = numpy_rng(HOLD_OUT_SEED, f"hold-out/{name}")
    test = stratified(y, max(1, round(len(y) * HOLD_OUT_FRACTION)), rng)
    train = np.setdiff1d(np.arange(len(y)), test, assume_unique=True)
    return Dataset(name, x[train], y[train], x[test], y[test], classes)


def _checked_inputs(name: str, key: str, x: Array, layout: str) -> Array:
    """Return inputs in the axes and the dtype of their layout."""
    fits = {
        "image": x.ndim == 3 or (x.ndim == 4 and x.shape[3] in (1, 3)),
        "series": x.ndim in (2, 3),
        "vector": x.ndim >= 2,
    }
    if not fits[layout]:
        raise ConfigError(
            f"{name}: {key} has shape {list(x.shape)}; allowed are vectors [N, d], images "
            '[N, H, W] and [N, H, W, 3], and with layout "series" [N, T, C]; layout "vector" '
            "flattens any."
        )
    if x.size == 0:
        raise ConfigError(f"{name}: {key} is empty (shape {list(x.shape)}).")
    if layout != "image":
        x = x.reshape(len(x), -1) if layout == "vector" else x.reshape(*x.shape[:2], -1)
    if x.dtype == np.uint8:
        return x
    if x.dtype.kind != "f":
        raise ConfigError(f"{name}: {key} has dtype {x.dtype}; allowed are uint8 and floats.")
    out = x.astype(np.float32, copy=False)
    bad = ~np.isfinite(out) if layout == "image" else np.isinf(out)  # vectors may have gaps
    if bad.any():
        rows = int(bad.reshape(len(out), -1).any(1).sum())
        raise ConfigError(
            f"{name}: {key} holds NaN or infinity in {rows} of {len(out)} rows; fill or drop them."
        )
    return out


def _checked_labels(name: str, key: str, y: Array, rows: int) -> Array:
    if y.ndim != 1 or y.dtype.kind not in "iu":
        raise ConfigError(
            f"{name}: {key} has shape {list(y.shape)} and dtype {y.dtype}; labels must be "
            "integers [N]."
        )
    if len(y) != rows:
        raise ConfigError(
            f"{name}: {key} has {len(y)} labels for {rows} samples in x_{key[2:]}; the lengths "
            "must agree."
        )
    return y.astype(np.int64)
