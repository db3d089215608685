"""Averaging with trust: the rules of ``fedkt.fusion.trust`` wired up, for any public-set method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from fedkt.answers import logits_of, of_kind
from fedkt.errors import ConfigError
from fedkt.fusion import trust as rules
from fedkt.fusion.averaging import mean
from fedkt.fusion.fusion import Fusion, FusionRound, need_answers
from fedkt.fusion.weighting import Weighting, sample_weighted_mean, sample_weights
from fedkt.knowledge import Fused, Knowledge, Stack
from fedkt.options import AtLeastOne, Factor, Memory, checked
from fedkt.registry import register

Choice = Literal["off", "correlation", "per-class", "median", "root"]
AnswerKind = Literal["logits", "probabilities"]
FEWEST_TO_JUDGE = 5  # with fewer clients a liar cannot be told from an honest one


@checked
@dataclass(frozen=True)
class Trust:
    """The rule by which a fusion trusts clients.

    Parameters
    ----------
    choice : {"off", "correlation", "per-class", "median", "root"}
        ``correlation``: soften over-confident uploads to the median entropy, and trust
        clients by how well they correlate with their peers, over rounds; at least five
        clients, else off. ``per-class`` also weighs clients class by class, by what the
        others confirm. ``median`` takes the coordinate-wise median instead of any weights.
        ``root``: correlation, and each client's answers are weighed class by class by their
        precision on public rows whose labels the server knows.
    history : float
        Share of the past in the correlations, in [0, 1).
    root : int
        For ``root``: of the public rows in use in a round, the labelled ones with an id below
        this number count; at least 1.

    Raises
    ------
    ConfigError
        Naming the value at fault and what is allowed.
    """

    choice: Choice = "off"
    history: Memory = 0.5
    root: AtLeastOne = 50


def peer_trust(stack: Stack, memory: dict[str, Any], history: float = 0.5) -> Tensor:
    """Return the trust in each client by the correlation with its peers, over rounds.

    Parameters
    ----------
    stack : Stack
        Logits or probabilities of N clients, ``[N, M, C]``.
    memory : dict
        The strategy's; keeps ``agreement``, the remembered correlation of each pair of
        clients. A pair that is not in this round keeps what is remembered of it.
    history : float
        Share of the past, in [0, 1).

    Returns
    -------
    Tensor
        r, ``[N]`` in [0, 1]; all 1 for fewer than five clients.

    Raises
    ------
    KnowledgeError
        If a client lacks rows.
    """
    stack.need_all_rows("trust")
    if len(stack) < FEWEST_TO_JUDGE:
        return torch.ones(len(stack))
    now = rules.correlations(logits_of(stack.values, stack.kind))
    remembered: dict[str, float] = memory.setdefault("agreement", {})
    for i, a in enumerate(stack.clients):
        for j, b in enumerate(stack.clients):
            key = f"{a}/{b}"
            if key in remembered:
                now[i, j] = history * remembered[key] + (1 - history) * now[i, j]
            remembered[key] = float(now[i, j])
    return rules.correlation_trust(now)


def trusted_mean(
    stack: Stack,
    trust: Trust,
    memory: dict[str, Any],
    kind: AnswerKind | None = None,
    weigh: Callable[[Tensor], Tensor] | None = None,
    labels: Tensor | None = None,
) -> Fused:
    """Average the clients as far as they are trusted; one result, broadcast.

    T(x) = Σ_n r_n w_n(x) v_n(x) / Σ_n r_n w_n(x), where v are the softened answers as
    ``kind``, w the sample weights and r the trust, at least 0.001. With ``median`` there are no
    weights; with ``root`` T_c(x) ∝ Σ_n r_n w_n(x) q_nc v_nc(x), normalised over the classes, q
    of :func:`fedkt.fusion.trust.root_precision`.

    Parameters
    ----------
    stack : Stack
        Logits or probabilities of N clients, ``[N, M, C]``.
    trust : Trust
        The rule.
    memory : dict
        The strategy's; see :func:`peer_trust`.
    kind : {"logits", "probabilities"}, optional
        What is averaged; by default what was shared. Trust acts on logits alike: softened
        logits are averaged.
    weigh : callable, optional
        From logits ``[N, M, C]`` (softened) to sample weights ``[N, M]``; by default 1.
    labels : Tensor, optional
        int64, by public sample id, -1 where unknown; for ``root``.

    Returns
    -------
    Fused
        With diagnostics ``clients``; ``trust``, r ``[N]``; ``mean_weight``, each client's mean
        share of the target ``[N]`` (1 and 1/N with ``median``, which has no weights).

    Raises
    ------
    ConfigError
        If ``root`` is asked for without labels, or of logits.
    KnowledgeError
        If a client lacks rows, but for ``off``: trust compares the clients on the same samples.
    """
    kind = kind or ("logits" if stack.kind == "logits" else "probabilities")
    if trust.choice != "off":
        stack.need_all_rows(f"trust {trust.choice!r}")
    if trust.choice == "median":
        answers = _median(_as(stack, kind, None))
        return _reported(mean(answers), stack, torch.ones(len(stack)), torch.ones(len(stack), 1))
    answers, weights, r = _weighed(stack, trust, memory, kind, weigh)
    if trust.choice == "root":
        return _root_mean(answers, weights, _rooted(stack, trust, labels), r)
    uniform = bool((weights == weights[0, 0]).all())
    fused = mean(answers) if uniform else sample_weighted_mean(answers, weights)
    return _reported(fused, stack, r, weights)


def _weighed(
    stack: Stack,
    trust: Trust,
    memory: dict[str, Any],
    kind: AnswerKind,
    weigh: Callable[[Tensor], Tensor] | None,
) -> tuple[Stack, Tensor, Tensor]:
    """Return the answers to average, of ``kind``, their weights ``[N, M]``, and trust ``[N]``."""
    judged = trust.choice != "off" and len(stack) >= FEWEST_TO_JUDGE
    r = peer_trust(stack, memory, trust.history) if judged else torch.ones(len(stack))
    logits = logits_of(stack.values, stack.kind)
    softened = rules.soften(logits) if judged else None
    logits = logits if softened is None else softened
    weights = torch.ones(logits.shape[:2]) if weigh is None else weigh(logits)
    weights = weights * r.clamp_min(rules.FLOOR)[:, None]
    if stack.present is not None:
        weights = weights * stack.present
    if judged and trust.choice == "per-class":
        weights = rules.class_reliability(_as(stack, "probabilities", softened).values, weights)
    return _as(stack, kind, softened), weights, r


def _root_mean(answers: Stack, weights: Tensor, rooted: tuple[Tensor, Tensor], r: Tensor) -> Fused:
    if answers.kind != "probabilities":
        raise ConfigError("trust 'root' weighs probabilities; share or average those, not logits.")
    rows, labels = rooted
    q = rules.root_precision(answers.values[:, rows], labels)
    parts = weights[..., None] * q[:, None] * answers.values
    target = parts.sum(0)
    target = target / target.sum(-1, keepdim=True).clamp_min(1e-38)
    fused = Knowledge("probabilities", {"values": target}, answers.ids)
    report = _reported(Fused(shared={answers.name: fused}), answers, r, parts.sum(-1))
    return report.with_diagnostics(root_rows=len(rows))


def _rooted(stack: Stack, trust: Trust, labels: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the positions of this round's labelled root rows and their labels."""
    if labels is None or not bool((labels[: trust.root] >= 0).any()):
        raise ConfigError(
            f"trust 'root' needs the labels of public samples with ids below {trust.root} and the "
            "server has none; allowed without them: off, correlation, per-class or median."
        )
    assert stack.ids is not None
    low = stack.ids < min(trust.root, len(labels))
    rows = low.nonzero()[:, 0]
    rows = rows[labels[stack.ids[rows]] >= 0]
    return rows, labels[stack.ids[rows]]


