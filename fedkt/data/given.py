"""Data sets given in Python: what the registry keeps of them."""

from __future__ import annotations

from dataclasses import dataclass

from fedkt.data.dataset import Dataset, Unlabelled


@dataclass(frozen=True, eq=False)
class Given:
    """A data set in memory, in the form of a registered function that makes one."""

    dataset: Dataset | Unlabelled

    def __call__(self) -> Dataset | Unlabelled:
        """Return the data set."""
        return self.dataset
