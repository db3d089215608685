"""Arrays by name, as in an ``.npz`` file or a dictionary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from fedkt.data.dataset import Dataset, Unlabelled
from fedkt.data.reading import Reader, Reading, Rows, data_of
from fedkt.data.splits import Array
from fedkt.errors import ConfigError
from fedkt.registry import register

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
# What says of which domain or client a row is. Clients stand for domains where there are none.
BESIDE = ("domain", "client")
# What the names of a table's columns are called; the first found counts.
NAMED_COLUMNS = ("columns", "features")


@register(name="named-arrays")
class NamedArraysReader(Reader):
    """Dictionaries of arrays with the names that an .npz file has."""

    @staticmethod
    def takes(source: Any) -> bool:
        """Return whether the source is a mapping with inputs under a known name."""
        return isinstance(source, Mapping) and ("x" in source or "x_train" in source)

    @staticmethod
    def read(source: Any, reading: Reading) -> Dataset | Unlabelled:
        """Return the arrays as a data set."""
        arrays = {key: np.asarray(value) for key, value in source.items()}
        try:
            return of_arrays(arrays, reading)
        except ConfigError as error:
            message = str(error).removeprefix(f"{reading.name}: ")
            raise ConfigError(f"{reading.name}: {message}") from error


def of_arrays(arrays: Mapping[str, Array], reading: Reading) -> Dataset | Unlabelled:
    """Return named arrays as a data set; see :mod:`fedkt.data.sources` for the names.

    Raises
    ------
    ConfigError
        If an array is missing or unusable.
    """
    named = [key for key in NAMED_COLUMNS if key in arrays and arrays[key].dtype.kind == "U"]
    about: dict[str, Any] = {
        "classes": _texts(arrays, ("classes",)),
        "columns": _texts(arrays, named),
    }
    if "x" in arrays and not any(key in arrays for key in ARRAYS):
        return data_of(reading, _rows(arrays, ""), **about)
    if "x_train" in arrays and not any(key in arrays for key in ARRAYS[1:]):
        return data_of(reading, _rows(arrays, "_train"), **about)
    missing = [key for key in ARRAYS if key not in arrays]
    if missing:
        raise ConfigError(
            f"no array {missing[0]!r} (it holds {', '.join(arrays) or 'nothing'}); "
            f"{', '.join(ARRAYS)} are needed, or x and y."
        )
    both = [kind for kind in BESIDE if {f"{kind}_train", f"{kind}_test"} <= arrays.keys()]
    about["domain_names"] = _texts(arrays, [f"{kind}_names" for kind in both[:1]])
    return data_of(reading, _rows(arrays, "_train"), _rows(arrays, "_test"), **about)


def _rows(arrays: Mapping[str, Array], ending: str) -> Rows:
    beside = {key: arrays[key + ending] for key in BESIDE if key + ending in arrays}
    return Rows(arrays[f"x{ending}"], arrays.get(f"y{ending}"), beside)


def _texts(arrays: Mapping[str, Array], keys: Iterable[str]) -> tuple[str, ...]:
    """Return the names in the first of some arrays that is there."""
    found = next((np.atleast_1d(arrays[key]) for key in keys if key in arrays), np.array([]))
    return tuple(str(name) for name in found)
