"""Memory for large tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

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
