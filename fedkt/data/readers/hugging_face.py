"""Data sets of Hugging Face's library ``datasets``: images, token ids, vectors, or tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from fedkt.data.dataset import Dataset, Unlabelled
from fedkt.data.readers.data_frames import LABELS, of_frame, parts_of
from fedkt.data.readers.pictures import pixels_of
from fedkt.data.readers.token_rows import IDS, MASK, tokens_of
from fedkt.data.reading import Reader, Reading, Rows, data_of
from fedkt.data.splits import Array
from fedkt.errors import ConfigError, unknown
from fedkt.registry import register

TEST_SPLITS = ("test", "validation", "valid")
PART = "fedkt-part"  # the column that tells a table's rows of both splits apart


@register(name="hugging-face")
class HuggingFaceReader(Reader):
    """Data sets of Hugging Face: images, token ids, vectors, or tables, in one split or several."""

    @staticmethod
    def takes(source: Any) -> bool:
        """Return whether the source is a data set of the library, or a dictionary of splits."""
        if isinstance(source, Mapping):
            return bool(source) and all(map(_is_split, source.values()))
        return _is_split(source)

    @staticmethod
    def read(source: Any, reading: Reading) -> Dataset | Unlabelled:
        """Return the rows as a data set.

        The label is the column that is named, the one of type ClassLabel, or one with a usual
        name. The ``test`` split is the test part, else the validation split, else a fixed
        stratified 20 %.

        Raises
        ------
        ConfigError
            If there is no training split or no column that can be used.
        """
        splits = source if isinstance(source, Mapping) else {"train": source}
        if "train" not in splits:
            raise ConfigError(f"{reading.name} has no 'train' split, only {', '.join(splits)}.")
        test = next((splits[name] for name in TEST_SPLITS if name in splits), None)
        return _data(splits["train"], test, reading)


def _is_split(source: Any) -> bool:
    return type(source).__module__.startswith("datasets.") and hasattr(source, "features")


def _data(train: Any, test: Any, reading: Reading) -> Dataset | Unlabelled:
    parts = [part for part in (train, test) if part is not None]
    features = train.features
    label = _label(features, reading)
    classes = tuple(getattr(features[label], "names", None) or ()) if label else ()
    labels = [_labels(part, label, reading) for part in parts] if label else []
    inputs = next((found for kind in KINDS if (found := kind(parts, label, reading))), None)
    if inputs is None:
        return _of_tables(parts, label, labels, classes, reading)
    x, layout = inputs
    y = np.concatenate(labels) if label else None
    client = reading.column("client", features)
    beside = {"client": np.array(list(_column(parts, client)))} if client else {}
    split = [np.arange(len(train)), np.arange(len(train), len(x))]
    if label and test is None and (column := reading.column("split", features)):
        part = parts_of(train.select_columns(column).to_pandas()[column], reading)
        split = [np.flatnonzero(part == name) for name in ("train", "test")]
    rows = Rows(x, y, beside)
    both = [rows.at(some) for some in split if len(some)]
    return data_of(reading, *both, classes=classes, layout=layout)


def _images(parts: list[Any], label: str, reading: Reading) -> tuple[Array, str] | None:
    name = _of_kind(parts, label, "Image")
    return (
        (pixels_of(_column(parts, name), reading.input_shape, reading.name), "image")
        if name
        else None
    )


def _tokens(parts: list[Any], label: str, reading: Reading) -> tuple[Array, str] | None:
    if IDS not in parts[0].features:
        return None
    names = [name for name in (IDS, MASK) if name in parts[0].features]
    return tokens_of({name: list(_column(parts, name)) for name in names}, reading.name), "tokens"


def _vectors(parts: list[Any], label: str, reading: Reading) -> tuple[Array, str] | None:
    name = _of_kind(parts, label, "List", "Sequence", "Array2D", "Array3D")
    if not name:
        return None
    rows = [np.asarray(row) for row in _column(parts, name)]
    if len({row.shape for row in rows}) > 1:
        raise ConfigError(f"{reading.name}: the rows of column {name!r} differ in length.")
    return np.stack(rows), ""


# What the inputs may be beside a table, in the order in which columns are looked for.
KINDS = (_images, _tokens, _vectors)


def _of_kind(parts: list[Any], label: str, *kinds: str) -> str:
    """Return the first column of some feature types, by their names; empty for none."""
    columns = ((n, type(kind).__name__) for n, kind in parts[0].features.items() if n != label)
    return next((name for name, kind in columns if kind in kinds), "")


def _column(parts: list[Any], name: str) -> Iterator[Any]:
    for part in parts:
        yield from part[name]


def _labels(part: Any, label: str, reading: Reading) -> Array:
    labels = np.asarray(part[label][:])
    named = type(part.features[label]).__name__ == "ClassLabel"
    if named and (labels < 0).any():  # the library's mark for "not labelled"
        raise ConfigError(
            f"{reading.name} holds {int((labels < 0).sum())} samples without a label."
        )
    return labels


def _label(features: Mapping[str, Any], reading: Reading) -> str:
    if reading.label in features:
        return reading.label
    if reading.label and reading.needs_labels:
        raise unknown(f"label column of {reading.name}", reading.label, features)
    kinds = [name for name, kind in features.items() if type(kind).__name__ == "ClassLabel"]
    usual = [name for name in features if name.lower() in LABELS]
    label = next((names[0] for names in (kinds, usual) if len(names) == 1), "")
    if not label and reading.needs_labels:
        columns = ", ".join(f"{c} ({type(f).__name__})" for c, f in features.items())
        raise ConfigError(
            f"{reading.name} has the columns {columns}; say which is the label: data.label = NAME."
        )
    return label


def _of_tables(
    parts: list[Any], label: str, labels: list[Array], classes: tuple[str, ...], reading: Reading
) -> Dataset | Unlabelled:
    """Return a table as frames are read; a split of its own is the test part."""
    import pandas as pd

    frames = [part.to_pandas() for part in parts]
    frame = pd.concat(frames, ignore_index=True).drop(columns=[label] if label else [])
    if len(parts) == 2:
        frame[PART] = np.repeat(["train", "test"], [len(part) for part in parts])
        reading = replace(reading, split=PART)
    return of_frame(frame, reading, np.concatenate(labels) if label else None, classes)
