"""Bases of codecs: what the receiver of a share decoded last, and how it grows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedkt.codecs import About, Codec
from fedkt.knowledge import Knowledge


@dataclass(frozen=True)
class Base:
    """What the receiver of a share decoded last, which a codec may refer to.

    Parameters
    ----------
    round : int
        The round that it belongs to.
    knowledge : Knowledge
        The knowledge as decoded; with rows of before where the codec keeps them.
    sent : Tensor, optional
        int64 ``[M]``, the round in which each row was sent; None: all in ``round``.
    """

    round: int
    knowledge: Knowledge
    sent: Tensor | None = None

    @property
    def content(self) -> tuple[int, Knowledge, Tensor | None]:
        """The fields, for a snapshot."""
        return self.round, self.knowledge, self.sent


def alike(base: Base, knowledge: Knowledge) -> bool:
    """Return whether a base has the form of the knowledge to send, but for the number of rows."""
    skip = 0 if knowledge.ids is None else 1
    before, now = (
        {name: tensor.shape[skip:] for name, tensor in of.tensors.items()}
        for of in (base.knowledge, knowledge)
    )
    return base.knowledge.kind == knowledge.kind and before == now


def about_rows(
    kind: str,
    ids: Tensor | None,
    base: Base | None,
    round_: int = 0,
    limit: int | None = None,
) -> About:
    """Return the facts for a codec, the rows of the base in the order of ``ids``."""
    rows = None if ids is None else _numpy(ids)
    if base is None:
        return About(kind, rows, limit=limit)
    arrays = {name: _numpy(tensor) for name, tensor in base.knowledge.tensors.items()}
    if rows is None or base.knowledge.ids is None:
        return About(kind, rows, arrays, limit=limit)
    before = _numpy(base.knowledge.ids)
    order = np.argsort(before)
    places = np.searchsorted(before, rows, sorter=order).clip(max=len(before) - 1)
    known = np.zeros(len(rows), dtype=bool)
    if len(before):
        places = order[places]
        known = before[places] == rows
        if base.knowledge.counts is not None:  # a row with a count of 0 is there for its shape
            known &= _numpy(base.knowledge.counts)[places] > 0
    aligned, ages = {}, np.zeros(len(rows), dtype=np.int64)
    ages[known] = round_ - _numpy(rounds_of(base))[places[known]]
    for name, array in arrays.items():
        aligned[name] = np.zeros((len(rows), *array.shape[1:]), dtype=array.dtype)
        aligned[name][known] = array[places[known]]
    return About(kind, rows, aligned, known, ages, limit)


def grown(base: Base | None, decoded: Knowledge, round_: int, codec: Codec) -> Base:
    """Return a base with the rows of a message, and with those of before that are not in it.

    Parameters
    ----------
    base : Base, optional
        The base of the message.
    decoded : Knowledge
        The message's.
    round_ : int
        The round that it belongs to.
    codec : Codec
        The first of its chain, which says what rows were sent.
    """
    ids = decoded.ids
    if ids is None:
        return Base(round_, decoded)
    about = about_rows(decoded.kind, ids, base, round_)
    fresh, ages = codec.sends(about), torch.zeros_like(ids)
    if fresh is not None and about.ages is not None:
        ages = torch.tensor(np.where(fresh, 0, about.ages))
    there = ids >= 0 if decoded.counts is None else decoded.counts > 0
    ids, rows, sent = ids[there], decoded.values[there], (round_ - ages)[there]
    before = None if base is None else base.knowledge
    if base is not None and before is not None and before.ids is not None:
        others = ~torch.isin(before.ids, ids)
        ids = torch.cat([ids, before.ids[others]])
        rows = torch.cat([rows, before.values[others]])
        sent = torch.cat([sent, rounds_of(base)[others]])
    return Base(round_, Knowledge(decoded.kind, {"values": rows}, ids), sent)


def rounds_of(base: Base) -> Tensor:
    """Return the round in which each row of a base was sent."""
    if base.sent is not None:
        return base.sent
    rows = 0 if base.knowledge.ids is None else len(base.knowledge.ids)
    return torch.full((rows,), base.round)


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().contiguous().numpy()
