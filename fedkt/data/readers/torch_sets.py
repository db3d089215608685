"""Data sets of torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import IterableDataset

from fedkt.data.dataset import Dataset, Unlabelled
from fedkt.data.readers.pictures import is_picture, pixels_of
from fedkt.data.readers.plain_arrays import array_of
from fedkt.data.readers.token_rows import IDS, MASK, tokens_of
from fedkt.data.reading import Reader, Reading, Rows, data_of
from fedkt.data.splits import Array
from fedkt.errors import ConfigError, unknown
from fedkt.registry import register
from fedkt.text import raised

LABELS = ("label", "labels", "target", "y")
INPUTS = ("image", "pixel_values", "x", "inputs", "data")


@register(name="torch")
class TorchReader(Reader):
    """Data sets of torch with items (x, y), dictionaries, or x alone; or a pair (train, test)."""

    @staticmethod
    def takes(source: Any) -> bool:
        """Return whether the source is a data set of torch, or a training and a test one."""
        if isinstance(source, tuple):
            return len(source) == 2 and all(isinstance(part, TorchDataset) for part in source)
        return isinstance(source, TorchDataset)

    @staticmethod
    def read(source: Any, reading: Reading) -> Dataset | Unlabelled:
        """Return the items as a data set.

        Raises
        ------
        ConfigError
            If items have no common shape, or cannot be read.
        """
        parts = source if isinstance(source, tuple) else (source,)
        classes = tuple(getattr(parts[0], "classes", ()))  # as those of torchvision
        rows = [_rows(part, reading) for part in parts]
        return data_of(reading, *rows, classes=classes)


def _rows(source: Any, reading: Reading) -> Rows:
    try:
        items = (
            list(source)
            if isinstance(source, IterableDataset)
            else [source[place] for place in range(len(source))]
        )
    except Exception as error:  # a user's code may raise anything
        raise ConfigError(f"{reading.name} cannot be read: {raised(error)}.") from error
    if not items:
        raise ConfigError(f"{reading.name} is empty.")
    if isinstance(items[0], Mapping):
        return _of_mappings(items, reading)
    if not isinstance(items[0], tuple | list) or len(items[0]) == 1:
        return Rows(_stacked([i[0] if isinstance(i, tuple | list) else i for i in items], reading))
    return Rows(
        _stacked([item[0] for item in items], reading), np.stack([array_of(i[1]) for i in items])
    )


def _of_mappings(items: list[Mapping[str, Any]], reading: Reading) -> Rows:
    """Return items with named parts: token ids, or the first that is called like inputs."""
    keys = list(items[0])
    label = reading.label or next((key for key in LABELS if key in keys), "")
    if label and label not in keys and reading.needs_labels:
        raise unknown(f"label of {reading.name}", label, keys)
    y = np.stack([array_of(item[label]) for item in items]) if label in keys else None
    client = reading.column("client", keys)
    beside = {"client": np.stack([array_of(item[client]) for item in items])} if client else {}
    if IDS in keys:
        names = [name for name in (IDS, MASK) if name in keys]
        columns = {name: [array_of(item[name]) for item in items] for name in names}
        return Rows(tokens_of(columns, reading.name), y, beside)
    key = next((key for key in INPUTS if key in keys), "")
    if not key:
        raise ConfigError(
            f"{reading.name} has items with {', '.join(keys)}; inputs are to be called "
            f"{', '.join((IDS, *INPUTS))}."
        )
    return Rows(_stacked([item[key] for item in items], reading), y, beside)


def _stacked(values: list[Any], reading: Reading) -> Array:
    if is_picture(values[0]):
        return pixels_of(values, reading.input_shape, reading.name)
    arrays = [array_of(value) for value in values]
    if len(shapes := {array.shape for array in arrays}) > 1:
        raise ConfigError(
            f"{reading.name} has samples of {len(shapes)} different shapes; all must have one."
        )
    return np.stack(arrays)
