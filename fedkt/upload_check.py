"""Knowledge on arrival: what the server asked for, and the check of what arrived."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedkt.answers import largest
from fedkt.errors import KnowledgeError, NotFiniteKnowledgeError
from fedkt.knowledge import ROW_KINDS, Kind, Knowledge, dtype_name

# Rows of probabilities may miss the simplex by this much (float16 transport).
SIMPLEX_TOLERANCE = 5e-3
LARGEST_COUNT = 10**9  # examples behind a row; a larger count is refused


@dataclass(frozen=True)
class Expected:
    """Knowledge as the server asked for it; uploads are checked against it.

    Parameters
    ----------
    kind : str
        The kind of knowledge.
    ids : Tensor, optional
        int64 ``[M]``, the ids asked for, in order; ``None`` for kinds without rows.
    shapes : Mapping[str, tuple[int or None, ...]], optional
        The shape of each tensor. None is any length, and None instead of all of them any tensors:
        the same for all clients of the round (of a share with a ``group``, for all of one
        architecture).
    partial : bool
        Whether rows may be absent: not sent, or sent with a count of 0.
    dtypes : Mapping[str, torch.dtype]
        By tensor, where it is not float32 (int64 for labels).
    largest : float, optional
        The largest absolute value that is allowed.
    between : Mapping[str, tuple[Tensor, Tensor]]
        By tensor, where it has a range of its own: the least and the greatest value, in any shape
        that broadcasts to the tensor's.
    """

    kind: Kind
    ids: Tensor | None
    shapes: Mapping[str, tuple[int | None, ...]] | None
    partial: bool = False
    dtypes: Mapping[str, torch.dtype] = field(default_factory=dict)
    largest: float | None = None
    between: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype of a tensor."""
        usual = torch.int64 if self.kind == "labels" else torch.float32
        return self.dtypes.get(name, usual)


def check(knowledge: Knowledge, expected: Expected, num_classes: int) -> None:
    """Check knowledge on arrival.

    Parameters
    ----------
    knowledge : Knowledge
        What arrived.
    expected : Expected
        What was asked for.
    num_classes : int
        Labels must lie in [0, num_classes).

    Raises
    ------
    KnowledgeError
        Naming the first fault: kind, tensors, shape, dtype, ids, values out of bounds,
        counts outside [0, 10⁹], rows off the simplex (but for absent ones), labels out of range.
    NotFiniteKnowledgeError
        For NaN or infinity; it is a KnowledgeError as well.
    """
    if knowledge.kind != expected.kind:
        raise KnowledgeError(f"kind is {knowledge.kind}, not {expected.kind}")
    shapes = expected.shapes
    if shapes is None:
        shapes = {name: tuple(tensor.shape) for name, tensor in knowledge.tensors.items()}
    if set(knowledge.tensors) != set(shapes):
        odd = sorted(set(knowledge.tensors) ^ set(shapes))
        raise KnowledgeError(f"tensors differ from those asked for: {', '.join(odd[:3])}")
    for name in shapes:
        tensor = knowledge.tensors[name]
        check_form(name, tuple(tensor.shape), dtype_name(tensor.dtype), expected)
        _check_size(name, tensor, expected)
    _check_ids(knowledge.ids, expected)
    _check_counts(knowledge.counts)
    if knowledge.absent and not expected.partial:
        missing = f"{knowledge.absent} of {len(knowledge.values)} rows are absent (counts of 0)"
        raise KnowledgeError(f"{missing}, and whole uploads are asked for")
    _check_values(knowledge, num_classes)


def check_form(name: str, shape: tuple[int, ...], dtype: str, expected: Expected) -> None:
    """Check the shape and the dtype of a tensor, or of an array that declares them.

    Raises
    ------
    KnowledgeError
        Naming both, as they are and as they were asked for.
    """
    asked = shape if expected.shapes is None else expected.shapes[name]
    rows = shape[0] if shape and expected.partial and expected.kind in ROW_KINDS else None
    if not _fits(shape, asked, rows):
        wanted = ", ".join("any" if length is None else str(length) for length in asked)
        raise KnowledgeError(f"{name} has shape {list(shape)}, not [{wanted}]")
    if dtype != dtype_name(expected.dtype(name)):
        raise KnowledgeError(f"{name} has dtype {dtype}, not {dtype_name(expected.dtype(name))}")


def _fits(shape: tuple[int, ...], asked: tuple[int | None, ...], rows: int | None) -> bool:
    """Return whether a shape is the one asked for; ``rows`` of partial knowledge may be fewer."""
    if rows is not None and asked and (asked[0] is None or rows <= asked[0]):
        asked = rows, *asked[1:]
    lengths = zip(shape, asked, strict=False)
    return len(shape) == len(asked) and all(b is None or a == b for a, b in lengths)


def _check_ids(ids: Tensor | None, expected: Expected) -> None:
    if expected.ids is None or (ids is not None and torch.equal(ids, expected.ids)):
        return
    if ids is None or not expected.partial:
        raise KnowledgeError("ids differ from those asked for")
    odd = ids[~torch.isin(ids, expected.ids)]
    if len(odd):
        raise KnowledgeError(f"ids differ: id {int(odd[0])} is none of those asked for")


def _check_size(name: str, tensor: Tensor, expected: Expected) -> None:
    if tensor.is_floating_point():
        size = largest(tensor)
        if not math.isfinite(size):
            raise NotFiniteKnowledgeError(f"{name} holds NaN or infinity")
        if expected.largest is not None and size > expected.largest:
            raise KnowledgeError(
                f"{name} holds {size:g}, and at most {expected.largest:g} is allowed"
            )
    if name in expected.between:
        low, high = expected.between[name]
        outside = ((tensor < low) | (tensor > high)).nonzero()
        if len(outside):
            place = tuple(outside[0].tolist())
            within = [f"{float(end.expand_as(tensor)[place]):g}" for end in (low, high)]
            value = f"{name}{list(place)} is {float(tensor[place]):g}"
            raise KnowledgeError(f"{value}, not in [{', '.join(within)}]")


def _check_counts(counts: Tensor | None) -> None:
    if counts is None or not len(counts):
        return
    low, high = int(counts.min()), int(counts.max())
    if low < 0 or high > LARGEST_COUNT:
        raise KnowledgeError(f"counts lie in [{low}, {high}], not in [0, {LARGEST_COUNT}]")


def _check_values(knowledge: Knowledge, num_classes: int) -> None:
    if knowledge.kind == "probabilities":
        values, counts = knowledge.values, knowledge.counts
        if counts is not None:
            values = values[counts > 0]
        off = (values.sum(-1) - 1).abs()
        if bool((off > SIMPLEX_TOLERANCE).any()) or bool((values < -SIMPLEX_TOLERANCE).any()):
            raise KnowledgeError("rows are not probabilities (non-negative, summing to 1)")
    if knowledge.kind == "labels" and len(knowledge.values):
        low, high = int(knowledge.values.min()), int(knowledge.values.max())
        if low < 0 or high >= num_classes:
            raise KnowledgeError(f"labels lie in [{low}, {high}], not in [0, {num_classes - 1}]")
