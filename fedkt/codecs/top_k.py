"""The k largest answers of each row, and how much is left for the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedkt.codecs.codec import About, Arrays, Codec, Size
from fedkt.codecs.rows import CODES, LOGITS, need_finite, need_room, smallest_type
from fedkt.errors import KnowledgeError
from fedkt.options import AtLeastOne
from fedkt.registry import register

CLASSES, PLACES, REST = ":classes", ":places", ":rest"


@register
@dataclass(frozen=True)
class TopK(Codec):
    """Codec that sends the k largest answers of a row; the other classes share what is left.

    With K the k largest of C classes, the lower class first where they are equal:

    - probabilities: ``p'_c = p_c`` in K, else ``(1 − Σ_K p) / (C − k)``;
    - logits, and those of classes: ``z'_c = z_c`` in K, else ``log(Σ_{not K} e^z / (C − k))``,
      which travels too. So the softmax is the same in K, and the mass left over is the same.

    Bytes of M rows: ``M·k·(4 + w) + 4`` for probabilities, and ``4·M`` more for logits; w is 1, 2
    or 4 for up to 256, 65,536 or more classes. An array that this makes no smaller, and all other
    kinds, travel as they are. Error: 0 in K; the sum over a row of probabilities is at most
    ``2·(1 − Σ_K p)``.

    Parameters
    ----------
    k : int
        Number of classes of a row that travel.
    """

    name: ClassVar[str] = "top-k"
    kinds: ClassVar[frozenset[str] | None] = frozenset({"probabilities", *LOGITS})

    k: AtLeastOne = 3

    def encode(self, arrays: Arrays, about: About) -> Arrays:
        """Return values, places and the number of classes; refuse what is not finite."""
        if not self.changes(about.kind):
            return arrays
        encoded: dict[str, np.ndarray] = {}
        for name, array in arrays.items():
            parts = {}
            if array.ndim == 2 and array.dtype.kind == "f" and array.shape[1] > self.k:
                need_finite(name, array)
                parts = self._parts(name, array, about.kind in LOGITS)
            smaller = parts and Size.of(parts).bytes < array.nbytes
            encoded.update(parts if smaller else {name: array})
        return encoded

    def decode(self, arrays: Arrays, about: About) -> Arrays:
        """Return whole rows."""
        parts = (CLASSES, PLACES, REST)
        decoded = {n: a for n, a in arrays.items() if not n.endswith(parts)}
        for name in [n for n in decoded if n + CLASSES in arrays]:
            kept, places = decoded[name], arrays[name + PLACES]
            (classes,) = arrays[name + CLASSES].tolist()
            if kept.ndim != 2 or kept.shape != places.shape or not kept.shape[1] < classes:
                raise KnowledgeError(f"{name}: {list(kept.shape)} of {classes} classes")
            if kept.dtype.kind != "f":  # rows of long texts would be large ones
                raise KnowledgeError(f"{name} has dtype {kept.dtype}, not a float's")
            need_room((len(kept), classes), about, kept.dtype.itemsize)
            rest = arrays.get(name + REST)
            if rest is None:
                sums = kept.sum(1, keepdims=True)
                rest = (1 - sums).clip(min=0) / kept.dtype.type(classes - kept.shape[1])
                kept = kept / sums.clip(min=1)
            values = np.empty((len(kept), classes), kept.dtype)
            values[:] = rest.reshape(len(kept), 1)
            np.put_along_axis(values, places.astype(np.int64), kept, 1)
            decoded[name] = values
        return decoded

    def passes(self, kind: str) -> str:
        """Return that some classes are no rows of the kind."""
        return CODES if self.changes(kind) else kind

    def encoded_size(self, size: Size) -> Size:
        """Return four arrays for each, of no more bytes."""
        return Size(4 * size.arrays, size.bytes)

    def _parts(self, name: str, rows: np.ndarray, logits: bool) -> dict[str, np.ndarray]:
        classes = rows.shape[1]
        order = np.argsort(-rows, axis=1, kind="stable")
        places, others = order[:, : self.k], order[:, self.k :]
        parts = {
            name: np.take_along_axis(rows, places, 1),
            name + PLACES: places.astype(smallest_type(classes)),
            name + CLASSES: np.array([classes], np.int32),
        }
        if logits:
            left = np.take_along_axis(rows, others, 1).astype(np.float64)
            most = left.max(1, keepdims=True)
            mean = np.exp(left - most).mean(1)
            parts[name + REST] = (most[:, 0] + np.log(mean)).astype(rows.dtype)
        return parts
