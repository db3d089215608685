"""Averaging with trust: the mean of any public-set method, by a rule of trust."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fedkt.answers import logits_of, of_kind
from fedkt.errors import ConfigError
from fedkt.fusion.fusion import Fusion, FusionRound, need_answers
from fedkt.fusion.trust import FLOOR
from fedkt.fusion.trust_rules import Correlation, Root, TrustRule, trust_rule
from fedkt.fusion.weighting import Weighting, sample_weights
from fedkt.knowledge import Fused, Knowledge, Stack
from fedkt.options import AtLeastOne, Factor, Memory
from fedkt.registry import register

AnswerKind = Literal["logits", "probabilities"]


def trusted_mean(
    stack: Stack,
    rule: TrustRule,
    round: FusionRound,
    kind: AnswerKind | None = None,
    weigh: Callable[[Tensor], Tensor] | None = None,
) -> Fused:
    """Average the clients as far as they are trusted; one result, broadcast.

    T(x) = Σ_n r_n w_n(x) v_n(x) / Σ_n r_n w_n(x), where v are the softened answers as
    ``kind``, w the sample weights and r the trust, at least 0.001; unless the rule averages by
    itself (``median``, ``root``).

    Parameters
    ----------
    stack : Stack
        Logits or probabilities of N clients, ``[N, M, C]``.
    rule : TrustRule
        The rule.
    round : FusionRound
        The round, with the strategy's memory and the labels that the server knows.
    kind : {"logits", "probabilities"}, optional
        What is averaged; by default what was shared. Trust acts on logits alike: softened
        logits are averaged.
    weigh : callable, optional
        From logits ``[N, M, C]`` (softened) to sample weights ``[N, M]``; by default 1.

    Returns
    -------
    Fused
        With diagnostics ``clients``; ``trust``, r ``[N]``; ``mean_weight``, each client's mean
        share of the target ``[N]`` (1 and 1/N with ``median``, which has no weights); and those
        of the rule.

    Raises
    ------
    ConfigError
        If the rule cannot average that kind, or lacks the labels that it needs.
    KnowledgeError
        If a client lacks rows, unless the rule is ``partial``.
    """
    kind = kind or ("logits" if stack.kind == "logits" else "probabilities")
    if kind not in rule.forms:
        forms = " or ".join(rule.forms)
        raise ConfigError(
            f"trust {rule.title!r} weighs {forms}; share or average those, not {kind}."
        )
    r = rule(stack, round)
    plain = logits_of(stack.values, stack.kind)
    logits = rule.softened(plain) if rule.judged(stack) else plain
    weights = torch.ones(logits.shape[:2]) if weigh is None else weigh(logits)
    weights = weights * r.clamp_min(FLOOR)[:, None]
    if stack.present is not None:
        weights = weights * stack.present
    if rule.judged(stack):
        weights = rule.weights(logits, weights)
    unchanged = logits is plain and stack.kind == kind
    answers = stack if unchanged else _answers(stack, logits, kind)
    fused, parts = rule.fuse(answers, weights, round)
    share = parts / parts.sum(0).clamp_min(1e-38)
    report = {"clients": list(stack.clients), "trust": r, "mean_weight": share.mean(1)}
    diagnostics = {**report, **round.diagnostics}
    return Fused(shared={stack.name: fused}, diagnostics=diagnostics)


def _answers(stack: Stack, logits: Tensor, kind: AnswerKind) -> Stack:
    return replace(stack, kind=kind, tensors={"values": of_kind(logits, kind)})


@register
@dataclass(frozen=True)
class TrustedMean(Fusion):
    """The mean of the answers, as far as clients are trusted and sure of a sample.

    :func:`trusted_mean` with :func:`~fedkt.fusion.weighting.sample_weights`. With
    ``choice="off"`` a sample counts for the clients that have it; every other built-in rule refuses
    uploads that lack rows. ``trusted-mean(weighting=entropy, form=probabilities)`` is the fusion of
    prior-free knowledge (``fedpf``).

    Parameters
    ----------
    choice : TrustRule or str
        The rule of trust: ``off``, ``correlation``, ``per-class``, ``median``, ``root`` or another
        (``fedkt list trust-rules``).
    history, root
        Of the rules that have them; see :class:`~fedkt.fusion.trust_rules.Root`.
    weighting : {"entropy", "variance", "uniform"}
        Rule of the weights for each sample.
    gamma : float
        γ ≥ 0, for ``entropy``.
    form : {"shared", "probabilities"}
        What is averaged: what was shared, or its probabilities.
    """

    choice: TrustRule | str = "correlation"
    history: Memory = Correlation.history
    root: AtLeastOne = Root.root
    weighting: Weighting = "uniform"
    gamma: Factor = 3.0
    form: Literal["shared", "probabilities"] = "shared"
    name: ClassVar[str] = "trusted-mean"
    single: ClassVar[str] = "trust compares single uploads"

    def __post_init__(self) -> None:
        _ = self.rule  # an unknown name shows here

    @cached_property
    def rule(self) -> TrustRule:
        """The rule of trust, with the options."""
        return trust_rule(self.choice, history=self.history, root=self.root)

    @property
    def partial(self) -> bool:
        """Whether it fuses uploads that lack rows: without trust."""
        return self.rule.partial

    def __call__(self, stack: Stack, round: FusionRound) -> Knowledge:
        """Return the mean; the diagnostics are those of :func:`trusted_mean`."""
        need_answers(self.name, stack.kind)
        fused = trusted_mean(
            stack,
            self.rule,
            round,
            "probabilities" if self.form == "probabilities" else None,
            lambda logits: sample_weights(logits, self.weighting, self.gamma),
        )
        round.diagnostics.update(fused.diagnostics)
        return fused.shared[stack.name]
