"""Random numbers as a pure function of a key: the same in a loop and under ``torch.func.vmap``.

A number is the hash of its place in a sequence that the key and a name begin: SplitMix64
(Steele, Lea & Flood, OOPSLA 2014), whose sequences of other keys are other parts of one of length
2^64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# The constants of SplitMix64, as int64.
_GAMMA = 0x9E3779B97F4A7C15 - 2**64
_FACTORS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)


@dataclass(frozen=True)
class Draws:
    """Random numbers of one purpose in one batch, the same in both executors.

    The first rows are the same however many there are.

    Parameters
    ----------
    key : Tensor
        int64 scalar, the key of the batch.
    name : str
        The purpose.
    """

    key: Tensor
    name: str

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Return standard normal numbers, float64 ``shape``."""
        return normal(self.key, f"{self.name}/normal", shape)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Return uniform numbers in (0, 1), float64 ``shape``."""
        return uniform(self.key, f"{self.name}/uniform", shape)


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
    words = _words(key, name, shape)
    # The Box-Muller transform of the two halves of a word.
    first, second = _fraction(words), _fraction(words << 32)
    return ((-2 * first.log()).sqrt() * (2 * math.pi * second).cos()).view(tuple(shape))


def uniform(key: Tensor, name: str, shape: Sequence[int]) -> Tensor:
    """Return uniform numbers in (0, 1), multiples of 2^-33, float64 ``shape``; see `normal`."""
    return _fraction(_words(key, name, shape)).view(tuple(shape))


def _words(key: Tensor, name: str, shape: Sequence[int]) -> Tensor:
    """Return one int64 word for each number of a shape, in C order."""
    count = torch.arange(1, math.prod(shape) + 1, device=key.device)
    return _mixed(_mixed(key + _number(name)) + count * _GAMMA)


def _fraction(words: Tensor) -> Tensor:
    """Return the first half of each word as a number in (0, 1)."""
    return (_shifted(words, 32).double() + 0.5) / 2**32


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
