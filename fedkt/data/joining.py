"""One data set of several, each of which is a natural client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedkt.data.class_labels import encoded_labels
from fedkt.data.dataset import Dataset, hold_out_rows
from fedkt.data.encoding import aligned, column_names, joint
from fedkt.data.readers.plain_arrays import array_of
from fedkt.data.splits import Array, Ints
from fedkt.errors import ConfigError


class _Part(NamedTuple):
    """The arrays of one client."""

    x: dict[str, Array]  # "train" and "test", as stored
    y: dict[str, Ints]  # places in ``classes``
    classes: tuple[str, ...]
    layout: str = ""
    columns: tuple[str, ...] = ()
    encoding: Mapping[str, Any] = {}
    notes: tuple[str, ...] = ()


def joined_clients(
    given: Sequence[Dataset | tuple[Any, Any]],
    names: Sequence[str | int],
    name: str = "data",
    layout: str = "",
) -> Dataset:
    """Return one data set in which each of several is a natural client.

    Parameters
    ----------
    given : Sequence
        Data sets, or pairs ``(X, y)`` of arrays, of which a fixed stratified 20 % is held out.
        Classes are joined by their names, the labels of pairs by their values, so that a client
        may have some classes only; so are the categories of tables.
    names : Sequence[str] or Sequence[int]
        What the clients are called, each otherwise.
    name : str
        What the data set is called.
    layout : str
        What the axes of the samples mean; empty: as the data say.

    Raises
    ------
    ConfigError
        If two clients have one name, or their samples do not have the same form.
    """
    if not given or len(set(names)) < len(given):
        raise ConfigError(f"{name}: {len(given)} clients need as many names, each its own.")
    parts = _parts(given, names, name)
    classes = _all_classes([part.classes for part in parts])
    columns, encoding = parts[0].columns, parts[0].encoding
    if all(part.encoding for part in parts):
        encoding = joint([part.encoding for part in parts])
        columns = column_names(encoding)
    x = {split: _inputs(parts, names, split, columns, encoding) for split in ("train", "test")}
    places = [np.array([classes.index(c) for c in part.classes]) for part in parts]
    y = {
        split: np.concatenate(
            [place[part.y[split]] for place, part in zip(places, parts, strict=True)]
        )
        for split in x
    }
    owners = {
        split: np.repeat(np.array(names), [len(part.y[split]) for part in parts]) for split in x
    }
    return Dataset(
        name,
        x["train"],
        y["train"],
        x["test"],
        y["test"],
        classes,
        layout=layout or parts[0].layout,
        columns=columns,
        client_train=owners["train"],
        client_test=owners["test"],
        encoding=encoding,
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
    )


def _parts(
    given: Sequence[Dataset | tuple[Any, Any]], names: Sequence[str | int], name: str
) -> list[_Part]:
    """Return the arrays of each client; the labels of all pairs are read together."""
    pairs = [k for k, one in enumerate(given) if isinstance(one, tuple)]
    raw = [array_of(one[1]) for one in given if isinstance(one, tuple)]
    keys = [f"y of client {names[k]}" for k in pairs]
    labels, classes = encoded_labels(name, raw, (), keys) if pairs else ([], ())
    of_pair = dict(zip(pairs, labels, strict=True))
    parts = []
    for k, one in enumerate(given):
        if not isinstance(one, tuple):
            parts.append(
                _Part(
                    {"train": one.x_train, "test": one.x_test},
                    {"train": one.y_train, "test": one.y_test},
                    *(one.classes, one.layout, one.columns, one.encoding, one.notes),
                )
            )
            continue
        x, y = array_of(one[0]), of_pair[k]
        if len(x) != len(y) or not len(y):
            raise ConfigError(
                f"{name}: client {names[k]} has {len(y)} labels for {len(x)} samples; it needs "
                "one for each, and at least one."
            )
        test = hold_out_rows(str(names[k]), y)
        rows = {"train": np.setdiff1d(np.arange(len(y)), test), "test": test}
        parts.append(
            _Part(
                {split: x[chosen] for split, chosen in rows.items()},
                {split: y[chosen] for split, chosen in rows.items()},
                classes,
            )
        )
    return parts


def _inputs(
    parts: Sequence[_Part],
    names: Sequence[str | int],
    split: str,
    columns: tuple[str, ...],
    encoding: Mapping[str, Any],
) -> Array:
    """Return the training or test inputs of all clients, which have one form."""
    inputs: list[Array] = []
    for part, client in zip(parts, names, strict=True):
        x = part.x[split]
        if part.encoding and encoding:
            x = aligned(x, part.encoding, encoding, f"client {client}")
        elif part.columns != columns:
            raise ConfigError(
                f"The columns of client {client} are {', '.join(part.columns) or 'unnamed'}, those "
                f"of client {names[0]} {', '.join(columns) or 'unnamed'}; all clients need the "
                "same, in one order."
            )
        if inputs and x.shape[1:] != inputs[0].shape[1:]:
            raise ConfigError(
                f"Client {client} has samples of shape {list(x.shape[1:])} and client {names[0]} "
                f"of {list(inputs[0].shape[1:])}; they must agree."
            )
        inputs.append(x)
    return np.concatenate(inputs)


def _all_classes(several: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Return the names of all classes: in the order of the client that has all, else ascending."""
    union = {c for classes in several for c in classes}
    longest = max(several, key=len)
    if union == set(longest):
        return longest
    return tuple(sorted(union, key=int if all(c.isdecimal() for c in union) else str))
