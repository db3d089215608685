"""Quantised soft labels of compressed federated distillation, packed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge, Le

from fedkt.codecs.codec import About, Arrays, Codec, Size
from fedkt.codecs.rows import CODES, need_finite, need_room
from fedkt.errors import KnowledgeError
from fedkt.registry import register

SHAPE = ":shape"


@register
@dataclass(frozen=True)
class CFD(Codec):
    """Codec that rounds rows of probabilities to b bits such that they still sum to 1.

    Constrained quantisation of CFD (Sattler, Marban, Rischke and Samek, "Communication-Efficient
    Federated Distillation", 2020, arXiv:2012.00632): a row p becomes the nearest ``p' = q / L``
    with whole ``q_c ≥ 0``, ``Σ q = L`` and ``L = 2ᵇ − 1``. It is made by largest remainders:
    ``⌊p·L⌋``, and 1 more for as many of the largest ``p·L − ⌊p·L⌋`` as are left, the lower class
    first where they are equal. With one bit, the paper's setting, it is the one-hot vector of the
    most probable class. A row is divided by its sum first, and one of zeros is uniform.

    The paper then codes what has changed since the round before: ``delta(codec=cfd)``. Its
    arithmetic coder is left out; the bits are packed as they are.

    Bytes of M rows of C classes: ``⌈M·r/8⌉ + 8``, the latter the shape; ``r = ⌈log2 C⌉`` bits with
    b = 1, the class, else ``(C − 1)·b``, the last class being what is left. Other kinds than
    probabilities travel as they are. Error: below ``1 / (2ᵇ − 1)`` for each class.

    Parameters
    ----------
    bits : int
        b, at most 32.
    """

    name: ClassVar[str] = "cfd"
    kinds: ClassVar[frozenset[str] | None] = frozenset({"probabilities"})

    bits: Annotated[int, Ge(1), Le(32)] = 1

    def encode(self, arrays: Arrays, about: About) -> Arrays:
        """Return packed bits and the shape; refuse what is not finite."""
        encoded = dict(arrays)
        for name, array in arrays.items() if self.changes(about.kind) else ():
            if array.ndim != 2 or array.dtype != np.float32 or not array.shape[1]:
                continue
            need_finite(name, array)
            codes = quantised(array, self.levels)
            sent = codes.argmax(1)[:, None] if self.bits == 1 else codes[:, :-1]
            encoded[name] = _packed(sent, self._width(array.shape[1]))
            encoded[name + SHAPE] = np.array(array.shape, np.int32)
        return encoded

    def decode(self, arrays: Arrays, about: About) -> Arrays:
        """Return rows of probabilities."""
        decoded = {n: a for n, a in arrays.items() if not n.endswith(SHAPE)}
        for name in [n for n in decoded if n + SHAPE in arrays]:
            rows, classes = arrays[name + SHAPE].tolist()
            need_room((rows, classes), about)
            form = rows, 1 if self.bits == 1 else classes - 1
            sent = _unpacked(decoded[name], form, self._width(classes))
            if self.bits == 1:
                codes = np.zeros((rows, classes), np.int64)
                np.put_along_axis(codes, sent, 1, 1)
            else:
                codes = np.hstack([sent, self.levels - sent.sum(1, keepdims=True)])
            if codes.min(initial=0) < 0:
                raise KnowledgeError(f"{name}: codes of a row exceed {self.levels}")
            decoded[name] = (codes / self.levels).astype(np.float32)
        return decoded

    def passes(self, kind: str) -> str:
        """Return that bits are no rows of the kind."""
        return CODES if self.changes(kind) else kind

    def encoded_size(self, size: Size) -> Size:
        """Return two arrays for each, and 8 bytes more: no number has over 32 bits."""
        return Size(2 * size.arrays, size.bytes + 8 * size.arrays)

    @property
    def levels(self) -> int:
        """The sum of the codes of a row, L."""
        return (1 << self.bits) - 1

    def _width(self, classes: int) -> int:
        return (classes - 1).bit_length() if self.bits == 1 else self.bits


def quantised(rows: np.ndarray, levels: int) -> np.ndarray:
    """Return the whole numbers of each row that sum to ``levels`` and are nearest to it.

    Parameters
    ----------
    rows : ndarray
        float ``[M, C]``, probabilities; ``C`` is at least 1.
    levels : int
        The sum of each row of the result.

    Returns
    -------
    ndarray
        int64 ``[M, C]``, none below 0.
    """
    wide = rows.astype(np.float64).clip(min=0)
    total = wide.sum(1, keepdims=True)
    even = np.full_like(wide, 1 / rows.shape[1])
    scaled = levels * np.divide(wide, total, out=even, where=total > 0)
    whole = np.floor(scaled)
    order = np.argsort(whole - scaled, axis=1, kind="stable")
    ranks = np.argsort(order, axis=1, kind="stable")
    codes: np.ndarray = whole + (ranks < levels - whole.sum(1, keepdims=True))
    return codes.astype(np.int64)


def _packed(numbers: np.ndarray, width: int) -> np.ndarray:
    """Return the ``width`` lowest bits of each number, the highest first, as bytes."""
    places = np.arange(width)[::-1]
    return np.packbits((numbers.reshape(-1, 1) >> places & 1).astype(np.uint8))


def _unpacked(packed: np.ndarray, form: tuple[int, int], width: int) -> np.ndarray:
    """Return int64 of a shape from what :func:`_packed` returned."""
    count = form[0] * form[1]
    if packed.dtype != np.uint8 or packed.shape != ((count * width + 7) // 8,):
        raise KnowledgeError(f"{packed.shape} bytes for {count} numbers of {width} bits")
    numbers = np.zeros(count, np.int64)
    for bits in np.unpackbits(packed, count=count * width).reshape(count, width).T:
        numbers = (numbers << 1) | bits  # of all bits at once int64 would take 8 bytes for each
    return numbers.reshape(form)
