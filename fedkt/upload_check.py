"""Knowledge on arrival: what the server asked for, and the check of what arrived."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedkt.answers import largest
from fedkt.errors import KnowledgeError, NotFiniteKnowledgeError
from fedkt.knowledge import Kind, Knowledge, dtype_name

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
    shapes : Mapping[str, tuple[int, ...]]
        The shape of each tensor.
    largest : float
        The largest absolute value that is allowed.
    between : Mapping[str, tuple[Tensor, Tensor]]
        By tensor, where it has a range of its own: the least and the greatest value, in any shape
        that broadcasts to the tensor's.
    partial : bool
        Whether rows may be absent (counts of 0).
    """

    kind: Kind
    ids: Tensor | None
    shapes: Mapping[str, tuple[int, ...]]
    largest: float = math.inf
    between: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    partial: bool = False


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
    if set(knowledge.tensors) != set(expected.shapes):
        odd = sorted(set(knowledge.tensors) ^ set(expected.shapes))
        raise KnowledgeError(f"tensors differ from those asked for: {', '.join(odd[:3])}")
    for name, shape in expected.shapes.items():
        tensor = knowledge.tensors[name]
        if tuple(tensor.shape) != tuple(shape):
            raise KnowledgeError(f"{name} has shape {list(tensor.shape)}, not {list(shape)}")
        dtype = torch.int64 if knowledge.kind == "labels" else torch.float32
        if tensor.dtype != dtype:
            raise KnowledgeError(
                f"{name} has dtype {dtype_name(tensor.dtype)}, not {dtype_name(dtype)}"
            )
        _check_size(name, tensor, expected)
    ids = knowledge.ids
    if expected.ids is not None and (ids is None or not torch.equal(ids, expected.ids)):
        raise KnowledgeError("ids differ from those asked for")
    _check_counts(knowledge.counts)
    if knowledge.absent and not expected.partial:
        rows = f"{knowledge.absent} of {len(knowledge.values)} rows are absent (counts of 0)"
        raise KnowledgeError(f"{rows}, and whole uploads are asked for")
    _check_values(knowledge, num_classes)


def _check_size(name: str, tensor: Tensor, expected: Expected) -> None:
    if not tensor.is_floating_point():
        return
    size = largest(tensor)
    if not math.isfinite(size):
        raise NotFiniteKnowledgeError(f"{name} holds NaN or infinity")
    if size > expected.largest:
        raise KnowledgeError(f"{name} holds {size:g}, and at most {expected.largest:g} is allowed")
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
