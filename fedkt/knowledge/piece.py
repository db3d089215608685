"""A piece of knowledge.

A :class:`Knowledge` is typed and immutable. Its rows belong to *sample ids* or class
ids, never to batch positions, and probabilities, logits and labels are never confused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Any, ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkt.errors import KnowledgeError

Kind = Literal[
    "logits",
    "probabilities",
    "labels",
    "class-logits",
    "prototypes",
    "features",
    "statistics",
    "weights",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
# Kinds whose rows belong to samples, and kinds whose rows belong to classes.
ANSWERS = frozenset({"logits", "probabilities", "labels"})  # of a model on samples
SAMPLE_KINDS = ANSWERS | {"features"}
CLASS_KINDS = frozenset({"class-logits", "prototypes"})
ROW_KINDS = SAMPLE_KINDS | CLASS_KINDS


@dataclass(frozen=True, eq=False)
class Knowledge:
    """Knowledge that a party shares: a kind, tensors, and the ids that the rows belong to.

    Parameters
    ----------
    kind : str
        One of ``KINDS``.
    tensors : Mapping[str, Tensor]
        The content. Kinds with rows hold one tensor called ``"values"``: ``[M, C]``
        float32 for logits and probabilities, ``[M]`` int64 for labels, ``[M, d]`` float32
        for features, ``[C, ...]`` float32 for class kinds. ``weights`` and
        ``statistics`` hold any number of named float32 tensors.
    ids : Tensor, optional
        int64 ``[M]``, the sample or class id of each row, each at most once.
    counts : Tensor, optional
        int64 ``[M]``, how many examples stand behind each row; 0: this party has no such row, and
        its values are there for the shape only.

    Raises
    ------
    KnowledgeError
        If kind, ids, tensors and counts do not fit together.
    """

    kind: Kind
    tensors: Mapping[str, Tensor]
    ids: Tensor | None = None
    counts: Tensor | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "tensors", MappingProxyType(dict(self.tensors)))
        if self.kind not in KINDS:
            raise KnowledgeError(f"unknown kind {self.kind!r}; one of {', '.join(KINDS)}")
        if self.kind not in ROW_KINDS:
            for what, tensor in (("ids", self.ids), ("counts", self.counts)):
                if tensor is not None:
                    raise KnowledgeError(f"{self.kind} have no rows and take no {what}")
            return
        if self.tensors.keys() != {"values"} or self.ids is None:
            raise KnowledgeError(f"{self.kind} need ids and one tensor called 'values'")
        values = self.values
        rows = values.shape[0] if values.dim() else 0
        if self.ids.dim() != 1 or self.ids.dtype != torch.int64 or rows != len(self.ids):
            raise KnowledgeError(
                f"{self.kind}: {rows} rows for ids of shape {list(self.ids.shape)}"
            )
        _check_ids(self.kind, self.ids, self.ids._version)
        counts = self.counts
        if counts is not None and (counts.dim() != 1 or len(counts) != rows):
            raise KnowledgeError(
                f"{self.kind}: counts of shape {list(counts.shape)} for {rows} rows"
            )
        if counts is not None and counts.dtype != torch.int64:
            raise KnowledgeError(
                f"{self.kind}: counts have dtype {dtype_name(counts.dtype)}, not int64"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        # A mapping proxy can be neither pickled nor deep-copied.
        return Knowledge, (self.kind, dict(self.tensors), self.ids, self.counts)

    @classmethod
    def rows(
        cls, kind: Kind, values: Tensor, ids: Tensor | Sequence[int] | None = None
    ) -> Knowledge:
        """Build knowledge with one row per id; ids default to 0, 1, ..., M - 1."""
        if ids is None:
            ids = torch.arange(len(values))
        return cls(kind, {"values": values}, torch.as_tensor(ids, dtype=torch.int64))

    @property
    def values(self) -> Tensor:
        """The rows, ``[M, ...]``; for kinds with rows only."""
        return self.tensors["values"]

    @property
    def num_bytes(self) -> int:
        """Exact size of the tensors in bytes; ids and counts not included."""
        return sum(t.numel() * t.element_size() for t in self.tensors.values())

    @property
    def absent(self) -> int:
        """The number of rows that this party does not have: those with a count of 0."""
        return 0 if self.counts is None else int((self.counts == 0).sum())

    @cached_property
    def _row_of(self) -> Tensor:
        assert self.ids is not None
        table = torch.full((int(self.ids.max()) + 1 if len(self.ids) else 0,), -1)
        table[self.ids] = torch.arange(len(self.ids))
        return table

    def at(self, ids: Tensor) -> Tensor:
        """Return the rows that belong to ``ids``.

        Parameters
        ----------
        ids : Tensor
            int64, any shape ``[...]``; each must be one of ``self.ids`` (this is not checked,
            so that the call runs under ``torch.func.vmap``).

        Returns
        -------
        Tensor
            ``[..., *row shape]``.
        """
        rows = self._row_of[ids]
        # A look-up of whole rows is faster than an index, under vmap by half.
        return F.embedding(rows, self.values) if self.values.dim() == 2 else self.values[rows]

    TABLE: ClassVar[str] = "table"  # among the parts: from ids to rows

    def parts(self) -> dict[str, Tensor]:
        """Return all tensors in one flat mapping, for executors; see :meth:`of_parts`."""
        parts = {f"t.{name}": tensor for name, tensor in self.tensors.items()}
        if self.ids is not None:
            parts |= {"ids": self.ids, self.TABLE: self._row_of}
        return parts if self.counts is None else {**parts, "counts": self.counts}

    @classmethod
    def of_parts(cls, kind: Kind, parts: Mapping[str, Tensor]) -> Knowledge:
        """Return the knowledge of :meth:`parts`; checks cannot run under ``torch.func.vmap``."""
        self = object.__new__(cls)
        tensors = {n.removeprefix("t."): t for n, t in parts.items() if n.startswith("t.")}
        fields = {
            "kind": kind,
            "tensors": MappingProxyType(tensors),
            "ids": parts.get("ids"),
            "counts": parts.get("counts"),
        }
        self.__dict__.update(fields)
        if cls.TABLE in parts:
            self.__dict__["_row_of"] = parts[cls.TABLE]
        return self

    def known_at(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows that belong to ``ids``, and which of them there are.

        Parameters
        ----------
        ids : Tensor
            int64, any shape ``[...]``, none negative; any may lack. The call runs under
            ``torch.func.vmap``.

        Returns
        -------
        values : Tensor
            ``[..., *row shape]``, zeros where there is no row.
        known : Tensor
            bool ``[...]``; false for a row with a count of 0, too.
        """
        none = len(self.values)
        table = F.pad(self._row_of, (0, 1), value=-1)
        rows = table[ids.clamp_max(len(table) - 1)]
        rows = torch.where(rows < 0, none, rows)
        if self.counts is not None:
            rows = torch.where(F.pad(self.counts, (0, 1))[rows] > 0, rows, none)
        zero = self.values.new_zeros((1, *self.values.shape[1:]))
        return torch.cat([self.values, zero])[rows], rows < none

    def counts_at(self, ids: Tensor) -> Tensor:
        """Return how many examples stand behind the rows of ``ids``, ``[...]`` int64.

        Raises
        ------
        KnowledgeError
            If the knowledge has no counts.
        """
        if self.counts is None:
            raise KnowledgeError(f"these {self.kind} come without counts")
        return self.counts[self._row_of[ids]]

    def without_absent(self) -> Knowledge:
        """Return the knowledge without the samples that this party does not have.

        Classes stay, with their counts of 0, because terms look them up by label.
        """
        if self.kind not in SAMPLE_KINDS or not self.absent:
            return self
        assert self.ids is not None
        assert self.counts is not None
        rows = self.counts > 0
        tensors = {name: tensor[rows] for name, tensor in self.tensors.items()}
        return Knowledge(self.kind, tensors, self.ids[rows], self.counts[rows])

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Knowledge:
        """Return the same knowledge (kind, ids, counts) with other content."""
        return Knowledge(self.kind, tensors, self.ids, self.counts)


@lru_cache(maxsize=16)  # the very same tensor, because thousands speak about the same samples
def _check_ids(kind: Kind, ids: Tensor, version: int) -> None:
    ascending = bool((ids.diff() > 0).all())  # as almost always; cheaper than a sort
    if not ascending and len(torch.unique(ids)) != len(ids):
        raise KnowledgeError(f"{kind}: an id occurs twice")
    if len(ids) and int(ids.min()) < 0:
        raise KnowledgeError(f"{kind}: id {int(ids.min())} is negative")


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name of a dtype for messages."""
    return str(dtype).removeprefix("torch.")


NamedTensors = Knowledge | Mapping[str, Tensor]


def tensors_of(weights: NamedTensors) -> Mapping[str, Tensor]:
    """Return weights by name, given as knowledge or as a mapping."""
    return weights.tensors if isinstance(weights, Knowledge) else weights


def knowledge_in(values: Mapping[str, Any]) -> dict[str, Knowledge]:
    """Return the knowledge among values, by name; a client may keep other values beside it."""
    return {name: value for name, value in values.items() if isinstance(value, Knowledge)}
