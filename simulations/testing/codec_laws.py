"""The laws of codecs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from fedkt.codecs import Codec
from fedkt.codecs.codec import About, Arrays, Size
from fedkt.knowledge import KINDS
from fedkt.testing.fusion_laws import knowledge_of


def check_codec(codec: Codec, error: float = 1e-2) -> None:
    """Require that a codec keeps the laws, for every kind of knowledge.

    What is decoded has the names, shapes and dtypes of what was encoded, and differs by at most
    ``error``; labels and other integers come back as they were; nothing that is given to it is
    changed; the same arrays are always encoded to the same bytes, and to no more than its
    ``encoded_size`` says; knowledge without rows passes. A codec that refers to a base gives the
    same with and without one, and with one that lacks rows; rows that it does not send
    (``sends``) are the base's.

    Parameters
    ----------
    codec : Codec
        With its options.
    error : float
        The largest absolute error of a float, for numbers drawn from a normal distribution with a
        deviation of 2, and for probabilities; infinite for codecs that keep only a part.

    Raises
    ------
    AssertionError
        Naming the first law that is broken.
    """
    name = type(codec).__name__
    for kind in sorted(KINDS):
        knowledge, last = knowledge_of(kind, 0), knowledge_of(kind, 1)
        arrays = {key: tensor.numpy() for key, tensor in knowledge.tensors.items()}
        ids = None if knowledge.ids is None else knowledge.ids.numpy()
        bases: list[About] = [About(kind, ids)]
        if codec.uses_base:
            base = {key: tensor.numpy() for key, tensor in last.tensors.items()}
            whole = None if ids is None else np.ones(len(ids), dtype=bool)
            bases.append(About(kind, ids, base, whole))
            if whole is not None:
                lacking = whole.copy()
                lacking[1] = False
                bases.append(About(kind, ids, _without(base, lacking), lacking))
        for about in bases:
            _comes_back(codec, arrays, arrays, about, error, f"{name} of {kind}")
        if codec.uses_base and ids is not None:
            _leaves_rows_to_the_base(codec, arrays, bases[-1], error, f"{name} of {kind}")
        if ids is not None:
            empty = {key: array[:0] for key, array in arrays.items()}
            what = f"{name} of {kind} without rows"
            _comes_back(codec, empty, empty, About(kind, ids[:0]), error, what)


def _leaves_rows_to_the_base(
    codec: Codec, arrays: Arrays, about: About, error: float, what: str
) -> None:
    assert about.base is not None
    assert about.known is not None
    base, known = about.base, about.known
    about = replace(about, ages=np.arange(len(known)) * known)
    rows, expected = codec.sends(about), _copies(arrays)
    for key, array in expected.items():
        kept = slice(0, 0) if rows is None else ~rows
        array[kept] = base[key][kept]
    _comes_back(codec, arrays, expected, about, error, f"{what} with rows of before")


def _comes_back(
    codec: Codec, arrays: Arrays, expected: Arrays, about: About, error: float, what: str
) -> None:
    before = _copies(arrays)
    travelling = codec.encode(arrays, about)
    size, allowed = Size.of(travelling), codec.encoded_size(Size.of(arrays))
    larger = size.arrays > allowed.arrays or size.bytes > allowed.bytes
    assert not larger, f"{what}: it makes {size}, and its encoded_size says at most {allowed}"
    again = codec.encode(_copies(arrays), about)
    assert _bytes(travelling) == _bytes(again), f"{what}: the same arrays, other bytes"
    assert _bytes(arrays) == _bytes(before), f"{what}: it changes what it is given"
    sent = _copies(travelling)
    decoded = codec.decode(travelling, about)
    assert _bytes(travelling) == _bytes(sent), f"{what}: it changes what it is given"
    names = set(decoded) == set(arrays)
    assert names, f"{what}: {sorted(arrays)} go in and {sorted(decoded)} come out"
    for key, array in expected.items():
        form, other = (array.dtype, array.shape), (decoded[key].dtype, decoded[key].shape)
        assert form == other, f"{what}: {key} is {form[0]} {form[1]}, and {other[0]} {other[1]} out"
        if not array.size:
            continue
        gap = float(np.abs(array.astype(float) - decoded[key].astype(float)).max())
        most = error if array.dtype.kind == "f" else 0.0
        assert gap <= most, f"{what}: {key} comes back {gap:g} apart, more than {most:g}"


def _without(base: Mapping[str, np.ndarray], known: np.ndarray) -> dict[str, np.ndarray]:
    """Return a base whose rows that are not known are 0."""
    copies = _copies(base)
    for array in copies.values():
        array[~known] = 0
    return copies


def _copies(arrays: Arrays) -> dict[str, np.ndarray]:
    return {key: array.copy() for key, array in arrays.items()}


def _bytes(arrays: Arrays) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {key: (str(a.dtype), a.shape, a.tobytes()) for key, a in sorted(arrays.items())}
