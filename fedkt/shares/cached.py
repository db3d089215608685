"""Fused labels that are used again: the answers that are still needed, and the cache of a client.

For any method that distils probabilities on public samples; SCARLET is the one that came with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from fedkt.about import Model
from fedkt.data.samples import Samples
from fedkt.knowledge import Kind, Knowledge
from fedkt.options import Count
from fedkt.registry import register
from fedkt.shares.ids import public_ids
from fedkt.shares.predict import Predict
from fedkt.shares.share import Asked, Share, ShareWork
from fedkt.shares.sizes import INT64, Sizes
from fedkt.upload_check import Expected


@lru_cache(maxsize=16)
def made_in(size: int, samples: int, duration: int, seed: int, round_: int) -> Tensor:
    """Return the round in which each public sample is asked for last, int64 ``[size]``; 0: never.

    A round asks for a sample that it draws, unless it was asked for at most ``duration`` rounds
    before. That follows from the seed, so both sides know it and no signals travel.
    """
    made = torch.zeros(size, dtype=torch.int64)
    for number in range(1, round_ + 1):
        drawn = public_ids(size, samples, seed, number)
        stale = (made[drawn] == 0) | (number - made[drawn] > duration)
        made[drawn[stale]] = number
    return made


@register(name="predict-fresh")
@dataclass(frozen=True)
class PredictFresh(Predict):
    """Answers on the public samples that a round draws and whose fused labels are not cached.

    Parameters
    ----------
    duration : int
        Rounds for which a label is used again, D ≥ 0; 0 asks for all that are drawn.
    """

    duration: Count = 50
    partial: bool = True

    def ids(
        self, size: int, seed: int, round: int, asked: Mapping[str, Knowledge] | None = None
    ) -> Tensor:
        """Return the ids of these samples, ascending; there may be none."""
        made = made_in(size, self.samples, self.duration, seed, round)
        return (made == round).nonzero()[:, 0]

    def upload_bytes(self, sizes: Sizes) -> tuple[int, int]:
        """Return the bytes of no row, and of all that a round may draw."""
        rows = min(self.samples or sizes.public, sizes.public)
        return 0, rows * (sizes.floats * sizes.classes + 2 * INT64)

    def _samples(self, work: ShareWork) -> Samples:
        assert work.data.public is not None
        public = work.data.public
        return public.at_ids(self.ids(len(public), work.seed, work.round))


@register(name="cached-labels")
@dataclass(frozen=True)
class CachedLabels(Share):
    """The labels of the samples that a round draws, those that came and those that are cached.

    For ``Remember``: it keeps all labels that ever came, the newest of each sample.

    Parameters
    ----------
    samples : int
        Number of public samples drawn each round; 0 takes all.
    name : str
        The name of the labels.
    """

    samples: Count = 0
    name: str = "targets"

    @property
    def kind(self) -> Kind:
        """The kind of knowledge."""
        return "probabilities"

    @property
    def uses_public(self) -> bool:
        """Whether it needs the public set."""
        return True

    def needs(self) -> tuple[str, ...]:
        """Return the name of the labels that come."""
        return ("public",)

    def keeps(self) -> tuple[str, ...]:
        """Return the name of the cache."""
        return ("cache",)

    def make(self, model: Model, work: ShareWork) -> Knowledge:
        """Return the labels after the cache has taken those that came."""
        assert work.data.public is not None
        cache = newest(work.own.get("cache"), work.knowledge["public"])
        work.keep("cache", cache)
        drawn = public_ids(len(work.data.public), self.samples, work.seed, work.round)
        return rows_at(cache, drawn)

    def expected(self, asked: Asked) -> Expected:
        """Return ``values [M, C]``, of which rows may lack."""
        return Expected(self.kind, asked.ids, {"values": (None, asked.num_classes)}, partial=True)


def newest(cache: Knowledge | None, fresh: Knowledge) -> Knowledge:
    """Return labels by ascending id: the fresh ones, and those of the cache for other samples."""
    assert fresh.ids is not None
    ids, values = fresh.ids, fresh.values
    if cache is not None:
        assert cache.ids is not None
        other = ~torch.isin(cache.ids, ids)
        ids = torch.cat([cache.ids[other], ids])
        values = torch.cat([cache.values[other], values])
    order = ids.argsort()
    return Knowledge.rows(fresh.kind, values[order], ids[order])


def rows_at(knowledge: Knowledge, ids: Tensor) -> Knowledge:
    """Return the rows of samples that are among some ids."""
    assert knowledge.ids is not None
    there = torch.isin(knowledge.ids, ids)
    return Knowledge.rows(knowledge.kind, knowledge.values[there], knowledge.ids[there])
