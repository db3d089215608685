"""A data set as it is stored: its arrays, what their axes mean, and what may be in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar, get_args

import numpy as np

from fedkt.data.class_labels import encoded_labels
from fedkt.data.splits import Array, Ints, stratified
from fedkt.errors import ConfigError, of_class, unknown
from fedkt.rng import numpy_rng

# For data without an official split; the same for every run, whatever its seed.
HOLD_OUT_SEED = 0
HOLD_OUT_FRACTION = 0.2
Layout = Literal["image", "series", "vector", "tokens"]
LAYOUTS: tuple[str, ...] = get_args(Layout)
WHITE = 255  # the largest byte
CHANNELS = {1, 3}  # grey, and red, green and blue


@dataclass(frozen=True, eq=False)
class Dataset:
    """A classification data set, as stored.

    Labels become int64 from 0, floats float32, token ids int64, and inputs take the axes of their
    layout on construction.

    Parameters
    ----------
    name : str
        The reference by which it was loaded.
    x_train, x_test : ndarray
        Images ``[N, H, W]``, ``[N, H, W, C]`` or ``[N, C, H, W]`` (C = 1 or 3), series
        ``[N, T, C]`` (``[N, T]``: of one channel), feature vectors ``[N, d]``, or token ids
        ``[N, L]``. Float vectors and series may hold NaN for missing values. Token ids may be
        packed with their attention mask, see :func:`fedkt.data.tokens.pack_tokens`.
    y_train, y_test : ndarray
        Labels of any type, see :func:`fedkt.data.class_labels.encoded_labels`; kept as int64
        ``[N]`` in [0, K).
    classes : tuple[str, ...]
        The K class names; by default the labels as text.
    domain_train, domain_test : ndarray, optional
        Integers or strings ``[N]``: the domain of each row, where the set holds several. They
        are checked when a federation asks for them; see :mod:`fedkt.data.columns`.
    domain_names : tuple[str, ...]
        The names of integer domains 0, 1, ...; by default their numbers.
    layout : {"", "image", "series", "vector", "tokens"}
        What the axes mean. Empty: two axes are vectors, or token ids where they hold integers
        of more than a byte and columns have no names; three or four are images. Vectors of more
        axes are flattened.
    columns : tuple[str, ...]
        The names of the columns of vectors, in order; dropped where samples are none.
    client_train, client_test : ndarray, optional
        Integers or strings ``[N]``: the natural client that each row is of. They are checked when
        a federation asks for them.
    encoding : Mapping
        How the columns came from those of a table as users have it, as values that JSON knows;
        see :mod:`fedkt.data.encoding`. Empty where nothing was encoded.
    notes : tuple[str, ...]
        What a reader of the results should know about the reading of the data.

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
    client_train: Array | None = None
    client_test: Array | None = None
    encoding: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        x_train = np.asarray(self.x_train)
        layout = self.layout or default_layout(x_train, self.columns)
        object.__setattr__(self, "layout", layout)
        for key in ("x_train", "x_test"):
            x = np.asarray(getattr(self, key))
            # One client of several may have no row to test on; see usable_alone.
            none = key == "x_test" and not len(x)
            x = self.x_train[:0] if none else checked_inputs(self.name, key, x, layout)
            object.__setattr__(self, key, x)
        labels, classes = self._checked_labels()
        for key, y in zip(("y_train", "y_test"), labels, strict=True):
            object.__setattr__(self, key, y)
        object.__setattr__(self, "classes", classes)
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
        object.__setattr__(
            self, "columns", checked_columns(self.name, self.columns, self.x_train, layout)
        )

    @property
    def inputs(self) -> dict[str, Array]:
        """The arrays of inputs, by the names of their fields."""
        return {"x_train": self.x_train, "x_test": self.x_test}

    @property
    def train(self) -> tuple[Array, Ints | None]:
        """The inputs of the training part, and its labels."""
        return self.x_train, self.y_train

    @property
    def num_classes(self) -> int:
        """The number of classes, K."""
        return len(self.classes)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one sample for models: ``(C, H, W)``, ``(T, C)``, ``(d,)`` or ``(L,)``."""
        return sample_shape(self.x_train, self.layout)

    def _checked_labels(self) -> tuple[list[Ints], tuple[str, ...]]:
        keys = ("y_train", "y_test")
        for key in keys:
            inputs = getattr(self, f"x_{key[2:]}")
            if (count := len(np.atleast_1d(getattr(self, key)))) != len(inputs):
                raise ConfigError(
                    f"{self.name}: {key} has {count} labels for {len(inputs)} samples in "
                    f"x_{key[2:]}; the lengths must agree."
                )
        labels, classes = encoded_labels(self.name, (self.y_train, self.y_test), self.classes, keys)
        return labels, classes


@dataclass(frozen=True, eq=False)
class Unlabelled:
    """Inputs without labels: what a public set normally is.

    Parameters
    ----------
    name : str
        The reference by which it was loaded.
    x : ndarray
        As :attr:`Dataset.x_train`.
    layout : {"", "image", "series", "vector", "tokens"}
        What the axes mean; by default as for a :class:`Dataset`.
    columns : tuple[str, ...]
        The names of the columns of vectors, in order.
    encoding : Mapping
        As :attr:`Dataset.encoding`.
    notes : tuple[str, ...]
        What a reader of the results should know about the reading of the data.

    Raises
    ------
    ConfigError
        Naming the set, the array at fault and what is allowed.
    """

    name: str
    x: Array
    layout: str = ""
    columns: tuple[str, ...] = ()
    encoding: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        x = np.asarray(self.x)
        layout = self.layout or default_layout(x, self.columns)
        object.__setattr__(self, "layout", layout)
        object.__setattr__(self, "x", checked_inputs(self.name, "x", x, layout))
        columns = checked_columns(self.name, self.columns, self.x, layout)
        object.__setattr__(self, "columns", columns)

    @property
    def inputs(self) -> dict[str, Array]:
        """The array of inputs, by the name of its field."""
        return {"x": self.x}

    @property
    def train(self) -> tuple[Array, Ints | None]:
        """All inputs; there are no labels."""
        return self.x, None

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of no classes."""
        return ()

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one sample as models see it."""
        return sample_shape(self.x, self.layout)


D = TypeVar("D", bound=Dataset | Unlabelled)


def with_inputs(dataset: D, change: Callable[[Array], Array]) -> D:
    """Return a data set with each array of inputs changed by a function."""
    changed: dict[str, Any] = {key: change(x) for key, x in dataset.inputs.items()}
    return replace(dataset, **changed)


def labelled(dataset: Dataset | Unlabelled) -> Dataset:
    """Return a data set that has labels.

    Raises
    ------
    ConfigError
        If it has none.
    """
    return of_class(
        dataset, Dataset, f"{dataset.name} has no labels; only a public set may have none."
    )


def usable_alone(dataset: D) -> D:
    """Return a data set as it is if it can be all data of a run; inputs alone can.

    One client of several may have a single class, and no row to test on.

    Raises
    ------
    ConfigError
        If all labels are equal, or there is no test row.
    """
    for key, x in dataset.inputs.items():
        if not len(x):
            raise ConfigError(f"{dataset.name}: {key} is empty (shape {list(x.shape)}).")
    if len(dataset.classes) == 1:
        raise ConfigError(f"{dataset.name}: all labels are equal; at least 2 classes are needed.")
    return dataset


def complete(dataset: D) -> D:
    """Return a data set as it is if no value is missing.

    Raises
    ------
    ConfigError
        Naming the array with gaps, and the option that fills them.
    """
    for key, x in dataset.inputs.items():
        if x.dtype.kind == "f" and (gaps := int(np.isnan(x).reshape(len(x), -1).any(1).sum())):
            raise ConfigError(
                f"{dataset.name}: {key} holds NaN or infinity in {gaps} of {len(x)} rows; fill or "
                'drop them, or set data.features = "standardise" (NaN = missing value).'
            )
    return dataset


def held_out(name: str, x: Array, y: Array, classes: tuple[str, ...] = ()) -> Dataset:
    """Return a data set without an official split: a fixed stratified 20 % is the test part."""
    test = hold_out_rows(name, y)
    train = np.setdiff1d(np.arange(len(y)), test, assume_unique=True)
    return Dataset(name, x[train], y[train], x[test], y[test], classes)


def hold_out_rows(name: str, y: Array) -> Ints:
    """Return the rows of the test part of data without an official split, int64, ascending.

    A single row, as a client may have, belongs to the training part.
    """
    if len(y) == 1:
        return np.empty(0, np.int64)
    rng = numpy_rng(HOLD_OUT_SEED, f"hold-out/{name}")
    return stratified(y, max(1, round(len(y) * HOLD_OUT_FRACTION)), rng)


def default_layout(x: Array, columns: tuple[str, ...] = ()) -> str:
    """Return what the axes of inputs mean where nobody says it."""
    if x.ndim != 2:
        return "image"
    return "tokens" if x.dtype.kind in "iu" and x.dtype.itemsize > 1 and not columns else "vector"


def sample_shape(x: Array, layout: str) -> tuple[int, ...]:
    """Return the shape of one sample as models see it, of stored inputs of a layout."""
    axes = x.shape[1:]
    return (*(axes[2:] or (1,)), *axes[:2]) if layout == "image" else tuple(axes)


def checked_columns(name: str, columns: tuple[str, ...], x: Array, layout: str) -> tuple[str, ...]:
    """Return the names of the columns of vectors; of other samples none."""
    names = tuple(str(c) for c in columns) if layout == "vector" else ()
    width = x.shape[-1]
    if names and len(names) != width:
        raise ConfigError(
            f"{name}: columns has {len(names)} names and vectors have {width} columns; each needs "
            "one."
        )
    return names


def checked_inputs(name: str, key: str, x: Array, layout: str) -> Array:
    """Return inputs in the axes and the dtype of their layout."""
    if layout not in LAYOUTS:
        raise unknown(f"layout of {name}", layout, LAYOUTS)
    fits = {
        "image": x.ndim == 3 or (x.ndim == 4 and {x.shape[1], x.shape[3]} & CHANNELS),
        "series": x.ndim in (2, 3),
        "vector": x.ndim >= 2,
        "tokens": x.ndim == 2,
    }
    if not fits[layout]:
        raise ConfigError(
            f"{name}: {key} has shape {list(x.shape)}; allowed are vectors and token ids [N, d], "
            'images [N, H, W], [N, H, W, 3] and [N, 3, H, W], and with layout "series" [N, T, C]; '
            'layout "vector" flattens any.'
        )
    if x.size == 0:
        raise ConfigError(f"{name}: {key} is empty (shape {list(x.shape)}).")
    if layout == "tokens":
        return _token_ids(name, key, x)
    if layout == "image" and x.ndim == 4 and x.shape[3] not in CHANNELS:
        x = np.moveaxis(x, 1, 3)  # as torch has them
    if layout != "image":
        x = x.reshape(len(x), -1) if layout == "vector" else x.reshape(*x.shape[:2], -1)
    if x.dtype == np.uint8:
        return x
    if x.dtype.kind not in "fiub":
        raise ConfigError(
            f"{name}: {key} has dtype {x.dtype}; allowed are numbers, of any kind. Text and "
            "categories are read from tables: a pandas frame or a .csv file."
        )
    if layout == "image" and x.dtype.kind in "iu" and x.min() >= 0 and x.max() <= WHITE:
        return x.astype(np.uint8)
    return _checked_floats(name, key, x.astype(np.float32, copy=False), layout)


def _checked_floats(name: str, key: str, x: Array, layout: str) -> Array:
    bad = ~np.isfinite(x) if layout == "image" else np.isinf(x)  # vectors may have gaps
    if bad.any():
        rows = int(bad.reshape(len(x), -1).any(1).sum())
        raise ConfigError(
            f"{name}: {key} holds NaN or infinity in {rows} of {len(x)} rows; fill or drop them."
        )
    return x


def _token_ids(name: str, key: str, x: Array) -> Array:
    """Return token ids, int64 ``[N, L]``."""
    if x.dtype.kind not in "iu" and not (x.dtype.kind == "f" and (x == np.floor(x)).all()):
        raise ConfigError(f"{name}: {key} has dtype {x.dtype}; token ids are integers [N, L].")
    return x.astype(np.int64)
