"""Data sets that hold several domains, told apart by a column: ``NAME/*`` and ``NAME/VALUE``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fedkt.data.dataset import Dataset, Unlabelled, labelled
from fedkt.data.reading import Reading
from fedkt.data.sources import PLAIN, data_path, is_dataset, npz_file, open_dataset
from fedkt.data.splits import Array
from fedkt.errors import ConfigError, unknown

ALL = "/*"


@dataclass(frozen=True, eq=False)
class Column:
    """The domain column of a data set.

    Parameters
    ----------
    names : tuple[str, ...]
        The domains: in the order of their names where the set has names, else ascending.
    train, test : ndarray
        Strings ``[N]``: the name of each row's domain.
    """

    names: tuple[str, ...]
    train: Array
    test: Array


def expand(
    references: Sequence[str],
    data_dir: str | Path | None = None,
    seed: int = 0,
    reading: Reading = PLAIN,
) -> tuple[str, ...]:
    """Return references with ``NAME/VALUE``, for each value of the set's column, for ``NAME/*``.

    Parameters
    ----------
    references : Sequence[str]
        See :func:`load_domain`.
    data_dir : str or Path, optional
        The folder with ``.npz`` files.
    seed : int
        For functions with a ``seed`` argument.
    reading : Reading
        Which columns of tables hold what.

    Returns
    -------
    tuple[str, ...]
        The references of single domains, in order. Sets without a star are not opened.

    Raises
    ------
    ConfigError
        If a set cannot be opened or has no usable column.
    """
    expanded: list[str] = []
    for reference in references:
        base = reference.removesuffix(ALL)
        if base == reference:
            expanded.append(reference)
        else:
            column = column_of(labelled(open_dataset(base, data_dir, seed, reading)))
            expanded += [f"{base}/{name}" for name in column.names]
    return tuple(expanded)


def load_domain(
    reference: str,
    data_dir: str | Path | None = None,
    seed: int = 0,
    reading: Reading = PLAIN,
    opened: dict[str, Dataset | Unlabelled] | None = None,
) -> Dataset | Unlabelled:
    """Load a data set, or the one domain ``VALUE`` of a set for ``NAME/VALUE``.

    ``opened`` keeps the sets that are open, by reference, for further domains of them.

    A data set of that very name, such as a file in a folder ``NAME``, takes
    precedence over a value. Missing values are kept; see :func:`fedkt.data.inputs.prepared`.

    Raises
    ------
    ConfigError
        If there is no such set, column or value, or the domain lacks a part.
    """
    base, value = base_of(reference, data_dir)
    opened = {} if opened is None else opened
    if base not in opened:
        opened[base] = open_dataset(base, data_dir, seed, reading)
    dataset = opened[base]
    return dataset if value is None else domain_of(labelled(dataset), value)


def base_of(reference: str, data_dir: str | Path | None = None) -> tuple[str, str | None]:
    """Return the data set that a reference names, and which of its domains (None: all of it)."""
    if not is_dataset(reference, data_dir):
        for place in (i for i, character in enumerate(reference) if character == "/"):
            base = reference[:place]
            if is_dataset(base, data_dir) and not _is_folder(base, data_dir):
                return base, reference[place + 1 :]
    return reference, None


def _is_folder(reference: str, data_dir: str | Path | None) -> bool:
    """Return whether a reference is that of a folder: each on the way to a file would be one."""
    path = data_path(reference, data_dir)
    return path is not None and path.is_dir() and not npz_file(reference, data_dir)


def domain_of(dataset: Dataset, value: str) -> Dataset:
    """Return one domain of a data set, called ``NAME/VALUE``; it has the classes of the whole.

    Raises
    ------
    ConfigError
        If the set has no domain of that name, or the domain no training or no test rows.
    """
    column = column_of(dataset)
    if value not in column.names:
        raise unknown(f"domain of {dataset.name}", value, column.names)
    train, test = column.train == value, column.test == value
    for split, rows in (("training", train), ("test", test)):
        if not rows.any():
            raise ConfigError(f"Domain {dataset.name}/{value} has no {split} rows.")
    return replace(
        dataset,
        name=f"{dataset.name}/{value}",
        x_train=dataset.x_train[train],
        y_train=dataset.y_train[train],
        x_test=dataset.x_test[test],
        y_test=dataset.y_test[test],
        domain_train=None,
        domain_test=None,
        domain_names=(),
        client_train=None if dataset.client_train is None else dataset.client_train[train],
        client_test=None if dataset.client_test is None else dataset.client_test[test],
    )


def column_of(dataset: Dataset) -> Column:
    """Return the domain column of a data set.

    Raises
    ------
    ConfigError
        If there is no domain column, or it does not fit the rows or the names of the set.
    """
    absent = (
        f"{dataset.name} has no domain column: arrays domain_train and domain_test (or "
        "client_train and client_test) must say which row is of which domain."
    )
    train, test = (values_of(dataset, "domain", split, absent) for split in ("train", "test"))
    if train.dtype.kind != test.dtype.kind:
        raise ConfigError(
            f"{dataset.name}: domain_train holds {train.dtype} and domain_test {test.dtype}; both "
            "must hold integers or both strings."
        )
    values = np.unique(np.concatenate([train, test]))
    names = dataset.domain_names
    if train.dtype.kind == "U":
        return Column(names or tuple(str(value) for value in values), train, test)
    if not names:
        return Column(tuple(str(value) for value in values), train.astype(str), test.astype(str))
    if values[0] < 0 or values[-1] >= len(names):
        outside = int(values[0] if values[0] < 0 else values[-1])
        raise ConfigError(
            f"{dataset.name}: a row is of domain {outside} but there are {len(names)} domain names."
        )
    called = np.array(names)
    return Column(names, called[train], called[test])


def values_of(dataset: Dataset, role: str, split: str, absent: str) -> Array:
    """Return the ``domain`` or ``client`` of each row of a part, int64 or strings ``[N]``.

    Parameters
    ----------
    dataset : Dataset
        With or without the column.
    role : str
        ``domain`` or ``client``.
    split : str
        ``train`` or ``test``.
    absent : str
        The line for a set without the column.

    Raises
    ------
    ConfigError
        If there is no such column, or it does not fit the rows.
    """
    column, rows = getattr(dataset, f"{role}_{split}"), len(getattr(dataset, f"y_{split}"))
    if column is None:
        raise ConfigError(absent)
    column = np.asarray(column)
    if column.dtype.kind == "O":
        column = column.astype(str)
    if column.shape != (rows,) or column.dtype.kind not in "iuU":
        raise ConfigError(
            f"{dataset.name}: {role}_{split} has shape {list(column.shape)} and dtype "
            f"{column.dtype}; it must hold one integer or string for each of {rows} rows."
        )
    # Bytes would overflow as indices into many names.
    return column.astype(np.int64) if column.dtype.kind != "U" else column
