"""Memory for large tensors."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch

from fedkt.machine import ALIGNMENT, empty

MB = 1024 * 1024


# Prints how many bytes more the process has with small pieces, and after giving them back.
PIECES = """
from pathlib import Path
import numpy as np
from fedkt.machine import LARGE, give_back

def resident():
    return 4096 * int(Path("/proc/self/statm").read_text().split()[1])

before = resident()
pieces = [np.ones(20_000, np.float32) for _ in range(2500)]
last = np.ones(20_000, np.float32)  # keeps the end of the heap where it is
print(resident() - before)
del pieces
give_back(LARGE)
print(resident() - before)
"""


@pytest.mark.parametrize("shape", [(3,), (5, 7), (1000, 100, 10), (0, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_empty_is_a_tensor_as_torch_makes_them(shape, dtype) -> None:
    tensor = empty(shape, dtype)
    assert tensor.shape == shape
    assert tensor.dtype == dtype
    assert tensor.is_contiguous()
    assert tensor.data_ptr() % ALIGNMENT == 0
    tensor.fill_(2)
    assert float(tensor.double().sum()) == 2 * tensor.numel()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be asked")
def test_small_pieces_are_given_back() -> None:
    """In a process of its own, in which no memory is left over from before."""
    found = subprocess.run(
        [sys.executable, "-c", PIECES],
        capture_output=True,
        encoding="utf-8",
        check=True,
        timeout=120,
    )
    taken, left = (int(number) for number in found.stdout.split())
    assert taken > 150 * MB
    assert left < 50 * MB