def _median(stack: Stack) -> Stack:
    if stack.kind == "probabilities":
        median = rules.coordinate_median(stack.values)
    else:
        median = stack.values.quantile(0.5, dim=0)
    return _with_values(stack, stack.kind, median.expand_as(stack.values))


def _as(stack: Stack, kind: AnswerKind, softened: Tensor | None) -> Stack:
    """Return a stack's answers, or the softened logits in their place, as ``kind``."""
    if softened is None and stack.kind == kind:
        return stack
    logits = logits_of(stack.values, stack.kind) if softened is None else softened
    return _with_values(stack, kind, of_kind(logits, kind))


def _with_values(stack: Stack, kind: Any, values: Tensor) -> Stack:
    tensors = {"values": values}
    return replace(stack, kind=kind, tensors=tensors)


def _reported(fused: Fused, stack: Stack, r: Tensor, weights: Tensor) -> Fused:
    share = weights / weights.sum(0).clamp_min(1e-38)
    return fused.with_diagnostics(clients=list(stack.clients), trust=r, mean_weight=share.mean(1))


@register
@dataclass(frozen=True)
class TrustedMean(Trust, Fusion):
    """The mean of the answers, as far as clients are trusted and sure of a sample.

    :func:`trusted_mean` with :func:`~fedkt.fusion.weighting.sample_weights`. With
    ``choice="off"`` a sample counts for the clients that have it; every other choice refuses
    uploads that lack rows. ``trusted-mean(weighting=entropy, form=probabilities)`` is the fusion of
    prior-free knowledge (``fedpf``).

    Parameters
    ----------
    choice, history, root
        As in :class:`Trust`.
    weighting : {"entropy", "variance", "uniform"}
        Rule of the weights for each sample.
    gamma : float
        γ ≥ 0, for ``entropy``.
    form : {"shared", "probabilities"}
        What is averaged: what was shared, or its probabilities.
    """

    choice: Choice = "correlation"
    weighting: Weighting = "uniform"
    gamma: Factor = 3.0
    form: Literal["shared", "probabilities"] = "shared"
    name: ClassVar[str] = "trusted-mean"
    single: ClassVar[str] = "trust compares single uploads"

    @property
    def partial(self) -> bool:
        """Whether it fuses uploads that lack rows: without trust."""
        return self.choice == "off"

    def __call__(self, stack: Stack, round: FusionRound) -> Knowledge:
        """Return the mean; the diagnostics are those of :func:`trusted_mean`."""
        need_answers(self.name, stack.kind)
        fused = trusted_mean(
            stack,
            self,
            round.memory,
            "probabilities" if self.form == "probabilities" else None,
            lambda logits: sample_weights(logits, self.weighting, self.gamma),
            round.labels,
        )
        round.diagnostics.update(fused.diagnostics)
        return fused.shared[stack.name]
