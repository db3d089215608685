"""Readers of data: one file a kind of source, each a registered class.

A new kind is one file with one class, here or in a file of the user's:

.. code-block:: python

    @register
    class Excel(Reader):
        "Sheets of Excel."

        @staticmethod
        def takes(source):
            return isinstance(source, Path) and source.suffix == ".xlsx"

        @staticmethod
        def read(source, reading):
            return of_frame(pandas.read_excel(source), reading)
"""

from __future__ import annotations

from fedkt.data.reading import Reader, Reading, Rows, data_of

__all__ = ["Reader", "Reading", "Rows", "data_of"]
