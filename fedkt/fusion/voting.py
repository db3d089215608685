"""Votes: one label for each sample from the labels that several models give it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkt.answers import top
from fedkt.errors import KnowledgeError
from fedkt.knowledge import Fused, Knowledge, Stack
from fedkt.registry import register
from fedkt.rng import torch_rng


def majority(labels: Tensor, ids: Tensor, num_classes: int, seed: int, round_: int) -> Tensor:
    """Return the label that most models give each sample; ties are broken at random.

    FedKA (Sun et al., ACML 2022), equation 10.

    Parameters
    ----------
    labels : Tensor
        int64 ``[K, M]``: model k's label for sample m.
    ids : Tensor
        int64 ``[M]``: the samples' ids.
    num_classes : int
        C.
    seed, round_ : int
        With the sample's id they name the draw among equals, so that it does not depend on
        which other samples are voted on.

    Returns
    -------
    Tensor
        int64 ``[M]``.
    """
    votes = counts(labels, num_classes)
    width = int(ids.max()) + 1 if len(ids) else 0
    lots = torch.rand(width, num_classes, generator=torch_rng(seed, "vote", round_))[ids]
    # Half a random number is less than one vote, also after rounding.
    return (votes + lots / 2).argmax(-1)


def counts(labels: Tensor, num_classes: int) -> Tensor:
    """Return how many models give each sample each label, float32 ``[M, C]``."""
    return F.one_hot(labels, num_classes).sum(0).to(torch.float32)


@register(part="fusions")
def vote(stack: Stack, num_classes: int, seed: int, round_: int) -> Fused:
    """Vote on each sample; one result, broadcast.

    Parameters
    ----------
    stack : Stack
        Labels ``[N, M]``, or probabilities or logits ``[N, M, C]``, which vote for their
        largest entry.
    num_classes : int
        C.
    seed, round_ : int
        See :func:`majority`.

    Returns
    -------
    Fused
        Probabilities ``[M, C]``, 1 for the elected label; the diagnostics hold the
        mean share of the clients that voted for it (``agreement``) and the share of the
        samples that were drawn among equals (``ties``).
    """
    if stack.kind not in ("labels", "probabilities", "logits"):
        raise KnowledgeError(f"{stack.kind} cannot vote; share labels or answers")
    stack.need_all_rows("a vote")
    assert stack.ids is not None
    labels = stack.values if stack.kind == "labels" else top(stack.values)
    voted = majority(labels, stack.ids, num_classes, seed, round_)
    one_hot = F.one_hot(voted, num_classes).to(torch.float32)
    knowledge = Knowledge.rows("probabilities", one_hot, stack.ids)
    return Fused({stack.name: knowledge}, diagnostics=tally(labels, num_classes))


def tally(labels: Tensor, num_classes: int) -> dict[str, float]:
    """Return ``agreement`` and ``ties`` of the votes ``[K, M]``; see :func:`vote`."""
    votes = counts(labels, num_classes)
    most = votes.max(-1, keepdim=True).values
    return {
        "agreement": float(most.mean()) / len(labels),
        "ties": float(((votes == most).sum(-1) > 1).float().mean()),
    }
