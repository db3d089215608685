"""Columns of a table as users have it, as numbers: declared, fitted on training rows alone.

An encoding is plain data that JSON knows::

    {"columns": [{"name": "age", "kind": "number"},
                 {"name": "seen", "kind": "date"},
                 {"name": "sex", "kind": "category", "values": ["f", "m"], "rest": False},
                 {"name": "remark", "kind": "text"}]}

A number stays a number, and a missing one NaN: what fills it is a scale, see
:mod:`fedkt.data.scaling`. A date is the days since 1970. A category has one column of 0 and 1 for
each of its values; a missing value is a value too, and rare ones share a column (``rest``). Other
text is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fedkt.data.splits import Array
from fedkt.errors import ConfigError, unknown

if TYPE_CHECKING:
    import pandas as pd

Encoding = Mapping[str, Any]

MISSING = "missing"
REST = "other values"
# Most values of a category that get a column of their own; the rarest others share one.
MOST_VALUES = 50
# Text with more values than FEW, different in more than a part of the rows, is no category.
FEW = 10
MOSTLY_DIFFERENT = 0.5


def fitted(frame: pd.DataFrame) -> tuple[Encoding, list[str]]:
    """Return the encoding of a table's columns by its training rows, and notes.

    Parameters
    ----------
    frame : pandas.DataFrame
        The training rows, without labels.
    """
    columns, notes = [], []
    for name in frame.columns:
        kind = _kind(frame[name])
        if kind != "category":
            columns.append({"name": str(name), "kind": kind})
            continue
        values = _texts(frame[name])
        different = len(np.unique(values))
        if different > max(FEW, MOSTLY_DIFFERENT * len(values)):
            notes.append(
                f"column {name!r} is left out: {different:,} different texts in {len(values):,} "
                "rows"
            )
            columns.append({"name": str(name), "kind": "text"})
        else:
            columns.append({"name": str(name), "kind": kind, **_vocabulary(values)})
    return {"columns": columns}, notes


def inputs_of(encoding: Encoding) -> list[Mapping[str, Any]]:
    """Return the columns of a table that are not left out."""
    return [column for column in encoding["columns"] if column["kind"] != "text"]


def column_names(encoding: Encoding) -> tuple[str, ...]:
    """Return the names of the columns of encoded vectors: ``age``, ``sex=f``, ``sex=m``."""
    return tuple(name for column in inputs_of(encoding) for name in _names(column))


def encoded(frame: pd.DataFrame, encoding: Encoding, what: str) -> Array:
    """Return the rows of a table as vectors, float32 ``[N, d]``; NaN = missing number.

    Parameters
    ----------
    frame : pandas.DataFrame
        With at least the columns of the encoding, in any order.
    encoding : Mapping
        See :func:`fitted`.
    what : str
        The table, for messages.

    Raises
    ------
    ConfigError
        If a column is not there, or holds text where numbers are needed.
    """
    known = {str(name): frame[name] for name in frame.columns}
    blocks = []
    for column in inputs_of(encoding):
        if column["name"] not in known:
            raise unknown(f"column of {what}", column["name"], known)
        blocks.append(_ENCODERS[column["kind"]](known[column["name"]], column, what))
    if not blocks:
        raise ConfigError(
            f"{what} has no columns that are inputs; text is tokenised first, as a column "
            "input_ids."
        )
    return np.concatenate(blocks, axis=1, dtype=np.float32)


def unseen_notes(frame: pd.DataFrame, encoding: Encoding) -> list[str]:
    """Return a note for each category with values in some rows that its encoding does not know."""
    notes = []
    for column in encoding["columns"]:
        if column["kind"] == "category" and not column["rest"]:
            new = set(_texts(frame[column["name"]]).tolist()) - set(column["values"])
            if new:
                which = ", ".join(sorted(new)[:3]) + (", ..." if len(new) > 3 else "")
                notes.append(
                    f"column {column['name']!r} has values in test rows that no training row has "
                    f"({which}): 0 in all its columns"
                )
    return notes


def aligned(x: Array, current: Encoding, wanted: Encoding, what: str) -> Array:
    """Return encoded vectors in another encoding of the same columns, float32 ``[N, d]``.

    Two tables that are read by themselves know other values of a category each. Values that the
    wanted encoding does not know are 0 in all columns, or count as its rest.

    Parameters
    ----------
    x : ndarray
        ``[N, e]``, encoded by ``current``.
    current, wanted : Mapping
        See :func:`fitted`.
    what : str
        The table, for messages.

    Raises
    ------
    ConfigError
        If a wanted column is not there, or of another kind.
    """
    if current == wanted:
        return x
    known = {column["name"]: column for column in current["columns"]}
    places = {name: place for place, name in enumerate(column_names(current))}
    blocks = []
    for column in inputs_of(wanted):
        name, kind = column["name"], column["kind"]
        if name not in known:
            raise unknown(f"column of {what}", name, known)
        if known[name]["kind"] != kind:
            raise ConfigError(
                f"Column {name!r} of {what} is a {known[name]['kind']}; where it goes with other "
                f"data it is a {kind}."
            )
        names = _names({**column, "rest": False})
        block = [
            x[:, places[key]] if key in places else np.zeros(len(x), np.float32) for key in names
        ]
        if kind == "category" and column["rest"]:
            block.append(1 - np.sum(block, axis=0))
        blocks += block
    return np.column_stack(blocks).astype(np.float32)


def joint(encodings: Sequence[Encoding]) -> Encoding:
    """Return one encoding of several tables of the same columns: all values of all categories.

    A column that is left out of one table, as text, is left out of all.

    Raises
    ------
    ConfigError
        If the columns differ, or a column is a number in one table and text in another.
    """
    columns: dict[str, dict[str, Any]] = {}
    for place, encoding in enumerate(encodings):
        for column in encoding["columns"]:
            first = columns.setdefault(column["name"], dict(column))
            if {first["kind"], column["kind"]} == {"category", "text"}:
                columns[column["name"]] = {"name": column["name"], "kind": "text"}
                continue
            if first["kind"] != column["kind"]:
                raise ConfigError(
                    f"Column {column['name']!r} is a {first['kind']} in one table and a "
                    f"{column['kind']} in table {place}; it must be the same in all."
                )
            if column["kind"] == "category":
                first["values"] = sorted({*first["values"], *column["values"]})
                first["rest"] = first["rest"] or column["rest"]
    return {"columns": list(columns.values())}


def _kind(values: pd.Series[Any]) -> str:
    from pandas.api import types

    if types.is_datetime64_any_dtype(values):
        return "date"
    return "number" if types.is_numeric_dtype(values) else "category"


def _vocabulary(values: Array) -> dict[str, Any]:
    """Return the values of a category that get a column, and whether others share one."""
    from sklearn.preprocessing import OneHotEncoder

    encoder = OneHotEncoder(max_categories=MOST_VALUES, handle_unknown="infrequent_if_exist")
    encoder.fit(values[:, None])
    rare = encoder.infrequent_categories_[0]
    known = encoder.categories_[0] if rare is None else np.setdiff1d(encoder.categories_[0], rare)
    return {"values": [str(value) for value in known], "rest": rare is not None}


def _names(column: Mapping[str, Any]) -> list[str]:
    if column["kind"] != "category":
        return [column["name"]]
    values = [*column["values"], *([REST] if column["rest"] else [])]
    return [f"{column['name']}={value}" for value in values]


def _texts(values: pd.Series[Any]) -> Array:
    """Return the values of a category as text; what is missing is a text of its own."""
    return np.array(
        [MISSING if gap else str(v) for v, gap in zip(values, values.isna(), strict=True)]
    )


def _number(values: pd.Series[Any], column: Mapping[str, Any], what: str) -> Array:
    import pandas as pd

    numbers = pd.to_numeric(values, errors="coerce").astype("float64")
    if (wrong := numbers.isna() & ~values.isna()).any():
        raise ConfigError(
            f"{what}: column {column['name']!r} holds {values[wrong].iloc[0]!r}, which is no "
            "number."
        )
    return np.asarray(numbers, dtype=np.float32)[:, None]


def _days(values: pd.Series[Any], column: Mapping[str, Any], what: str) -> Array:
    import pandas as pd

    dates = pd.to_datetime(values, utc=True)
    days = (dates - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(days=1)
    return np.asarray(days, dtype=np.float32)[:, None]


def _one_hot(values: pd.Series[Any], column: Mapping[str, Any], what: str) -> Array:
    out = (_texts(values)[:, None] == np.array(column["values"])[None]).astype(np.float32)
    return np.column_stack([out, 1 - out.sum(1)]).astype(np.float32) if column["rest"] else out


_ENCODERS = {"number": _number, "date": _days, "category": _one_hot}
