"""Tables in files of Apache Parquet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedkt.data.dataset import Dataset, Unlabelled
from fedkt.data.readers.data_frames import of_frame
from fedkt.data.reading import Reader, Reading
from fedkt.errors import ConfigError
from fedkt.registry import register
from fedkt.text import raised


@register(name="parquet")
class ParquetReader(Reader):
    """Tables in files of Apache Parquet."""

    @staticmethod
    def takes(source: Any) -> bool:
        """Return whether the source is the path of such a file."""
        return isinstance(source, Path) and source.suffix.lower() in (".parquet", ".pq")

    @staticmethod
    def read(source: Any, reading: Reading) -> Dataset | Unlabelled:
        """Return the table as a data set.

        Raises
        ------
        ConfigError
            If the file cannot be read, or as for a frame.
        """
        import pandas as pd

        try:
            frame = pd.read_parquet(source)
        except Exception as error:  # each engine has errors of its own
            raise ConfigError(f"{source} is not a readable table: {raised(error)}.") from error
        return of_frame(frame, reading)
