"""Files of numpy arrays, ``.npz``; their format is described in :mod:`fedkt.data.sources`."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedkt.data.dataset import Dataset, Unlabelled
from fedkt.data.readers.named_arrays import of_arrays
from fedkt.data.reading import Reader, Reading
from fedkt.data.splits import Array
from fedkt.errors import ConfigError
from fedkt.registry import register
from fedkt.text import reason_of


@register(name="npz")
class NpzReader(Reader):
    """Files of numpy arrays: x_train, y_train, x_test, y_test, or only x and y."""

    @staticmethod
    def takes(source: Any) -> bool:
        """Return whether the source is the path of an ``.npz`` file."""
        return isinstance(source, Path) and source.suffix == ".npz"

    @staticmethod
    def read(source: Any, reading: Reading) -> Dataset | Unlabelled:
        """Return the arrays of a file as a data set.

        Raises
        ------
        ConfigError
            If the file is corrupt, misses an array or holds unusable ones.
        """
        arrays = _opened(source)
        try:
            return of_arrays(arrays, reading)
        except ConfigError as error:
            message = str(error).removeprefix(f"{reading.name}: ")
            raise ConfigError(f"{source}: {message}") from error


def _opened(file: Path) -> Mapping[str, Array]:
    try:
        # Pickles are refused: they could run code.
        with np.load(file, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise ConfigError(f"{file} is not a readable .npz file: {reason_of(error)}.") from error
    except AttributeError as error:  # a single array has no files
        raise ConfigError(f"{file} is not a readable .npz file: it is one array.") from error
