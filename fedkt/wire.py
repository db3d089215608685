"""Knowledge on the wire: conversion to and from Flower records, and exact byte counts.

The only module of the ground floor that knows Flower. Tensors in memory, NumPy on the
wire. Ids travel only when they differ from those the receiver expects anyway.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeAlias, TypeVar, cast

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import Tensor

from fedkt import npy
from fedkt.codecs import Codec, Size, codec_chain, encoded, uses_base
from fedkt.decoded import Base, about_rows, alike, grown
from fedkt.errors import KnowledgeError
from fedkt.knowledge import Kind, Knowledge

_PREFIX = "knowledge."
TENSOR = "t."  # before the names of tensors, beside which there may be ids and counts
FLOAT32 = torch.finfo(torch.float32).max
Content: TypeAlias = RecordDict  # of a message
R = TypeVar("R", ArrayRecord, ConfigRecord, MetricRecord)
SERIALISATION = "numpy.ndarray"  # Flower's name for the .npy format


@dataclass(frozen=True)
class Packet:
    """Encoded knowledge; attach one object to many messages to broadcast it.

    Parameters
    ----------
    arrays : ArrayRecord
        The payload.
    meta : ConfigRecord
        Kind, codec, the round whose ids the rows belong to, and the round of the base if the
        codec refers to one.
    """

    arrays: ArrayRecord
    meta: ConfigRecord

    @property
    def num_bytes(self) -> int:
        """Exact payload size in bytes; see :func:`payload_bytes`."""
        return payload_bytes(self.arrays)


def encode(
    knowledge: Knowledge,
    round_: int,
    known_ids: Tensor | None,
    codec: str = "none",
    base: Base | None = None,
    progress: float = 0.0,
) -> Packet:
    """Return knowledge as a packet to send.

    Parameters
    ----------
    knowledge : Knowledge
        What to send.
    round_ : int
        The round it belongs to.
    known_ids : Tensor, optional
        The ids the receiver expects; equal ids are not sent.
    codec : str
        A registered codec, or several joined by ``+``, applied left to right.
    base : Base, optional
        What the receiver decoded last for this share, if the codec refers to it.
    progress : float
        The part of the run, in [0, 1], that ends with the round; codecs may follow it.
    """
    base = base if base is not None and uses_base(codec) and alike(base, knowledge) else None
    arrays = {name: _to_numpy(tensor) for name, tensor in knowledge.tensors.items()}
    chain = codec_chain(codec)
    for place, (step, kind) in enumerate(zip(chain, _kinds(chain, knowledge.kind), strict=True)):
        about = about_rows(kind, knowledge.ids, None if place else base, round_)
        arrays = dict(encoded(step, arrays, replace(about, progress=progress)))
    arrays = {f"{TENSOR}{name}": array for name, array in arrays.items()}
    if knowledge.ids is not None and not _equal(knowledge.ids, known_ids):
        arrays["ids"] = _to_numpy(knowledge.ids)
    if knowledge.counts is not None:
        arrays["counts"] = _to_numpy(knowledge.counts)
    record = ArrayRecord({n: _packed(a) for n, a in arrays.items()})
    return Packet(record, _meta(knowledge.kind, round_, codec, base and base.round))


def decode(
    packet: Packet,
    known_ids: Callable[[int], Tensor | None],
    codec: str = "none",
    asked: int | None = None,
    base: Base | None = None,
    most: Size | None = None,
) -> Knowledge:
    """Return the knowledge in a packet.

    Parameters
    ----------
    packet : Packet
        What arrived.
    known_ids : callable
        Gives the expected ids for the round named in the packet; used when no ids
        were sent.
    codec : str
        The codecs agreed on; the sender does not choose.
    asked : int, optional
        The round that the packet must belong to; by default any.
    base : Base, optional
        What was decoded last for this share, if the codec refers to it.
    most : Size, optional
        The largest size of the decoded arrays, which codecs are told; None: any.

    Raises
    ------
    KnowledgeError
        If the packet is not well formed, was encoded otherwise, or is of another round or base.
    """
    try:
        kind = cast(Kind, packet.meta["kind"])
        if packet.meta["codec"] != codec:
            raise KnowledgeError(f"encoded with {packet.meta['codec']!r}, not with {codec!r}")
        round_ = packet.meta["round"]
        if type(round_) is not int or asked not in (None, round_):
            expected = "a whole number" if asked is None else asked
            raise KnowledgeError(f"its round is {round_!r}, not {expected}")
        arrays = {name: npy.read(_data(array)) for name, array in packet.arrays.items()}
        ids, counts = arrays.pop("ids", None), arrays.pop("counts", None)
        rows = known_ids(round_) if ids is None else torch.tensor(ids)
        named, steps = _named(packet, codec, base), codec_chain(codec)
        content = {name.removeprefix(TENSOR): array for name, array in arrays.items()}
        kinds, limits = _kinds(steps, kind), _limits(steps, most)
        for place, step in reversed(list(enumerate(steps))):
            of_step = None if place else named
            about = about_rows(kinds[place], rows, of_step, round_, limits[place])
            content = dict(step.decode(content, about))
        return Knowledge(
            kind,
            {name: torch.tensor(array) for name, array in content.items()},
            rows,
            None if counts is None else torch.tensor(counts),
        )
    except KnowledgeError:
        raise
    except Exception as error:  # the bytes come from outside: anything may be wrong with them
        raise _unreadable(error) from error


def next_base(packet: Packet, decoded: Knowledge, codec: str, base: Base | None) -> Base:
    """Return what the receiver of a packet holds from now on; both ends have the same.

    Parameters
    ----------
    packet : Packet
        What was sent; its codec refers to a base.
    decoded : Knowledge
        What it is decoded to.
    codec : str
        The codecs.
    base : Base, optional
        What the receiver held before.
    """
    round_, first = cast(int, packet.meta["round"]), codec_chain(codec)[0]
    if not first.keeps_rows:
        return Base(round_, decoded)
    return grown(_named(packet, codec, base), decoded, round_, first)


def forms(packet: Packet) -> dict[str, npy.Form]:
    """Return what the arrays of a packet declare, by name; none of them is read.

    Raises
    ------
    KnowledgeError
        If an array is not what it declares.
    """
    try:
        return {name: npy.form_of(_data(array)) for name, array in packet.arrays.items()}
    except Exception as error:  # as in ``decode``
        raise _unreadable(error) from error


def scalar(
    metrics: MetricRecord | None, name: str, low: float = -FLOAT32, high: float = FLOAT32
) -> float | None:
    """Return a number from a reply's metrics; None if there is none of that name.

    Parameters
    ----------
    metrics : MetricRecord, optional
        The reply's.
    name : str
        The name of the number.
    low, high : float
        The least and the greatest that it may be; by default what float32 holds.

    Raises
    ------
    KnowledgeError
        If it is a list, NaN or outside of the bounds.
    """
    value = None if metrics is None else metrics.get(name)
    if value is None:
        return None
    if isinstance(value, list):
        raise KnowledgeError(f"{name} is a list, not a number")
    if not low <= value <= high:
        raise KnowledgeError(f"{name} is {value}, not a number in [{low:g}, {high:g}]")
    return float(value)


def numbers(
    metrics: MetricRecord | None, name: str, length: int, low: float, high: float
) -> list[float] | None:
    """Return a list of numbers from a reply's metrics; None if there is none of that name.

    Parameters
    ----------
    metrics : MetricRecord, optional
        The reply's.
    name : str
        The name of the list.
    length : int
        Of the list.
    low, high : float
        The least and the greatest that a number may be; NaN stands for one that is not defined.

    Raises
    ------
    KnowledgeError
        If it is no list, has another length, or holds a number out of the bounds.
    """
    values = None if metrics is None else metrics.get(name)
    if values is None:
        return None
    if not isinstance(values, list) or len(values) != length:
        raise KnowledgeError(f"{name} is no list of {length} numbers")
    wrong = [value for value in values if not (math.isnan(value) or low <= value <= high)]
    if wrong:
        raise KnowledgeError(f"{name} holds {wrong[0]}, not a number in [{low:g}, {high:g}]")
    return [float(value) for value in values]


def attach(content: RecordDict, packets: Mapping[str, Packet]) -> None:
    """Put packets into a message's content under their share names."""
    for name, packet in packets.items():
        content[f"{_PREFIX}{name}"] = packet.arrays
        content[f"{_PREFIX}{name}.meta"] = packet.meta


