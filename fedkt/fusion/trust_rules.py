"""The rules by which a fusion trusts clients: the functions of ``fedkt.fusion.trust``, by name.

A rule is a registered frozen dataclass (``fedkt list trust-rules``). It judges the uploads of a
round; :func:`fedkt.fusion.trusted.trusted_mean` averages by its judgement.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedkt.answers import logits_of, softmax
from fedkt.calls import made, read_call
from fedkt.errors import ConfigError, KnowledgeError
from fedkt.fusion import trust
from fedkt.fusion.averaging import mean
from fedkt.fusion.fusion import FusionRound
from fedkt.fusion.weighting import sample_weighted_mean
from fedkt.knowledge import Knowledge, Stack
from fedkt.options import AtLeastOne, Memory
from fedkt.registry import register, short_name


class TrustRule(ABC):
    """Base of all rules of trust, which are registered frozen dataclasses.

    A rule defines ``trust``; the rest has defaults. A field that a strategy also has as an option,
    such as ``history``, takes the strategy's value where the rule is named without it.

    Attributes
    ----------
    fewest : int
        The number of clients below which nobody is judged: with few clients a liar cannot be told
        from an honest one.
    partial : bool
        Whether it judges uploads that lack rows. Others compare clients on the same samples.
    judges : bool
        Whether it judges at all.
    forms : tuple[str, ...]
        The kinds of answers that it can average.
    """

    part: ClassVar[str] = "trust-rules"
    fewest: ClassVar[int] = 1
    partial: ClassVar[bool] = False
    judges: ClassVar[bool] = True
    forms: ClassVar[tuple[str, ...]] = ("logits", "probabilities")

    @abstractmethod
    def trust(self, stack: Stack, round: FusionRound) -> Tensor:
        """Return the trust in each client, r ``[N]`` in [0, 1].

        Parameters
        ----------
        stack : Stack
            Logits or probabilities of N clients, ``[N, M, C]``.
        round : FusionRound
            The round; what the rule remembers is in ``round.memory``.
        """

    def softened(self, logits: Tensor) -> Tensor:
        """Return the logits ``[N, M, C]`` that are weighed and averaged in place of the clients'.

        They are asked for where clients are judged; the same tensor if nothing changes.
        """
        return logits

    def weights(self, logits: Tensor, weights: Tensor) -> Tensor:
        """Return the clients' weights for each sample, ``[N, M]``, where clients are judged.

        Parameters
        ----------
        logits : Tensor
            Softened, ``[N, M, C]``.
        weights : Tensor
            ``[N, M]``: r times the weights of the samples.
        """
        return weights

    def fuse(self, answers: Stack, weights: Tensor, round: FusionRound) -> tuple[Knowledge, Tensor]:
        """Return the average, and how much each client gave to each sample, ``[N, M]``.

        Parameters
        ----------
        answers : Stack
            ``[N, M, C]``, softened, of the kind to average.
        weights : Tensor
            ``[N, M]``, of :meth:`weights`.
        round : FusionRound
            The round, with the labels that the server knows.
        """
        uniform = bool((weights == weights[0, 0]).all())
        fused = mean(answers) if uniform else sample_weighted_mean(answers, weights)
        return fused.shared[answers.name], weights

    @property
    def by_client(self) -> bool:
        """Whether its trust is a number for each client and no more."""
        base = TrustRule
        return type(self).weights is base.weights and type(self).fuse is base.fuse

    @property
    def title(self) -> str:
        """The name for messages."""
        return short_name(self.part, type(self))

    def judged(self, stack: Stack) -> bool:
        """Return whether clients are judged: enough of them, and by a rule that judges."""
        return self.judges and len(stack) >= self.fewest

    def __call__(self, stack: Stack, round: FusionRound) -> Tensor:
        """Return the trust in each client, ``[N]`` in [0, 1]; all 1 where nobody is judged.

        Raises
        ------
        KnowledgeError
            If a client lacks rows, for rules that are not ``partial``; or if the rule gives
            anything else than N numbers in [0, 1].
        """
        if not self.partial:
            stack.need_all_rows(f"trust {self.title!r}")
        if not self.judged(stack):
            return torch.ones(len(stack))
        r = self.trust(stack, round)
        if r.shape != (len(stack),) or not bool(((r >= 0) & (r <= 1)).all()):
            raise KnowledgeError(f"trust {self.title!r} must give {len(stack)} numbers in [0, 1]")
        return r


def trust_rule(rule: TrustRule | str, **options: object) -> TrustRule:
    """Return the rule that a text stands for; a rule is returned as it is.

    Parameters
    ----------
    rule : TrustRule or str
        ``NAME``, ``NAME(key=value)`` or either with ``path/to/file.py:Class`` for the name.
    options : object
        Values for the fields of these names that the text leaves out; rules without such a field
        do not read them.

    Raises
    ------
    ConfigError
        If there is no such rule, or an option is not one of its own.
    """
    built: Any = made(TrustRule.part, rule)  # rules are dataclasses, which their base is not
    taken: TrustRule = built
    if isinstance(rule, str):
        names = {field.name for field in dataclasses.fields(built)} - set(read_call(rule)[1])
        taken = replace(built, **{k: v for k, v in options.items() if k in names})
    return taken


@register
@dataclass(frozen=True)
class NoTrust(TrustRule):
    """All clients are trusted alike."""

    name: ClassVar[str] = "off"
    partial: ClassVar[bool] = True
    judges: ClassVar[bool] = False

    def trust(self, stack: Stack, round: FusionRound) -> Tensor:
        """Return 1 for each client, ``[N]``."""
        return torch.ones(len(stack))


@register
@dataclass(frozen=True)
class Correlation(TrustRule):
    """Over-confidence is softened, and clients count by their correlation with their peers.

    Uploads are softened to the median entropy (:func:`fedkt.fusion.trust.soften`). r is the trust
    of :func:`~fedkt.fusion.trust.correlation_trust`, of correlations over rounds. Below five
    clients nobody is judged.

    Parameters
    ----------
    history : float
        Share of the past in the correlations, in [0, 1).
    """

    history: Memory = 0.5
    fewest: ClassVar[int] = 5

    def trust(self, stack: Stack, round: FusionRound) -> Tensor:
        """Return r ``[N]``.

        ``agreement`` in the memory is the remembered correlation of each pair of clients. A pair
        that is not in this round keeps what is remembered of it.
        """
        now = trust.correlations(logits_of(stack.values, stack.kind))
        remembered: dict[str, float] = round.memory.setdefault("agreement", {})
        for i, a in enumerate(stack.clients):
            for j, b in enumerate(stack.clients):
                key = f"{a}/{b}"
                if key in remembered:
                    now[i, j] = self.history * remembered[key] + (1 - self.history) * now[i, j]
                remembered[key] = float(now[i, j])
        return trust.correlation_trust(now)

    def softened(self, logits: Tensor) -> Tensor:
        """Return the logits with over-confident clients brought to the median entropy."""
        return trust.soften(logits)


@register
@dataclass(frozen=True)
class PerClass(Correlation):
    """Correlation, and clients count class by class, by what the others confirm.

    The weights are those of :func:`fedkt.fusion.trust.class_reliability`.
    """

    def weights(self, logits: Tensor, weights: Tensor) -> Tensor:
        """Return the weights ``[N, M]`` by how often the others confirm a client."""
        return trust.class_reliability(softmax(logits), weights)


@register
@dataclass(frozen=True)
class MedianAnswer(TrustRule):
    """The coordinate-wise median of the answers takes the place of any weights."""

    name: ClassVar[str] = "median"

    def trust(self, stack: Stack, round: FusionRound) -> Tensor:
        """Return 1 for each client, ``[N]``."""
        return torch.ones(len(stack))

    def fuse(self, answers: Stack, weights: Tensor, round: FusionRound) -> tuple[Knowledge, Tensor]:
        """Return the median, and equal parts of all clients."""
        if answers.kind == "probabilities":
            median = trust.coordinate_median(answers.values)
        else:
            median = answers.values.quantile(0.5, dim=0)
        values = median.expand_as(answers.values)
        fused = mean(replace(answers, tensors={"values": values}))
        return fused.shared[answers.name], torch.ones(len(answers), 1)


@register
@dataclass(frozen=True)
class Root(Correlation):
    """Correlation, and answers count class by class by their precision on labelled public rows.

    T_c(x) ∝ Σ_n r_n w_n(x) q_nc v_nc(x), normalised over the classes, with q of
    :func:`fedkt.fusion.trust.root_precision`.

    Parameters
    ----------
    history : float
        As in :class:`Correlation`.
    root : int
        Of the public rows in use in a round, the labelled ones with an id below this number count;
        at least 1.
    """

    root: AtLeastOne = 50
    forms: ClassVar[tuple[str, ...]] = ("probabilities",)

    def fuse(self, answers: Stack, weights: Tensor, round: FusionRound) -> tuple[Knowledge, Tensor]:
        """Return the target; the diagnostics hold the number of labelled rows, ``root_rows``.

        Raises
        ------
        ConfigError
            If the server knows none of the labels.
        """
        rows, labels = self._labelled(answers, round.labels)
        round.diagnostics["root_rows"] = len(rows)
        q = trust.root_precision(answers.values[:, rows], labels)
        parts = weights[..., None] * q[:, None] * answers.values
        target = parts.sum(0)
        target = target / target.sum(-1, keepdim=True).clamp_min(1e-38)
        return Knowledge("probabilities", {"values": target}, answers.ids), parts.sum(-1)

    def _labelled(self, stack: Stack, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the positions of this round's labelled root rows and their labels."""
        if labels is None or not bool((labels[: self.root] >= 0).any()):
            raise ConfigError(
                f"trust 'root' needs the labels of public samples with ids below {self.root} and "
                "the server has none; allowed without them: off, correlation, per-class or median."
            )
        assert stack.ids is not None
        low = stack.ids < min(self.root, len(labels))
        rows = low.nonzero()[:, 0]
        rows = rows[labels[stack.ids[rows]] >= 0]
        return rows, labels[stack.ids[rows]]
