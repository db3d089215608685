"""NumPy's file format, in which arrays travel: its header says type and shape before any data."""

from __future__ import annotations

import io
import math
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np

LONGEST_HEADER = 10_000  # bytes; NumPy reads no longer one either


class Form(NamedTuple):
    """The form of an array as its header declares it.

    Parameters
    ----------
    dtype : dtype
        The type of its numbers; never objects.
    shape : tuple[int, ...]
        The shape.
    order : {"C", "F"}
        By rows or by columns.
    start : int
        Bytes of the header.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    order: Literal["C", "F"]
    start: int

    @property
    def bytes(self) -> int:
        """The bytes of the data."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def type(self) -> str:
        """The name of the dtype; of another byte order than this machine's its code."""
        return self.dtype.name if self.dtype.isnative else self.dtype.str


def form_of(data: bytes) -> Form:
    """Return what a file declares; of its data only the length is looked at.

    Raises
    ------
    ValueError
        If there is no such header, the length is not the declared one, or the array holds objects.
        NumPy raises other errors for what a header may hold.
    """
    start = header_bytes(data)
    if not 0 < start <= LONGEST_HEADER:
        raise ValueError("no header of NumPy's format")
    form = _form(data[:start])
    if min(form.shape, default=0) < 0:
        raise ValueError(f"a shape of {list(form.shape)}")
    if (size := len(data) - start) != form.bytes:
        raise ValueError(f"{size:,} bytes of data, where its header says {form.bytes:,}")
    return form


def read(data: bytes) -> np.ndarray:
    """Return the array in a file, read-only and without a copy; raises as :func:`form_of`."""
    form = form_of(data)
    flat = np.frombuffer(data, form.dtype, math.prod(form.shape), form.start)
    return flat.reshape(form.shape, order=form.order)


def written(array: np.ndarray) -> bytes:
    """Return an array as a file; the header is made once for all arrays that are alike."""
    return _header(array.dtype.str, array.shape) + array.tobytes()


def header_bytes(data: bytes) -> int:
    """Return the length of the header of a file; 0 if it is none."""
    if data[:6] != b"\x93NUMPY" or len(data) < 12:
        return 0
    size = 2 if data[6] == 1 else 4  # bytes that hold the header's length
    return min(len(data), 8 + size + int.from_bytes(data[8 : 8 + size], "little"))


@lru_cache(maxsize=256)
def _header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """Return the header of an array in row order."""
    file = io.BytesIO()
    about = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, about)
    return file.getvalue()


@lru_cache(maxsize=256)
def _form(header: bytes) -> Form:
    """Parse a header; one that was seen before is not parsed again."""
    file = io.BytesIO(header)
    version = np.lib.format.read_magic(file)
    old = version == (1, 0)
    read = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
    shape, by_columns, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("the array holds objects")
    return Form(dtype, shape, "F" if by_columns else "C", len(header))
