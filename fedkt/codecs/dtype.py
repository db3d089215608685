"""Codecs that change the dtype."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedkt.codecs.codec import About, Arrays, Codec, Size
from fedkt.codecs.rows import LOGITS
from fedkt.errors import KnowledgeError
from fedkt.registry import register


@register
@dataclass(frozen=True)
class Float16(Codec):
    """Codec that sends float32 as float16: half the bytes, three decimal digits.

    Bytes: 2 for each float. The relative error is at most 2⁻¹¹ for values from 2⁻¹⁴ on, the
    absolute error of smaller ones at most 2⁻²⁵. Integers travel unchanged. Computation stays in
    float32 on both sides.

    Parameters
    ----------
    centred : bool
        Whether logits, and those of classes, travel less their row's mean, which is not sent:
        ``z_c − mean(z)``. The softmax is the same, and the error is relative to the spread of a
        row, not to its level. For losses that read the level (``mae``, ``mse``) it is another
        target, so it is not the default.
    """

    name: ClassVar[str] = "float16"

    centred: bool = False

    def encode(self, arrays: Arrays, about: About) -> Arrays:
        """Return float16 arrays; refuse values beyond ±65504, which would become infinite."""
        limit = np.finfo(np.float16).max
        encoded = {}
        for name, array in arrays.items():
            if array.dtype == np.float32:
                if self.centred and about.kind in LOGITS and array.size:
                    array = array - array.mean(-1, keepdims=True)
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
