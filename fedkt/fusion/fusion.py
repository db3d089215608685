"""The base of all fusions, and of those that are weighted means.

A fusion is a function from the stacked uploads of the clients to fused knowledge: the same for
all clients, or one for each. Fusions are registered frozen dataclasses whose fields are their
options, so a configuration names them: ``trimmed-mean(trim=0.2)``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedkt.errors import KnowledgeError
from fedkt.knowledge import CLASS_KINDS, Fused, Knowledge, Stack
from fedkt.upload_check import LARGEST_COUNT

WEIGHT, COUNTS = "weight", "counts"  # among a client's summands


@dataclass(frozen=True)
class FusionRound:
    """The round of a fusion: facts that it may read, and places for what it keeps and reports.

    Parameters
    ----------
    number : int
        The round, from 1.
    num_classes : int
        C.
    seed : int
        Seed of the run.
    labels : Tensor, optional
        int64, by public sample id, -1 where the server does not know the label.
    memory : dict
        State between rounds; a strategy's own is in its checkpoints.
    diagnostics : dict
        JSON-like values or tensors about the round, which the fusion adds.
    """

    number: int = 1
    num_classes: int = 0
    seed: int = 0
    labels: Tensor | None = None
    memory: dict[str, Any] = field(default_factory=dict)
    diagnostics: dict[str, Any] = field(default_factory=dict)


class Fusion(ABC):
    """Base of all fusions.

    Attributes
    ----------
    partial : bool
        Whether it fuses uploads that lack rows (``stack.present``). A row that nobody has must then
        be absent from the result: left out, or with a count of 0.
    single : str
        Why it needs the single uploads, in a few words; empty where their sums suffice.
    """

    part: ClassVar[str] = "fusions"
    single: ClassVar[str] = ""

    @property
    def partial(self) -> bool:
        """Whether it fuses uploads that lack rows."""
        return False

    @abstractmethod
    def __call__(self, stack: Stack, round: FusionRound) -> Knowledge | Mapping[int, Knowledge]:
        """Return the fused knowledge: for all clients, or by client.

        Parameters
        ----------
        stack : Stack
            The uploads of N clients; see :class:`~fedkt.knowledge.Stack`.
        round : FusionRound
            The round.

        Raises
        ------
        KnowledgeError
            If it cannot fuse such knowledge.
        """

    def sums(self, knowledge: Knowledge, num_examples: int) -> Mapping[str, Tensor] | None:
        """Return a client's summands; None if sums do not suffice.

        The fusion of all is ``from_sums`` of the sum over the clients, name by name.

        Parameters
        ----------
        knowledge : Knowledge
            The client's upload.
        num_examples : int
            Its number of examples.
        """
        return None

    def from_sums(self, sums: Mapping[str, Tensor]) -> Knowledge:
        """Return the fused knowledge from the sums of :meth:`sums` over the clients.

        Its rows have the places in the uploads as ids, 0, ..., M - 1: ids are no sums.

        Raises
        ------
        KnowledgeError
            If sums do not suffice.
        """
        raise KnowledgeError(f"{type(self).__name__} needs single uploads: {self.single}")

    def flops(self, clients: int, rows: float, classes: int) -> float:
        """Return the FLOPs, if they grow faster than the number of clients; else 0."""
        return 0.0


class WeightedMean(Fusion):
    """Base of Σ_n w_n v_n / Σ_n w_n with weights that each client knows of itself.

    Absent rows have no weight. A sample that nobody has is left out of the result; a class that
    nobody has stays in it with a count of 0, because terms look classes up by label.
    """

    partial = True

    @abstractmethod
    def weight(self, knowledge: Knowledge, num_examples: int) -> Tensor:
        """Return a client's weight, ``[]``, or those of its rows, ``[M]``; non-negative."""

    def sums(self, knowledge: Knowledge, num_examples: int) -> Mapping[str, Tensor]:
        """Return the client's weighted tensors, its weight, and its counts if it has any."""
        refuse_labels(knowledge.kind)
        weight, more = self.weight(knowledge, num_examples), {}
        if knowledge.ids is not None:
            weight = weight.expand(len(knowledge.ids))
        if knowledge.counts is not None:
            weight, more = weight * (knowledge.counts > 0), {COUNTS: knowledge.counts}
        tensors = {
            f"{knowledge.kind}/{name}": like(weight, tensor) * tensor
            for name, tensor in knowledge.tensors.items()
        }
        return {**tensors, WEIGHT: weight, **more}

    def from_sums(self, sums: Mapping[str, Tensor]) -> Knowledge:
        """Return the weighted mean.

        Raises
        ------
        KnowledgeError
            If all weights of knowledge without rows are 0.
        """
        weight, counts = sums[WEIGHT], sums.get(COUNTS)
        tensors: dict[str, Tensor] = {}
        kind: Any = ""  # of a name that `sums` gave
        for name, total in sums.items():
            if name not in (WEIGHT, COUNTS):
                kind, _, name = name.partition("/")
                divisor = torch.where(weight > 0, weight, 1).to(total.dtype)
                tensors[name] = total / like(divisor, total)
        if not weight.dim():
            if not weight > 0:
                raise KnowledgeError("the mean needs a client with a weight above 0")
            return Knowledge(kind, tensors)
        return of_rows(kind, tensors["values"], torch.arange(len(weight)), weight > 0, counts)