def extract(content: RecordDict) -> dict[str, Packet]:
    """Return the packets in a message's content by share name."""
    packets = {}
    for key, arrays in content.items():
        if key.startswith(_PREFIX) and isinstance(arrays, ArrayRecord):
            meta = record(content, f"{key}.meta", ConfigRecord)
            if meta is not None:
                packets[key.removeprefix(_PREFIX)] = Packet(arrays, meta)
    return packets


def share_of(name: str) -> str | None:
    """Return the share whose arrays have this name in a message; None if it is of no share."""
    return name.removeprefix(_PREFIX) if name.startswith(_PREFIX) else None


def are_arrays(record: object) -> bool:
    """Return whether a record holds arrays; else figures or facts."""
    return isinstance(record, ArrayRecord)


def record(content: RecordDict, name: str, kind: type[R]) -> R | None:
    """Return the record of a name and a kind; None if there is none.

    Flower's ``content.config_records`` and the like are copies of all records of their kind.
    """
    found = content.get(name)
    return found if isinstance(found, kind) else None


def payload_bytes(arrays: ArrayRecord) -> int:
    """Return the exact number of bytes of array data in a record, as it was sent.

    Flower's framing (about 130 bytes for each array and a few hundred for each
    message) is not counted.
    """
    return sum(len(a.data) - npy.header_bytes(a.data) for a in arrays.values())


