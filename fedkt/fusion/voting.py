"""Votes: one label for each sample from the labels that several models give it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkt.answers import top
from fedkt.errors import KnowledgeError
from fedkt.fusion.fusion import Fusion, FusionRound, of_rows
from fedkt.knowledge import Fused, Knowledge, Stack
from fedkt.registry import register
from fedkt.rng import torch_rng


def majority(
    labels: Tensor,
    ids: Tensor,
    num_classes: int,
    seed: int,
    round_: int,
    present: Tensor | None = None,
) -> Tensor:
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
    present : Tensor, optional
        bool ``[K, M]``: which models vote on a sample; by default all.

    Returns
    -------
    Tensor
        int64 ``[M]``.
    """
    votes = counts(labels, num_classes, present)
    width = int(ids.max()) + 1 if len(ids) else 0
    lots = torch.rand(width, num_classes, generator=torch_rng(seed, "vote", round_))[ids]
    # Half a random number is less than one vote, also after rounding.
    return (votes + lots / 2).argmax(-1)


def counts(labels: Tensor, num_classes: int, present: Tensor | None = None) -> Tensor:
    """Return how many models give each sample each label, float32 ``[M, C]``.

    ``present`` is as in :func:`majority`.
    """
    ballots = F.one_hot(labels, num_classes)
    ballots = ballots if present is None else ballots * present[..., None]
    return ballots.sum(0).to(torch.float32)


def vote(stack: Stack, num_classes: int, seed: int, round_: int) -> Fused:
    """Vote on each sample; one result, broadcast.

    Parameters
    ----------
    stack : Stack
        Labels ``[N, M]``, or probabilities or logits ``[N, M, C]``, which vote for their
        largest entry. The clients that have a sample vote on it.
    num_classes : int
        C.
    seed, round_ : int
        See :func:`majority`.

    Returns
    -------
    Fused
        Probabilities ``[M, C]``, 1 for the elected label, without samples that nobody has; the
        diagnostics hold the mean share of the clients that voted for it (``agreement``) and the
        share of the samples that were drawn among equals (``ties``).
    """
    if stack.kind not in ("labels", "probabilities", "logits"):
        raise KnowledgeError(f"{stack.kind} cannot vote; share labels or answers")
    assert stack.ids is not None
    present = stack.present
    labels = stack.values if stack.kind == "labels" else top(stack.values)
    voted = majority(labels, stack.ids, num_classes, seed, round_, present)
    one_hot = F.one_hot(voted, num_classes).to(torch.float32)
    knowledge = of_rows("probabilities", one_hot, stack.ids, stack.covered, None)
    return Fused({stack.name: knowledge}, diagnostics=tally(labels, num_classes, present))


def tally(labels: Tensor, num_classes: int, present: Tensor | None = None) -> dict[str, float]:
    """Return ``agreement`` and ``ties`` of the votes ``[K, M]``; see :func:`vote`.

    Of the samples that somebody has; 0 where there are none.
    """
    votes = counts(labels, num_classes, present)
    most = votes.max(-1, keepdim=True).values
    tied = ((votes == most).sum(-1) > 1).float()
    if present is None:
        return {"agreement": float(most.mean()) / len(labels), "ties": float(tied.mean())}
    voters = present.sum(0)
    somebody = voters > 0
    if not somebody.any():
        return {"agreement": 0.0, "ties": 0.0}
    agreement = (most[:, 0] / voters)[somebody].mean()
    return {"agreement": float(agreement), "ties": float(tied[somebody].mean())}


@register
@dataclass(frozen=True)
class Vote(Fusion):
    """One label for each sample by the majority of the clients that have it.

    See :func:`vote`. Labels vote, and answers for their largest entry. The result is probabilities,
    1 for the label.
    """

    name: ClassVar[str] = "vote"
    partial = True
    single: ClassVar[str] = "ties are drawn by the lots of the round, which sums do not know"

    def __call__(self, stack: Stack, round: FusionRound) -> Knowledge:
        """Return the votes; the diagnostics are those of :func:`vote`."""
        fused = vote(stack, round.num_classes, round.seed, round.number)
        round.diagnostics.update(fused.diagnostics)
        return fused.shared[stack.name]
