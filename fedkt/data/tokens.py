"""Token ids and their attention mask in one tensor of integers."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from fedkt.data.splits import Array


def pack_tokens(ids: Any, mask: Any = None) -> Array:
    """Return token ids and their attention mask in one array, int64 ``[N, L]``.

    Where the mask is 0 a token's id ``i`` is kept as ``-1 - i``. So ids without a mask are
    packed as they are.

    Parameters
    ----------
    ids : array-like
        Integers ``[N, L]``, at least 0.
    mask : array-like, optional
        ``[N, L]``: 1 for tokens that a model attends to, 0 for padding. By default all are 1.
    """
    packed: Array = np.asarray(ids, dtype=np.int64)
    return packed if mask is None else np.where(np.asarray(mask) > 0, packed, ~packed)


def unpack_tokens(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the token ids and the attention mask that a tensor packs, int64 ``[N, L]`` each.

    Parameters
    ----------
    x : Tensor
        int64 ``[N, L]``, as of :func:`pack_tokens`.
    """
    mask = x >= 0
    return x.where(mask, ~x), mask.long()
