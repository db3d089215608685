"""Memory for large tensors."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import pytest
import torch

from fedkt.memory import ALIGNMENT, LARGE, empty, give_back

MB = 1024 * 1024


def resident() -> int:
    """Bytes of memory that this process has."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * 4096


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
    before = resident()
    pieces = [np.ones(20_000, np.float32) for _ in range(2500)]
    last = np.ones(20_000, np.float32)  # keeps the end of the heap where it is
    assert resident() - before > 150 * MB
    del pieces
    give_back(LARGE)
    assert resident() - before < 50 * MB
    assert last[0] == 1
