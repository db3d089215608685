"""The most probable class of each row, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedkt.codecs.codec import About, Arrays, Codec, Size
from fedkt.codecs.rows import CODES, LOGITS, need_finite, need_room, smallest_type
from fedkt.errors import KnowledgeError
from fedkt.options import Positive
from fedkt.registry import register

CLASSES, MOST_CLASSES = ":classes", 2**16


@register
@dataclass(frozen=True)
class LabelOnly(Codec):
    """Codec that sends the most probable class of a row, the lowest of equal ones.

    ``p' = e_c`` with ``c = argmax p`` for probabilities, ``z' = m·e_c`` with the margin m for
    logits and those of classes, the softmax of which gives class c
    ``e^m / (e^m + C − 1)``.

    Bytes of M rows: ``M·w + 4``; w is 1 for up to 256 classes, 2 for up to 65,536. More are
    refused; all other kinds travel as they are. Error: ``max_c |p'_c − p_c| = 1 − max p``; of
    logits only the argmax is kept.

    Parameters
    ----------
    margin : float
        The logit m of the class over all others. No paper's: 10 gives it 0.9996 of 10 classes.
    """

    name: ClassVar[str] = "label-only"
    kinds: ClassVar[frozenset[str] | None] = frozenset({"probabilities", *LOGITS})

    margin: Positive = 10.0

    def encode(self, arrays: Arrays, about: About) -> Arrays:
        """Return labels and the number of classes; refuse what is not finite."""
        encoded = dict(arrays)
        for name, array in arrays.items() if self.changes(about.kind) else ():
            if array.ndim != 2 or array.dtype != np.float32 or not array.shape[1]:
                continue
            classes = array.shape[1]
            if classes > MOST_CLASSES:
                raise KnowledgeError(f"label-only: {classes:,} classes, at most {MOST_CLASSES:,}")
            need_finite(name, array)
            encoded[name] = array.argmax(1).astype(smallest_type(classes))
            encoded[name + CLASSES] = np.array([classes], np.int32)
        return encoded

    def decode(self, arrays: Arrays, about: About) -> Arrays:
        """Return one-hot rows."""
        decoded = {n: a for n, a in arrays.items() if not n.endswith(CLASSES)}
        for name in [n for n in decoded if n + CLASSES in arrays]:
            labels, (classes,) = decoded[name], arrays[name + CLASSES].tolist()
            if labels.ndim != 1:
                raise KnowledgeError(f"{name}: labels of shape {list(labels.shape)}")
            need_room((len(labels), classes), about)
            values = np.zeros((len(labels), classes), np.float32)
            one = self.margin if about.kind in LOGITS else 1
            np.put_along_axis(values, labels[:, None].astype(np.int64), np.float32(one), 1)
            decoded[name] = values
        return decoded

    def passes(self, kind: str) -> str:
        """Return that labels are no rows of the kind."""
        return CODES if self.changes(kind) else kind

    def encoded_size(self, size: Size) -> Size:
        """Return two arrays for each, and 4 bytes more."""
        return Size(2 * size.arrays, size.bytes + 4 * size.arrays)
