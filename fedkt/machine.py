"""Memory for large tensors."""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

LARGE = 64 * 1024 * 1024  # bytes, from which on giving back is worth its time
ALIGNMENT = 64  # bytes, as torch has it: products of other tensors may differ in the last bit


def empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return an uninitialised tensor on the CPU, in huge pages where the system has them.

    NumPy asks for huge pages and torch does not. The answers of a thousand clients are in
    20,000 pages of the usual size, each of which has to be found and cleared when it is first
    written to, and looked up again whenever it is read.

    Parameters
    ----------
    shape : Sequence[int]
        The tensor's shape.
    dtype : torch.dtype
        Its dtype.
    """
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return torch.from_numpy(memory[start : start + size]).view(dtype).view(*shape)


def give_back(size: int) -> None:
    """Return memory to the system of which much has just been freed in small pieces.

    The C library keeps such pieces, and large tensors do not fit into them: without this the
    answers of 10,000 clients take their memory twice, once for each and once for all. Where
    the library cannot be asked (it is not glibc on Linux), nothing happens.

    Parameters
    ----------
    size : int
        About how many bytes; few are not worth the call.
    """
    if size >= LARGE and sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
