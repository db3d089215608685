"""Columns of token ids, as tokenisers make them: ``input_ids`` and ``attention_mask``."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedkt.data.splits import Array
from fedkt.data.tokens import pack_tokens
from fedkt.errors import ConfigError

IDS = "input_ids"
MASK = "attention_mask"


def tokens_of(source: Any, name: str) -> Array:
    """Return the token ids of a source packed with their mask, int64 ``[N, L]``.

    Rows of different lengths are padded at the end with masked zeros.

    Parameters
    ----------
    source : object
        With ``input_ids`` and, if there is one, ``attention_mask`` by index: one list a row.
    name : str
        The data set, for messages.

    Raises
    ------
    ConfigError
        If they are no lists of integers.
    """
    columns = getattr(source, "column_names", None) or list(source)
    rows = [np.asarray(ids) for ids in source[IDS]]
    masks = [np.asarray(mask) for mask in source[MASK]] if MASK in columns else None
    if any(row.ndim != 1 or (row.size and row.dtype.kind not in "iu") for row in rows):
        raise ConfigError(f"{name}: column {IDS!r} must hold one list of integers in each row.")
    lengths = np.array([len(row) for row in rows])
    if masks is None:
        present = np.arange(lengths.max()) < lengths[:, None]
        return pack_tokens(_padded(rows), present) if not present.all() else _padded(rows)
    return pack_tokens(_padded(rows), _padded(masks))


def _padded(rows: list[Array]) -> Array:
    out = np.zeros((len(rows), max(len(row) for row in rows)), dtype=np.int64)
    for place, row in enumerate(rows):
        out[place, : len(row)] = row
    return out
