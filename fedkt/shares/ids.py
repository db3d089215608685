"""The public samples in use in a round: both sides draw them alike, so they cost no bytes."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from fedkt.data.samples import Samples
from fedkt.errors import KnowledgeError
from fedkt.rng import torch_rng


@lru_cache(maxsize=16)
def public_ids(
    size: int, samples: int, seed: int, round_: int, purpose: str = "public-sample"
) -> Tensor:
    """Return the ids of the public samples in use in a round, ascending int64.

    Server and clients call it alike, so that the choice costs no bytes. The clients of one
    process get the same tensor: do not change it.

    Parameters
    ----------
    size : int
        Size of the public set.
    samples : int
        How many to draw; 0 takes all.
    seed, round_, purpose
        They name the random stream.
    """
    if samples == 0 or samples >= size:
        return torch.arange(size)
    order = torch.randperm(size, generator=torch_rng(seed, purpose, round_))
    return order[:samples].sort().values


def public_samples(public: Samples | None, samples: int, seed: int, round_: int) -> Samples:
    """Return the public samples in use in a round; see :func:`public_ids`.

    Raises
    ------
    KnowledgeError
        If there is no public set.
    """
    if public is None:
        raise KnowledgeError("this client has no public set to predict on")
    return public.at_ids(public_ids(len(public), samples, seed, round_))
