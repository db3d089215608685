"""What is asked of a reader of data, and the data set that its rows become."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from fedkt.data.class_labels import NOT_HERE, encoded_labels
from fedkt.data.dataset import Dataset, Unlabelled, hold_out_rows
from fedkt.data.splits import Array
from fedkt.errors import ConfigError, unknown
from fedkt.text import one_line

ROLES = ("label", "client", "split")


@dataclass(frozen=True, eq=False)
class Reading:
    """What is asked of a reader.

    Parameters
    ----------
    name : str
        What the data set is called.
    label, client, split : str
        The columns with the labels, the natural clients, and ``train`` or ``test`` for each row.
        Empty: labels are looked for under usual names, the others are not there.
    layout : str
        What the axes of the inputs mean; empty: as the source says.
    input_shape : tuple[int, ...]
        What images of different sizes are brought to.
    needs_labels : bool
        Whether a source without labels, or without a column that was named, is refused.
    """

    name: str = ""
    label: str = ""
    client: str = ""
    split: str = ""
    layout: str = ""
    input_shape: tuple[int, ...] = ()
    needs_labels: bool = False

    def __post_init__(self) -> None:
        for role in ROLES:
            if not isinstance(name := getattr(self, role), str):
                several = f"; {NOT_HERE}" if role == "label" else ""
                raise ConfigError(
                    f"{role} is {one_line(repr(name))}; it must be the name of a column{several}."
                )

    def column(self, role: str, columns: Collection[str]) -> str:
        """Return the column with a role, ``client`` or ``split``; empty where there is none.

        Raises
        ------
        ConfigError
            If one was named that is not there, unless labels may be missing too.
        """
        name: str = getattr(self, role)
        if name and name not in columns and self.needs_labels:
            raise unknown(f"{role} column of {self.name}", name, columns)
        return name if name in columns else ""


@dataclass(frozen=True, eq=False)
class Rows:
    """Some rows of a source.

    Parameters
    ----------
    x : ndarray
        Inputs ``[N, ...]``.
    y : ndarray, optional
        Labels of any type, ``[N, ...]``.
    beside : Mapping[str, ndarray]
        ``domain`` and ``client`` of each row, ``[N]``, as far as they are known.
    """

    x: Array
    y: Array | None = None
    beside: Mapping[str, Array] = field(default_factory=dict)

    def at(self, chosen: Array) -> Rows:
        """Return the rows at some places."""
        beside = {key: values[chosen] for key, values in self.beside.items()}
        return Rows(self.x[chosen], None if self.y is None else self.y[chosen], beside)


class Reader:
    """Base of what reads one kind of source; registered as part "readers".

    A reader has no state: both methods are static.
    """

    part: ClassVar[str] = "readers"

    @staticmethod
    def takes(source: Any) -> bool:
        """Return whether a source, a path or an object of Python, is of this kind."""
        raise NotImplementedError  # a base: each kind has its own

    @staticmethod
    def read(source: Any, reading: Reading) -> Dataset | Unlabelled:
        """Return the data set, or the inputs where the source has no labels.

        Raises
        ------
        ConfigError
            Naming the source, what is wrong and what is allowed.
        """
        raise NotImplementedError  # a base: each kind has its own


def data_of(
    reading: Reading,
    train: Rows,
    test: Rows | None = None,
    *,
    classes: tuple[str, ...] = (),
    layout: str = "",
    **about: Any,
) -> Dataset | Unlabelled:
    """Return rows as a data set, or as inputs alone where they have no labels.

    Parameters
    ----------
    reading : Reading
        What was asked for.
    train, test : Rows
        Without a test part a fixed stratified 20 % of the rows are held out.
    classes : tuple[str, ...]
        The class names, where the source knows them.
    layout : str
        What the axes mean by the source; what was asked for takes precedence.
    **about
        Other fields of a :class:`Dataset`.

    Raises
    ------
    ConfigError
        If labels, clients or parts are asked for and there are none, or as for a
        :class:`Dataset`.
    """
    name, layout = reading.name, reading.layout or layout
    if train.y is None:
        if reading.needs_labels:
            raise ConfigError(f"{name} has no labels; only a public set may have none.")
        about = {key: about[key] for key in ("columns", "encoding", "notes") if key in about}
        return Unlabelled(name, train.x, layout, **about)
    for role, known in (("client", "client" in train.beside), ("split", test is not None)):
        column = getattr(reading, role)
        if column and not known and reading.needs_labels:
            raise ConfigError(
                f"{name}: there are no columns, and data.{role} is {column!r}; leave that out."
            )
    if test is None:
        train, test, classes = _held_out(name, train, classes)
    assert train.y is not None
    assert test.y is not None
    columns = _columns(train, test)
    return Dataset(
        name, train.x, train.y, test.x, test.y, classes, layout=layout, **columns, **about
    )


def _held_out(
    name: str, rows: Rows, classes: tuple[str, ...]
) -> tuple[Rows, Rows, tuple[str, ...]]:
    """Return a training and a test part of rows, and the class names."""
    assert rows.y is not None
    (labels,), classes = encoded_labels(name, [rows.y], classes)
    if len(labels) != len(rows.x):
        raise ConfigError(
            f"{name}: there are {len(labels)} labels for {len(rows.x)} samples; the lengths "
            "must agree."
        )
    whole, chosen = Rows(rows.x, labels, rows.beside), hold_out_rows(name, labels)
    left = np.setdiff1d(np.arange(len(labels)), chosen, assume_unique=True)
    return whole.at(left), whole.at(chosen), classes


def _columns(train: Rows, test: Rows) -> dict[str, Any]:
    """Return what stands beside the rows of both parts; without domains clients are those too."""
    columns: dict[str, Any] = {
        f"{key}_{split}": part.beside[key]
        for split, part in (("train", train), ("test", test))
        for key in train.beside.keys() & test.beside.keys()
    }
    if "client_train" in columns and "domain_train" not in columns:
        columns |= {f"domain_{split}": columns[f"client_{split}"] for split in ("train", "test")}
    return columns
