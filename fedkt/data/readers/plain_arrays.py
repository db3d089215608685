"""Arrays without names: inputs and labels, ``(X, y)``, or inputs alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from fedkt.data.dataset import Dataset, Unlabelled
from fedkt.data.readers.data_frames import FrameReader, of_frame
from fedkt.data.reading import Reader, Reading, Rows, data_of
from fedkt.data.splits import Array
from fedkt.errors import ConfigError
from fedkt.registry import register


@register(name="arrays")
class ArraysReader(Reader):
    """Inputs and labels as a pair (X, y) of arrays, tensors, frames or lists; or inputs alone."""

    @staticmethod
    def takes(source: Any) -> bool:
        """Return whether the source is an array, or a pair that begins with one or a frame."""
        if isinstance(source, tuple) and len(source) == 2:
            return FrameReader.takes(source[0]) or _is_array(source[0]) or _is_rows(source[0])
        return _is_array(source)

    @staticmethod
    def read(source: Any, reading: Reading) -> Dataset | Unlabelled:
        """Return inputs and labels as a data set, inputs alone without labels.

        Raises
        ------
        ConfigError
            If the arrays cannot be used, or their lengths differ.
        """
        if not isinstance(source, tuple):
            return data_of(reading, Rows(array_of(source)))
        x, y = source
        if FrameReader.takes(x):
            return _of_frame_and_labels(x, y, reading)
        return data_of(reading, Rows(array_of(x), array_of(y)))


def array_of(values: Any) -> Array:
    """Return a tensor, a sparse matrix, a series or a list as an array of numpy."""
    if isinstance(values, Tensor):
        return values.detach().cpu().numpy()
    return np.asarray(values.toarray() if hasattr(values, "toarray") else values)


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray | Tensor) or hasattr(value, "toarray")


def _is_rows(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _of_frame_and_labels(frame: Any, labels: Any, reading: Reading) -> Dataset | Unlabelled:
    y = array_of(labels)
    if len(y) != len(frame):
        raise ConfigError(
            f"{reading.name}: there are {len(y)} labels for {len(frame)} rows; the lengths must "
            "agree."
        )
    return of_frame(frame, reading, y)
