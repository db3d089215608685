"""The machine: memory for large tensors, threads, and when Python looks for garbage."""

from __future__ import annotations

import ctypes
import gc
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

LARGE = 64 * 1024 * 1024  # bytes, from which on giving back is worth its time
RARELY = 10_000, 20, 10  # new objects, and generations, after which Python looks for garbage
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
    """Give memory that has just been freed in many small pieces back to the system.

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


def collect_rarely() -> None:
    """Let Python look for cyclic garbage less often, and not among the present objects.

    A round of a thousand small clients makes some hundred thousand objects, for which Python
    by default goes 200 times through the newest of them and once through all, those of the
    imported libraries too: a tenth of the time, and the processor's caches are cold after it.
    """
    gc.freeze()
    if gc.get_threshold()[0]:  # else it is switched off
        gc.set_threshold(*RARELY)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one torch thread, then go back to as many as before.

    Sums are reproducible bit for bit only for a fixed number of threads, and small
    models are slower with two.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
