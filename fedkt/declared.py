"""Messages before they are decoded: what they declare against what was asked for.

Numbers of records, names, shapes, dtypes and bytes are refused here, where nothing has been copied
and no tensor made. What the numbers are is looked at afterwards (``fedkt.upload_check``).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Set
from heapq import nsmallest
from typing import Any

import torch

from fedkt import wire
from fedkt.codecs import Size, codec_chain
from fedkt.errors import KnowledgeError
from fedkt.knowledge import ROW_KINDS
from fedkt.npy import Form
from fedkt.upload_check import Expected, check_form

MOST_RECORDS = 1_000  # of a message
MOST_NAMES = 1_000  # in a record of figures or facts
LONGEST_NAME = 500  # characters
MOST_VALUES = 10**7  # characters and numbers in a record of figures or facts
MOST_TENSORS = 100_000  # of a share that leaves open which tensors it has
MOST_EMPTY = 2**26  # bytes of an array without numbers if its axes of length 0 had length 1
BESIDE = frozenset({"ids", "counts"})  # of rows


def check_content(content: wire.Content, shares: Collection[str] = ()) -> None:
    """Check the numbers and sizes of records in a message.

    Parameters
    ----------
    content : Content
        The message's.
    shares : Collection[str]
        Names of the knowledge that may be in it.

    Raises
    ------
    KnowledgeError
        Naming the first record that is too many, too large or not asked for.
    """
    _at_most(len(content), MOST_RECORDS, "records in the message")
    for name, record in content.items():
        _check_name(name)
        if wire.are_arrays(record):
            if wire.share_of(name) not in shares:
                raise KnowledgeError(f"arrays called {name!r} were not asked for")
            continue
        values: Mapping[str, Any] = record
        _at_most(len(values), MOST_NAMES, f"values in {name!r}")
        for key in values:
            _check_name(key)
        sized = (len(v) for v in values.values() if isinstance(v, str | bytes))
        lists = (_length(v) for v in values.values() if isinstance(v, list))
        _at_most(sum(sized) + sum(lists), MOST_VALUES, f"characters and numbers in {name!r}")


def check_packet(
    packet: wire.Packet, expected: Expected, codec: str = "none", open_bytes: float = math.inf
) -> None:
    """Check what the arrays of a packet declare.

    Without a codec names, shapes and dtypes are those asked for. A codec may change them: then
    their number and bytes are bounded by what it makes of the largest that was asked for.

    Parameters
    ----------
    packet : Packet
        What arrived.
    expected : Expected
        What was asked for.
    codec : str
        The codecs agreed on.
    open_bytes : float
        The most bytes of tensors that have lengths, or are so many, as the sender likes.

    Raises
    ------
    KnowledgeError
        Naming what came and what is allowed.
    """
    kind = packet.meta.get("kind", expected.kind)
    if kind != expected.kind:
        raise KnowledgeError(f"kind is {kind!s}, not {expected.kind}")
    beside = BESIDE if kind in ROW_KINDS else frozenset()
    chain, most = codec_chain(codec), largest_size(expected, open_bytes)
    for step in chain:
        most = step.encoded_size(most)
    if not chain:
        _check_names(packet.arrays.keys() - beside, expected)
    _at_most(len(packet.arrays), most.arrays + len(beside), "arrays of tensors and their ids")
    for name in packet.arrays:
        _check_name(name)
    forms = wire.forms(packet)
    content = {name: form for name, form in forms.items() if name not in beside}
    if not chain:
        for name, form in content.items():
            check_form(name.removeprefix(wire.TENSOR), form.shape, form.type, expected)
    _at_most(sum(form.bytes for form in content.values()), most.bytes, "bytes of tensors")
    for name, form in content.items():
        _check_axes(name, form, most.bytes)
    for name in beside & forms.keys():
        _check_beside(name, forms[name], _rows(expected, open_bytes))


def largest_size(expected: Expected, open_bytes: float) -> Size:
    """Return the size of the largest knowledge that is as expected."""
    spare = int(min(open_bytes, 2**63))
    if expected.shapes is None:
        return Size(MOST_TENSORS, spare)
    closed = {n: shape for n, shape in expected.shapes.items() if None not in shape}
    size = sum(
        expected.dtype(name).itemsize * math.prod(length or 0 for length in shape)
        for name, shape in closed.items()
    )
    return Size(len(expected.shapes), size + (spare if len(closed) < len(expected.shapes) else 0))


def _check_names(names: Set[str], expected: Expected) -> None:
    if expected.shapes is None:
        asked = {name for name in names if name.startswith(wire.TENSOR)}
    else:
        asked = {f"{wire.TENSOR}{name}" for name in expected.shapes}
    if odd := names ^ asked:
        raise KnowledgeError(f"tensors differ from those asked for: {', '.join(nsmallest(3, odd))}")


def _rows(expected: Expected, open_bytes: float) -> int:
    """Return how many rows there may be."""
    if expected.ids is not None:
        return len(expected.ids)
    shapes = [] if expected.shapes is None else [*expected.shapes.values()]
    rows = shapes[0][0] if shapes and shapes[0] else None
    return int(min(open_bytes, 2**63)) // torch.int64.itemsize if rows is None else rows


def _check_axes(name: str, form: Form, most: int) -> None:
    """Refuse an array without any number of which sums would have a billion."""
    size = form.dtype.itemsize * math.prod(length or 1 for length in form.shape)
    if not form.bytes and size > (allowed := max(most, MOST_EMPTY)):
        shape = f"{name} of shape {list(form.shape)}"
        raise KnowledgeError(f"{shape}, whose sums could have more than {allowed:,} bytes")


def _check_beside(name: str, form: Form, rows: int) -> None:
    if form.type != "int64":
        raise KnowledgeError(f"{name} have dtype {form.type}, not int64")
    if len(form.shape) != 1 or form.shape[0] > rows:
        raise KnowledgeError(f"{name} of shape {list(form.shape)} for at most {rows:,} rows")


def _check_name(name: str) -> None:
    _at_most(len(name), LONGEST_NAME, "characters in a name")


def _length(values: list[Any]) -> int:
    return sum(len(v) if isinstance(v, str | bytes) else 1 for v in values)


def _at_most(number: int, most: int, what: str) -> None:
    if number > most:
        raise KnowledgeError(f"{number:,} {what}, and at most {most:,} are allowed")
