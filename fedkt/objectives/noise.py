"""Random numbers as a pure function of a key: the same in a loop and under ``torch.func.vmap``.

A number is the hash of its place in a sequence that the key and a name begin: SplitMix64
(Steele, Lea & Flood, OOPSLA 2014), whose sequences of other keys are other parts of one of length
2^64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# The constants of SplitMix64, as int64.
_GAMMA = 0x9E3779B97F4A7C15 - 2**64
_FACTORS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)


def normal(key: Tensor, name: str, shape: Sequence[int]) -> Tensor:
    """Return standard normal numbers, float64 ``shape``.

    Parameters
    ----------
    key : Tensor
        int64 scalar.
    name : str
        Name of the numbers, among others with the same key.
    shape : Sequence[int]
        Shape of the result; its numbers are counted in C order.
    """
    count = torch.arange(1, math.prod(shape) + 1, device=key.device)
    words = _mixed(_mixed(key + _number(name)) + count * _GAMMA)
    # The Box-Muller transform of the two halves of a word, each a number in (0, 1).
    first, second = ((_shifted(w, 32).double() + 0.5) / 2**32 for w in (words, words << 32))
    return ((-2 * first.log()).sqrt() * (2 * math.pi * second).cos()).view(tuple(shape))


def _mixed(words: Tensor) -> Tensor:
    """Return the hashes of int64 words."""
    words = (words ^ _shifted(words, 30)) * _FACTORS[0]
    words = (words ^ _shifted(words, 27)) * _FACTORS[1]
    return words ^ _shifted(words, 31)


def _shifted(words: Tensor, bits: int) -> Tensor:
    """Return words shifted to the right, with zeros from the left."""
    return (words >> bits) & ((1 << (64 - bits)) - 1)


def _number(name: str) -> int:
    """Return a name's hash (FNV-1a), which a compiler can trace."""
    number = 0xCBF29CE484222325
    for byte in name.encode():
        number = (number ^ byte) * 0x100000001B3 % 2**64
    return number - 2**63
