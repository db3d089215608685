"""Tables: pandas frames, which files of tables are read into."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fedkt.data.class_labels import encoded_labels
from fedkt.data.dataset import Dataset, Unlabelled, hold_out_rows
from fedkt.data.encoding import column_names, encoded, fitted, unseen_notes
from fedkt.data.readers.token_rows import IDS, tokens_of
from fedkt.data.reading import Reader, Reading, Rows, data_of
from fedkt.data.splits import Array
from fedkt.errors import ConfigError, unknown
from fedkt.registry import register

if TYPE_CHECKING:
    import pandas as pd

# What a label column is called where nobody says it, if just one of these is there.
LABELS = ("label", "labels", "target", "class", "y")
PARTS: Mapping[str, str] = {
    **dict.fromkeys(("train", "training", "validation", "valid", "val", "dev"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
}


@register(name="frame")
class FrameReader(Reader):
    """pandas frames: one column is the label, the others are encoded as numbers."""

    @staticmethod
    def takes(source: Any) -> bool:
        """Return whether the source is a frame of pandas."""
        return type(source).__module__.partition(".")[0] == "pandas" and hasattr(source, "columns")

    @staticmethod
    def read(source: Any, reading: Reading) -> Dataset | Unlabelled:
        """Return the table as a data set."""
        return of_frame(source, reading)


def of_frame(
    frame: pd.DataFrame,
    reading: Reading,
    labels: Array | None = None,
    classes: tuple[str, ...] = (),
) -> Dataset | Unlabelled:
    """Return a table as a data set of vectors, or of token ids if it has a column of them.

    Categories are encoded by the training part alone, see :mod:`fedkt.data.encoding`.

    Parameters
    ----------
    frame : pandas.DataFrame
        One row a sample.
    reading : Reading
        Which columns hold labels, clients and parts. They are no inputs.
    labels : ndarray, optional
        Those of the rows, where they are no column.
    classes : tuple[str, ...]
        The class names, where the source knows them.

    Raises
    ------
    ConfigError
        If a column that was named is not there, or labels or values cannot be used.
    """
    frame = frame.reset_index(drop=True)
    frame.columns = [str(name) for name in frame.columns]
    if twice := next((c for c in frame.columns if (frame.columns == c).sum() > 1), ""):
        raise ConfigError(f"{reading.name} has two columns called {twice!r}.")
    if frame.empty:
        raise ConfigError(f"{reading.name} is empty.")
    label = _label(frame, reading) if labels is None else ""
    inputs = frame.drop(columns=[c for c in (label, reading.client, reading.split) if c in frame])
    y = _plain(frame[label], reading) if label else labels
    if y is not None:
        key = f"column {label!r}" if label else "y"
        (y,), classes = encoded_labels(reading.name, [y], classes, [key])
    client = reading.column("client", frame.columns)
    beside = {"client": _plain(frame[client], reading)} if client else {}
    train = test = np.arange(len(frame))
    parted = y is not None
    if y is not None and (split := reading.column("split", frame.columns)):
        part = parts_of(frame[split], reading)
        train, test = np.flatnonzero(part == "train"), np.flatnonzero(part == "test")
    elif y is not None:
        test = hold_out_rows(reading.name, y)
        train = np.setdiff1d(train, test, assume_unique=True)
    x, about = _inputs(inputs, train, test if parted else train[:0], reading)
    rows = Rows(x, y, beside)
    tested = rows.at(test) if parted else None
    return data_of(reading, rows.at(train), tested, classes=classes, **about)


def _inputs(
    inputs: pd.DataFrame, train: Array, test: Array, reading: Reading
) -> tuple[Array, dict[str, Any]]:
    """Return the inputs of all rows, and the fields of a data set about them."""
    if IDS in inputs:
        return tokens_of(inputs, reading.name), {"layout": "tokens"}
    if reading.layout == "tokens":
        return inputs.to_numpy(), {}
    encoding, notes = fitted(inputs.iloc[train])
    notes += unseen_notes(inputs.iloc[test], encoding)
    x = encoded(inputs, encoding, reading.name)
    notes = [f"{reading.name}: {note}" for note in notes]
    about: dict[str, Any] = {"columns": column_names(encoding), "notes": tuple(notes)}
    return x, {**about, "encoding": encoding, "layout": "vector"}


def _label(frame: pd.DataFrame, reading: Reading) -> str:
    """Return the name of the label column; empty where there is none and none is needed."""
    if reading.label in frame.columns and reading.label:
        return reading.label
    usual = [name for name in frame.columns if name.lower() in LABELS]
    if not reading.label and len(usual) == 1:
        return str(usual[0])
    if not reading.needs_labels:
        return ""
    if reading.label:
        raise unknown(f"label column of {reading.name}", reading.label, frame.columns)
    raise ConfigError(
        f"{reading.name} has the columns {', '.join(frame.columns)}; say which is the label: "
        "data.label = NAME."
    )


def parts_of(column: pd.Series[Any], reading: Reading) -> Array:
    """Return ``train`` or ``test`` for each row, of the column that says it.

    Raises
    ------
    ConfigError
        If it holds anything else, or no row is of one of both.
    """
    parts = column.astype(str).str.lower().map(PARTS)
    if parts.isna().any():
        raise ConfigError(
            f"{reading.name}: column {reading.split!r} holds {column[parts.isna()].iloc[0]!r}; "
            f"allowed are {', '.join(PARTS)}."
        )
    if absent := {"train", "test"} - set(parts):
        raise ConfigError(f"{reading.name}: no row of column {reading.split!r} is {absent.pop()}.")
    return np.asarray(parts.to_numpy())


def _plain(column: pd.Series[Any], reading: Reading) -> Array:
    """Return a column as an array of the type that its values have; missing ones are errors."""
    if missing := int(column.isna().sum()):
        raise ConfigError(
            f"{reading.name}: column {column.name!r} is empty in {missing} of {len(column)} "
            "rows; drop them or fill it."
        )
    return np.array(column.tolist())
