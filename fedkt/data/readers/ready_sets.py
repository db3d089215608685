"""Data sets that are ones of fedkt already."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fedkt.data.dataset import Dataset, Unlabelled
from fedkt.data.reading import Reader, Reading
from fedkt.registry import register


@register(name="ready")
class ReadyReader(Reader):
    """Data sets of fedkt, as functions of a file return them."""

    @staticmethod
    def takes(source: Any) -> bool:
        """Return whether the source has what a :class:`Dataset` or :class:`Unlabelled` has."""
        return hasattr(source, "inputs") and hasattr(source, "layout")

    @staticmethod
    def read(source: Any, reading: Reading) -> Dataset | Unlabelled:
        """Return the data set; ``reading.layout`` says what its axes mean."""
        data: Dataset | Unlabelled = source
        return replace(data, layout=reading.layout) if reading.layout else data
