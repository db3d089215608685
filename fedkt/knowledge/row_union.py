"""The rows of clients that each hold some: one table over the union of their ids."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedkt.errors import KnowledgeError


def united(
    name: str,
    clients: Sequence[int],
    ids: Sequence[Tensor],
    values: Sequence[Tensor],
    counts: Sequence[Tensor | None],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the rows of N clients over the union of their ids, M of them.

    Parameters
    ----------
    name : str
        Name of the share, for messages.
    clients : Sequence[int]
        The client ids.
    ids, values : Sequence[Tensor]
        Of each client int64 ``[M_n]`` and ``[M_n, ...]``; without rows in any width.
    counts : Sequence[Tensor or None]
        Of each client int64 ``[M_n]``; None stands for ones.

    Returns
    -------
    ids : Tensor
        int64 ``[M]``, ascending.
    values : Tensor
        ``[N, M, ...]``, 0 where a client lacks a row.
    counts : Tensor
        int64 ``[N, M]``, 0 where a client lacks a row.

    Raises
    ------
    KnowledgeError
        If rows differ in shape.
    """
    union = torch.unique(torch.cat(list(ids)))  # ascending
    first = next((n for n, own in enumerate(ids) if len(own)), 0)
    shape, size = values[first].shape[1:], (len(ids), len(union))
    table = torch.zeros((*size, *shape), dtype=values[first].dtype)
    examples = torch.zeros(size, dtype=torch.int64)
    for n, own in enumerate(ids):
        if not len(own):
            continue
        if values[n].shape[1:] != shape:
            raise KnowledgeError(
                f"{name}: client {clients[n]} has rows of shape {list(values[n].shape[1:])}, "
                f"client {clients[first]} of {list(shape)}"
            )
        places, number = torch.searchsorted(union, own), counts[n]
        table[n, places] = values[n]
        examples[n, places] = torch.ones_like(own) if number is None else number
    return union, table, examples
