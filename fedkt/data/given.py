"""Data sets given in Python: what the registry keeps of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fedkt.data.dataset import Dataset, held_out
from fedkt.errors import ConfigError


@dataclass(frozen=True, eq=False)
class Given:
    """A data set in memory, in the form of a registered function that makes one."""

    dataset: Dataset

    def __call__(self) -> Dataset:
        """Return the data set."""
        return self.dataset


def dataset_of(
    value: Any, name: str, *, label: str = "", client: str = "", split: str = ""
) -> Dataset:
    """Return the data set that a Python object is: a :class:`Dataset`, or ``(x, y)``.

    Raises
    ------
    ConfigError
        If it is none.
    """
    if isinstance(value, Dataset):
        return value
    if isinstance(value, tuple) and len(value) == 2:
        return held_out(name, np.asarray(value[0]), np.asarray(value[1]))
    raise ConfigError(f"{name} is a {type(value).__name__}: give (x, y) or a fedkt.data.Dataset.")
