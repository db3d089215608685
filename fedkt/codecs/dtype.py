"""Codecs that change the dtype."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from fedkt.codecs.codec import About, Arrays, Codec, Size
from fedkt.errors import KnowledgeError
from fedkt.registry import register


@register
class Float16(Codec):
    """Codec that sends float32 as float16: half the bytes, three decimal digits.

    The relative error is at most 2⁻¹¹ for values from 2⁻¹⁴ on, the absolute error of smaller
    ones at most 2⁻²⁵. Integers travel unchanged. Computation stays in float32 on both sides.
    """

    name: ClassVar[str] = "float16"

    def encode(self, arrays: Arrays, about: About) -> Arrays:
        """Return float16 arrays; refuse values beyond ±65504, which would become infinite."""
        limit = np.finfo(np.float16).max
        encoded = {}
        for name, array in arrays.items():
            if array.dtype == np.float32:
                if array.size and np.abs(array).max() > limit:
                    raise KnowledgeError(f"{name} exceeds the range of float16 (±{limit:g})")
                array = array.astype(np.float16)
            encoded[name] = array
        return encoded

    def decode(self, arrays: Arrays, about: About) -> Arrays:
        """Return float32 arrays."""
        return {
            name: array.astype(np.float32) if array.dtype == np.float16 else array
            for name, array in arrays.items()
        }

    def encoded_size(self, size: Size) -> Size:
        """Return the same size: integers keep it."""
        return size