def weights_of(arrays: ArrayRecord) -> Knowledge:
    """Return plain Flower arrays (a model's state) as float32 weights; integer buffers stay out."""
    tensors = {name: torch.tensor(array.numpy()) for name, array in arrays.items()}
    floats = {n: t.float() for n, t in tensors.items() if t.is_floating_point()}
    return Knowledge("weights", floats)


def arrays_of(weights: Knowledge) -> ArrayRecord:
    """Return float32 weights as plain Flower arrays."""
    return ArrayRecord({name: Array(_to_numpy(t)) for name, t in weights.tensors.items()})


def _unreadable(error: Exception) -> KnowledgeError:
    return KnowledgeError(f"unreadable packet: {type(error).__name__}: {error}")


def _named(packet: Packet, codec: str, base: Base | None) -> Base | None:
    """Return the base that a packet was encoded with, None if with none.

    Raises
    ------
    KnowledgeError
        If the receiver holds another one.
    """
    if "base" not in packet.meta:
        return None
    named, current = packet.meta["base"], None if base is None else base.round
    if type(named) is not int or named != current or not uses_base(codec):
        holding = "nothing" if current is None else f"that of round {current}"
        raise KnowledgeError(f"its base is of round {named!r}, and the receiver holds {holding}")
    return base


def _kinds(chain: Sequence[Codec], kind: str) -> list[str]:
    """Return the kind of what each codec of a chain encodes."""
    kinds = [kind]
    for step in chain:
        kinds.append(step.passes(kinds[-1]))
    return kinds[: len(chain)]


def _limits(chain: Sequence[Codec], most: Size | None) -> list[int | None]:
    """Return the most bytes that each codec of a chain may decode to."""
    limits: list[int | None] = []
    for step in chain:
        limits.append(None if most is None else most.bytes)
        most = None if most is None else step.encoded_size(most)
    return limits


@lru_cache(maxsize=64)
def _meta(kind: str, round_: int, codec: str, base: int | None) -> ConfigRecord:
    """Return the record about a packet; one for all packets of a round that are alike."""
    named = {} if base is None else {"base": base}
    return ConfigRecord({"kind": kind, "round": round_, "codec": codec, **named})


def _packed(array: np.ndarray) -> Array:
    """Return ``Array(array)``."""
    return Array(str(array.dtype), array.shape, SERIALISATION, npy.written(array))


def _data(array: Array) -> bytes:
    """Return the ``.npy`` file of an array."""
    if array.stype != SERIALISATION:
        raise ValueError(f"serialised as {array.stype!r}")
    return array.data


def _to_numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().contiguous().numpy()


def _equal(ids: Tensor, known_ids: Tensor | None) -> bool:
    return known_ids is not None and torch.equal(ids, known_ids)