def fused(name: str, result: Knowledge | Mapping[int, Knowledge], round: FusionRound) -> Fused:
    """Return what a fusion gives as knowledge to send, with the round's diagnostics.

    Parameters
    ----------
    name : str
        The share's name.
    result : Knowledge or Mapping[int, Knowledge]
        For all clients, or by client.
    round : FusionRound
        The round of the fusion.
    """
    if isinstance(result, Mapping):
        personal = {client: {name: knowledge} for client, knowledge in result.items()}
        return Fused(personal=personal, diagnostics=round.diagnostics)
    return Fused(shared={name: result}, diagnostics=round.diagnostics)


def of_rows(
    kind: Any, values: Tensor, ids: Tensor, covered: Tensor, counts: Tensor | None
) -> Knowledge:
    """Return fused rows; of samples only those that somebody has.

    Parameters
    ----------
    kind : str
        Their kind.
    values : Tensor
        ``[M, ...]``; of rows that are not covered any number.
    ids : Tensor
        int64 ``[M]``.
    covered : Tensor
        bool ``[M]``: whether somebody has the row, with weight.
    counts : Tensor, optional
        int64 ``[M]``: the sums of the clients' counts, which classes keep.
    """
    if kind not in CLASS_KINDS:
        whole = bool(covered.all())
        values, ids = (values, ids) if whole else (values[covered], ids[covered])
        return Knowledge(kind, {"values": values}, ids)
    values = torch.where(like(covered, values), values, 0)
    if counts is not None:
        counts = torch.where(covered, counts, 0).clamp_max(LARGEST_COUNT)
    return Knowledge(kind, {"values": values}, ids, counts)


def like(rows: Tensor, values: Tensor) -> Tensor:
    """Return one number a row, ``[...]``, in a shape that goes with ``values [..., *row]``."""
    return rows.view((*rows.shape, *[1] * (values.dim() - rows.dim())))


def refuse_labels(kind: str) -> None:
    """Raise KnowledgeError for labels: their mean is no label."""
    if kind == "labels":
        raise KnowledgeError("labels cannot be averaged; share probabilities or logits")


def need_answers(what: str, kind: str) -> None:
    """Raise KnowledgeError unless a kind is logits or probabilities."""
    if kind not in ("logits", "probabilities"):
        raise KnowledgeError(f"{what} fuses logits or probabilities, not {kind}")
