"""What codecs of rows share: kinds, checks, and the way back to probabilities."""

from __future__ import annotations

import math

import numpy as np

from fedkt.codecs.codec import About
from fedkt.errors import KnowledgeError

LOGITS = frozenset({"logits", "class-logits"})
CODES = "codes"  # what is no kind of knowledge any more, to the next codec of a chain


def need_finite(name: str, array: np.ndarray) -> None:
    """Raise KnowledgeError if an array holds NaN or infinity, which would be lost."""
    if not np.isfinite(array).all():
        raise KnowledgeError(f"{name} holds NaN or infinity")


def need_room(shape: tuple[int, ...], about: About, width: int = 4) -> None:
    """Raise KnowledgeError if an array would be larger than the receiver allows.

    Parameters
    ----------
    shape : tuple[int, ...]
        The shape.
    about : About
        The facts, with the limit.
    width : int
        Bytes of a number; float32 by default.
    """
    size = width * math.prod(shape)
    if min(shape, default=0) < 0 or (about.limit is not None and size > about.limit):
        raise KnowledgeError(f"an array of {list(shape)}, and {about.limit} bytes are allowed")


def on_simplex(values: np.ndarray) -> np.ndarray:
    """Return rows as probabilities: none below 0, each with sum 1; rows of zeros stay."""
    values = values.clip(min=0)
    total = values.sum(-1, keepdims=True)
    divided: np.ndarray = values / np.where(total > 0, total, 1).astype(values.dtype)
    return divided


def smallest_type(number: int) -> np.dtype:
    """Return the smallest unsigned type that holds 0 to ``number - 1``."""
    return np.min_scalar_type(max(number - 1, 0))
