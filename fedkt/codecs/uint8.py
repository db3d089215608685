"""Eight bits for each float, between the least and the greatest of its row."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from fedkt.codecs.codec import About, Arrays, Codec, Size
from fedkt.codecs.rows import CODES, need_finite, need_room, on_simplex
from fedkt.errors import KnowledgeError
from fedkt.registry import register

RANGES, STEPS = ":ranges", 255


@register
class UInt8(Codec):
    """Codec that sends each float as 8 bits, with the least value and the step of its row.

    Uniform affine quantisation (Jacob et al., CVPR 2018, arXiv:1712.05877, equation 1): with the
    step ``s = (max x − min x) / 255`` of a row, ``q = round((x − min x) / s)`` and ``x' = min x +
    q·s``. Rows are those of the first axis; a vector is one row.

    Bytes of an array of n rows of d ≥ 3 numbers: ``n·d + 8·n``, the latter the least value and the
    step in float32. Shorter rows, and integers, travel as they are. Error: at most ``s/2``, and
    the rounding of float32. Rows of probabilities are divided by their sum afterwards: at most
    ``s·(1 + C) / 2`` for C classes.
    """

    name: ClassVar[str] = "uint8"

    def encode(self, arrays: Arrays, about: About) -> Arrays:
        """Return codes and ranges; refuse what is not finite."""
        encoded = {}
        for name, array in arrays.items():
            rows = array.reshape(len(array) if array.ndim > 1 else 1, -1) if array.size else array
            if array.dtype != np.float32 or array.ndim == 0 or not array.size or rows.shape[1] < 3:
                encoded[name] = array
                continue
            need_finite(name, array)
            least = rows.min(1, keepdims=True)
            wide = rows.astype(np.float64) - least
            step = (wide.max(1, keepdims=True) / STEPS).astype(np.float32)
            codes = np.rint(wide / np.where(step > 0, step, 1)).clip(0, STEPS)
            encoded[name] = codes.astype(np.uint8).reshape(array.shape)
            encoded[name + RANGES] = np.hstack([least, step])
        return encoded

    def decode(self, arrays: Arrays, about: About) -> Arrays:
        """Return float32 arrays."""
        decoded = {n: a for n, a in arrays.items() if not n.endswith(RANGES)}
        for name in [n for n in decoded if n + RANGES in arrays]:
            codes, ranges = decoded[name], arrays[name + RANGES].astype(np.float64)
            need_room(codes.shape, about)
            rows = codes.reshape(len(ranges), -1)
            if ranges.shape != (len(rows), 2):
                raise KnowledgeError(f"ranges of {name} have shape {list(ranges.shape)}")
            values = (ranges[:, :1] + rows * ranges[:, 1:]).astype(np.float32)
            values = values.reshape(codes.shape)
            decoded[name] = on_simplex(values) if about.kind == "probabilities" else values
        return decoded

    def passes(self, kind: str) -> str:
        """Return that codes are no rows of the kind."""
        return CODES

    def encoded_size(self, size: Size) -> Size:
        """Return two arrays for each, of no more bytes."""
        return Size(2 * size.arrays, size.bytes)
