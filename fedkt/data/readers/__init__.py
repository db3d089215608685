"""Readers of data: one file a kind of source, each a registered class with two methods.

``takes(source)`` says whether a path or an object of Python is of the kind, ``read(source,
reading)`` returns it as a data set. Here are the base and what readers are made of.
"""

from __future__ import annotations

from fedkt.data.readers.data_frames import of_frame
from fedkt.data.reading import Reader, Reading, Rows, data_of

__all__ = ["Reader", "Reading", "Rows", "data_of", "of_frame"]
