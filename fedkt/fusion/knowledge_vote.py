"""Knowledge vote and consensus focus: which answers of several models to trust, and which models.

KD3A (Feng et al., ICML 2021, arXiv:2011.09757), sections 3.2 and 3.3. A model takes part in the
vote on a sample if the largest probability of its answer reaches a gate; it votes for its top
class with that probability.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedkt.answers import probabilities_of
from fedkt.errors import ConfigError
from fedkt.fusion.fusion import Fusion, FusionRound, need_answers, of_rows
from fedkt.knowledge import Knowledge, Stack
from fedkt.options import PositiveFraction
from fedkt.registry import register

MOST_EXACT = 8  # models up to which all coalitions are computed: 256


def ballots(answers: Tensor, gate: float) -> Tensor:
    """Return the ballot of each model: the confidence in its top class if it passes, else 0.

    Parameters
    ----------
    answers : Tensor
        Probabilities ``[K, M, C]``.
    gate : float
        In (0, 1]; a confidence that reaches it passes.

    Returns
    -------
    Tensor
        ``[K, M, C]``, at most one entry a row above 0.

    Raises
    ------
    ConfigError
        If the gate lies outside (0, 1].
    """
    if not 0 < gate <= 1:
        raise ConfigError(f"the gate must lie in (0, 1], not {gate}.")
    confidence, top = answers.max(-1, keepdim=True)
    passing = torch.where(confidence >= gate, confidence, torch.zeros_like(confidence))
    return torch.zeros_like(answers).scatter_(-1, top, passing)


def knowledge_vote(
    answers: Tensor, gate: float, present: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the consensus on each sample and how many models support it.

    The consensus class has the largest sum of the confidences that pass the gate; the
    consensus is the mean of the answers that pass and name it. Where no answer passes it is
    the mean of all answers and has no supporter.

    Parameters
    ----------
    answers : Tensor
        Probabilities ``[K, M, C]``.
    gate : float
        In (0, 1].
    present : Tensor, optional
        bool ``[K, M]``: which models answer a sample; by default all.

    Returns
    -------
    targets : Tensor
        Probabilities ``[M, C]``; 0 for a sample that no model answers.
    support : Tensor
        int64 ``[M]``, from 0 to K.
    """
    cast = ballots(answers, gate)
    cast = cast if present is None else cast * present[..., None]
    chosen = cast.sum(0).argmax(-1)
    supports = cast.gather(-1, chosen[None, :, None].expand(len(cast), -1, 1))[..., 0] > 0
    support = supports.sum(0)
    everyone = torch.ones_like(supports) if present is None else present
    counted = torch.where(support > 0, supports, everyone).to(answers.dtype)
    targets = (counted[..., None] * answers).sum(0) / counted.sum(0).clamp_min(1)[:, None]
    return targets, support


def quality(cast: Tensor) -> float:
    """Return the quality of a coalition's consensus: Σ over samples of supporters · confidence.

    The mean confidence of the supporters times their number is the sum of their ballots, so
    with the ballots ``[S, M, C]`` of the coalition it is Σ_m max_c Σ_s cast[s, m, c]. No
    coalition loses by a new member.
    """
    if not len(cast):
        return 0.0
    return float(cast.sum(0, dtype=torch.float64).amax(-1).sum())


def contributions(
    cast: Tensor, permutations: int = 128, generator: torch.Generator | None = None
) -> Tensor:
    """Return each model's Shapley value in the game whose worth is :func:`quality`.

    The mean, over the orders in which models may join, of what the quality gains when the
    model does. Exact, over the 2^K coalitions, for K up to 8; beyond that over random orders.

    Parameters
    ----------
    cast : Tensor
        Ballots ``[K, M, C]``.
    permutations : int
        How many orders are drawn beyond 8 models.
    generator : torch.Generator, optional
        Draws them.

    Returns
    -------
    Tensor
        float64 ``[K]``, at least 0; they sum to the quality of all.
    """
    players = len(cast)
    if players <= MOST_EXACT:
        return _over_coalitions(cast)
    values = torch.zeros(players, dtype=torch.float64)
    for _ in range(permutations):
        joined = torch.zeros(cast.shape[1:], dtype=torch.float64)
        before = 0.0
        for player in torch.randperm(players, generator=generator).tolist():
            joined += cast[player]
            after = float(joined.amax(-1).sum())
            values[player] += after - before
            before = after
    return values / permutations


def _over_coalitions(cast: Tensor) -> Tensor:
    players = len(cast)
    values = torch.zeros(players, dtype=torch.float64)
    everyone = range(players)
    for size in range(players + 1):
        for coalition in itertools.combinations(everyone, size):
            worth = quality(cast[list(coalition)])
            # A coalition's worth counts for its members, and against those who are not in it.
            for player in everyone:
                size_without = size - 1 if player in coalition else size
                share = 1 / (players * math.comb(players - 1, size_without))
                values[player] += share * worth if player in coalition else -share * worth
    return values.clamp_min(0)


def shares(values: Tensor) -> Tensor:
    """Return values ``[K]``, at least 0, divided by their sum; equal shares if all are 0."""
    total = values.sum()
    if not total > 0:
        return torch.full_like(values, 1 / len(values))
    return values / total


@register
@dataclass(frozen=True)
class KnowledgeVote(Fusion):
    """The mean of the answers that are sure enough and agree.

    See :func:`knowledge_vote`. A sample's goes over the clients that have it. Where no answer
    passes the gate it is the mean of all. The counts of the result are the supporters, which the
    term ``supported`` weighs by; a sample without one is not learnt from.

    Parameters
    ----------
    gate : float
        The confidence from which on an answer votes, in (0, 1].
    unsupported : bool
        Whether samples without a supporter are learnt from as well; then there are no counts.
    """

    gate: PositiveFraction = 0.8
    unsupported: bool = False
    name: ClassVar[str] = "knowledge-vote"
    partial = True
    single: ClassVar[str] = "the consensus is the mean of those single answers that name it"

    def __call__(self, stack: Stack, round: FusionRound) -> Knowledge:
        """Return the consensus; the diagnostics hold the share of ``supported`` samples."""
        need_answers(self.name, stack.kind)
        assert stack.ids is not None
        answers, present = probabilities_of(stack.values, stack.kind), stack.present
        targets, support = knowledge_vote(answers, self.gate, present)
        round.diagnostics["supported"] = float((support > 0).double().mean())
        if not self.unsupported:
            return Knowledge("probabilities", {"values": targets}, stack.ids, support)
        return of_rows("probabilities", targets, stack.ids, stack.covered, None)
