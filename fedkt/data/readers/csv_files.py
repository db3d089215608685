"""Tables in text files: ``.csv`` and ``.tsv``, compressed or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedkt.data.dataset import Dataset, Unlabelled
from fedkt.data.readers.data_frames import of_frame
from fedkt.data.reading import Reader, Reading
from fedkt.errors import ConfigError
from fedkt.registry import register
from fedkt.text import reason_of

ENDINGS = (".csv", ".tsv", ".csv.gz", ".tsv.gz")


@register(name="csv")
class CsvReader(Reader):
    """Tables in text files with a line of column names; the separator is found."""

    @staticmethod
    def takes(source: Any) -> bool:
        """Return whether the source is the path of a table in text."""
        return isinstance(source, Path) and source.name.lower().endswith(ENDINGS)

    @staticmethod
    def read(source: Any, reading: Reading) -> Dataset | Unlabelled:
        """Return the table as a data set.

        Raises
        ------
        ConfigError
            If the file is no table, or as for a frame.
        """
        import pandas as pd

        try:
            frame = pd.read_csv(source, sep=_separator(pd, source))
        except (OSError, ValueError, pd.errors.ParserError) as error:  # and its subclasses
            raise ConfigError(f"{source} is not a readable table: {reason_of(error)}.") from error
        return of_frame(_without_index(frame), reading)


def _without_index(frame: Any) -> Any:
    """Return a table without the nameless first column of row numbers that pandas writes.

    As an input it would tell the order of the rows, which often is that of the labels.
    """
    name = str(frame.columns[0])
    is_index = name == "Unnamed: 0" and frame[name].tolist() == list(range(len(frame)))
    return frame.drop(columns=[name]) if is_index else frame


def _separator(pd: Any, file: Path) -> str:
    """Return the separator of a table: what most often stands in its line of names."""
    if ".tsv" in file.name.lower():
        return "\t"
    heading = "".join(map(str, pd.read_csv(file, sep="\x01", nrows=0).columns))
    return max((",", ";", "\t"), key=heading.count)
