"""Replies that no honest client gives: a fixed list, and generators of more."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import strategies as st

from fedkt.testing.faults import RUBBISH, metric
from fedkt.testing.kit import Method

Spoil = Callable[[RecordDict], RecordDict]
NAN, INF = float("nan"), float("inf")
NOT_NUMBERS: dict[str, Any] = {
    "nan": NAN,
    "inf": INF,
    "minus-inf": -INF,
    "list": [0.5],
    "empty-list": [],
}


def _share(content: RecordDict) -> str:
    """Return the name of the last share, which statistics beside weights are."""
    return list(content.array_records)[-1]


def about(key: str, value: Any) -> Spoil:
    """Say something else about the last share."""

    def spoil(content: RecordDict) -> RecordDict:
        name = f"{_share(content)}.meta"
        content[name] = ConfigRecord({**content.config_records[name], key: value})
        return content

    return spoil


def about_missing(key: str) -> Spoil:
    """Leave out what is said about the last share."""

    def spoil(content: RecordDict) -> RecordDict:
        del content.config_records[f"{_share(content)}.meta"][key]
        return content

    return spoil


def arrays(change: Callable[[dict[str, np.ndarray]], Mapping[str, np.ndarray]]) -> Spoil:
    """Send other arrays for the last share."""

    def spoil(content: RecordDict) -> RecordDict:
        name = _share(content)
        old = {n: a.numpy().copy() for n, a in content.array_records[name].items()}
        content[name] = ArrayRecord({n: Array(a) for n, a in change(old).items()})
        return content

    return spoil


def raw(**fields: Any) -> Spoil:
    """Send an array of other bytes, or of another claim about them."""

    def spoil(content: RecordDict) -> RecordDict:
        name = _share(content)
        key, old = next(iter(content.array_records[name].items()))
        given = {k: getattr(old, k) for k in ("dtype", "shape", "stype", "data")}
        content.array_records[name][key] = Array(**{**given, **fields})
        return content

    return spoil


def npy(shape: str, descr: str = "'<f4'", data: bytes = b"") -> Spoil:
    """Send a header of NumPy's format that claims something."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return raw(data=b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data)


def data(change: Callable[[bytes], bytes]) -> Spoil:
    """Send the bytes of the first array otherwise."""

    def spoil(content: RecordDict) -> RecordDict:
        honest = next(iter(content.array_records[_share(content)].values()))
        return raw(data=change(honest.data))(content)

    return spoil


def beside(**records: Any) -> Spoil:
    """Send other records along."""

    def spoil(content: RecordDict) -> RecordDict:
        return RecordDict({**dict(content.items()), **records})

    return spoil


def figures(given: Mapping[str, Any]) -> Spoil:
    """Report more figures."""

    def spoil(content: RecordDict) -> RecordDict:
        content["metrics"] = MetricRecord({**content.metric_records["metrics"], **given})
        return content

    return spoil


def filled(value: float) -> Spoil:
    """Send one value in all places."""
    return arrays(lambda old: {n: np.full_like(a, value) for n, a in old.items()})


def _renamed(old: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{n}\x1b[2J": a for n, a in old.items()}


def _with(**more: np.ndarray) -> Spoil:
    return arrays(lambda old: {**old, **more})


ROUNDS: dict[str, Any] = {
    "before-all": -1,
    "first": 0,
    "last-round": 1,
    "next-round": 3,
    "far-away": 2**62,
    "farthest": -(2**63),
    "text": "2",
    "fraction": 2.0,
    "true": True,
    "bytes": b"2",
    "list": [2],
    "nothing": [],
}
EXAMPLES: dict[str, Any] = {
    **NOT_NUMBERS,
    "negative": -1,
    "just-negative": -1e-300,
    "1e300": 1e300,
    "beyond-float32": 1e39,
    "beyond-a-billion": 1_000_000_001,
    "largest-integer": 2**63 - 1,
    "a-billion": 10**9,
    "takes-over": 10**7,
}
# Uploads of any kind; what is refused, and why.
UPLOADS: dict[str, tuple[Spoil, str]] = {
    **{f"round-{n}": (about("round", v), "round") for n, v in ROUNDS.items()},
    **{
        f"without-{key}": (about_missing(key), f"KeyError: '{key}'")
        for key in ("kind", "codec", "round")
    },
    "kind-a-list": (about("kind", ["logits"]), "kind"),
    "kind-a-number": (about("kind", 1), "kind"),
    "kind-endless": (about("kind", "x\n" * 5000), "kind"),
    "codec-a-list": (about("codec", [1]), "encoded with"),
    "codec-a-file": (about("codec", "codec.py:C"), "encoded with"),
    "names-of-tensors": (arrays(_renamed), "tensors|values"),
    "no-bytes": (raw(data=b""), "unreadable"),
    "half-a-header": (raw(data=b"\x93NUMPY\x01\x00\xff"), "unreadable"),
    "endless-header": (raw(data=b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b"(" * 9000), "unreadable"),
    "version-9": (raw(data=b"\x93NUMPY\x09\x00\x10\x00" + b" " * 64), "unreadable"),
    "pickled": (npy("(1,)", "'|O'", b"\x80\x04N."), "objects|unreadable"),
    "nested-header": (npy("(" * 200 + ")" * 200), "unreadable"),
    "shape-negative": (npy("(-1, -1)", data=bytes(64)), "unreadable|shape|rows"),
    "shape-huge": (npy("(9223372036854775807, 2)"), "unreadable"),
    "shape-empty-but-huge": (npy("(0, 4611686018427387904)"), "unreadable|shape|rows"),
    "shape-of-text": (npy("('a',)"), "unreadable"),
    "shape-of-70": (npy(str((1,) * 70), data=bytes(4)), "unreadable|shape"),
    "no-shape": (npy("()", data=bytes(4)), "shape|rows"),
    "records": (npy("(2,)", "[('a', '<f4')]", bytes(8)), "unreadable|shape|dtype"),
    "big-endian": (npy("(2,)", "'>f4'", bytes(8)), "unreadable|shape|rows|dtype"),
    "complex": (npy("(2,)", "'<c8'", bytes(16)), "shape|rows|dtype"),
    "dates": (npy("(2,)", "'<M8[s]'", bytes(16)), "unreadable|shape|dtype"),
    "other-serialisation": (raw(stype="pickle"), "serialised"),
    "serialised-by-torch": (raw(stype="torch.Tensor"), "serialised"),
    "truncated": (data(lambda whole: whole[:-1]), "unreadable"),
    "bytes-after-the-data": (data(lambda whole: whole + b"junk"), "unreadable"),
    "deep-header": (npy("(" * 5000 + ")" * 5000), "unreadable"),
    "code-in-header": (npy("__import__('os').getpid()"), "unreadable"),
    "a-billion-each-way": (npy("(1000000000, 1000000000)"), "unreadable"),
    "5000-tensors": (
        _with(**{f"t.{n}": np.zeros(1, dtype=np.float32) for n in range(5000)}),
        "tensors differ|t.0 of shape",
    ),
    "name-of-a-megabyte": (
        _with(**{f"t.{'x' * 10**6}": np.zeros(1, dtype=np.float32)}),
        "tensors differ|1,000,002 characters in a name",
    ),
    "another-share": (beside(**{"knowledge.more": ArrayRecord()}), "were not asked for"),
    "arrays-of-no-share": (beside(arrays=ArrayRecord()), "were not asked for"),
    "beyond-float32": (filled(3e38), "at most 1e\\+15|not probabilities|not in"),
    "below-float32": (filled(-3e38), "at most 1e\\+15|not probabilities|not in"),
    "just-beyond-the-others": (filled(1e6), "the others' median|not probabilities|not in"),
    "ids-of-nobody": (_with(ids=np.array([2**62])), "ids"),
    "ids-negative": (_with(ids=np.array([-1])), "ids|id"),
    "ids-fractions": (_with(ids=np.array([0.5])), "ids"),
    "counts-negative": (_with(counts=np.array([-5, 0])), "counts"),
    "counts-of-nothing": (_with(counts=np.zeros((0, 3), dtype=np.int64)), "counts"),
}
# In either reply.
TOO_MUCH: dict[str, tuple[Spoil, str]] = {
    "9000-figures": (figures({f"m{n}": 1.0 for n in range(9_000)}), "9,0.. values in"),
    "long-figure": (figures({"x" * 10**6: 1.0}), "1,000,000 characters in a name"),
    "many-records": (
        beside(**{f"r{n}": ConfigRecord() for n in range(1_001)}),
        "records in the message",
    ),
}
# With a share or without one.
FIGURES: dict[str, tuple[Spoil, str]] = {
    **TOO_MUCH,
    **{
        f"examples-{name}": (metric("num-examples", value), "num-examples")
        for name, value in EXAMPLES.items()
    },
    **{
        f"loss-{name}": (metric("loss", value), "loss is")
        for name, value in {**NOT_NUMBERS, "1e300": 1e300}.items()
    },
    **{
        f"learnt-{name}": (metric("learnt-accuracy", value), "learnt-accuracy is")
        for name, value in {**NOT_NUMBERS, "negative": -1, "1e9": 1e9}.items()
    },
}
ACCURACIES = ("personalised-accuracy", "global-accuracy", "validation-accuracy")
EVALUATIONS: dict[str, tuple[Spoil, str]] = TOO_MUCH | {
    f"{which}-{name}": (metric(which, value), f"{which} is")
    for which in ACCURACIES
    for name, value in {
        **NOT_NUMBERS,
        "negative": -1,
        "just-below-0": -1e-12,
        "just-above-1": 1 + 1e-12,
        "1e9": 1e9,
        "2-to-63": 2**63 - 1,
    }.items()
}


def uploads_for(method: Method) -> dict[str, tuple[Spoil, str]]:
    """Return the spoiled uploads that a method can be sent."""
    if not method.recipe.share:
        return FIGURES
    rubbish: Iterable[Any] = (one for one in RUBBISH if one.fits(method.recipe))
    return {**FIGURES, **UPLOADS, **{one.name: (one, one.says) for one in rubbish}}


# --- generated ----------------------------------------------------------------------------------

NUMBERS = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.sampled_from([0, -0.0, 1, 2, 1e9, 1e15, 3e38, 1e300]),
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SCALARS = st.one_of(NUMBERS, TEXTS, st.binary(max_size=20), st.booleans())
VALUES = st.one_of(SCALARS, st.lists(st.integers(-9, 9), max_size=3), st.lists(TEXTS, max_size=3))
METRICS = st.one_of(NUMBERS, st.lists(st.floats(), max_size=3))
SHAPES = st.lists(st.integers(0, 50), max_size=4).map(tuple)
DTYPES = st.sampled_from(["<f4", "<f8", ">f4", "<f2", "<i8", "<u8", "|b1", "|S3", "<U3", "<c8"])


@st.composite
def made_arrays(draw: st.DrawFn) -> Array:
    """Return an array of any shape and type, or bytes that claim to be one."""
    if draw(st.booleans()):
        shape = [n for n in draw(SHAPES) if n] or [1]
        values = np.full(shape, draw(st.integers(0, 255)), dtype=np.uint8)
        return Array(np.resize(values, shape).astype(draw(DTYPES)))
    data = draw(st.one_of(st.binary(max_size=80), st.binary(max_size=60).map(b"\x93NUMPY".__add__)))
    return Array(draw(TEXTS), draw(SHAPES), "numpy.ndarray", data)


@st.composite
def flips(draw: st.DrawFn) -> Spoil:
    """Change some bytes of an honest array, in its header or its numbers."""
    places = draw(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6))

    def spoil(content: RecordDict) -> RecordDict:
        name = _share(content)
        for key, array in content.array_records[name].items():
            data = bytearray(array.data)
            for place, byte in places:
                data[place % len(data)] = byte
            new = Array(array.dtype, array.shape, array.stype, bytes(data))
            content.array_records[name][key] = new
            break
        return content

    return spoil


def _replaced(records: Mapping[str, Any]) -> Spoil:
    """Put other records in, by the place of an honest one, or beside them."""

    def spoil(content: RecordDict) -> RecordDict:
        names = list(content)
        for place, record in records.items():
            content[names[int(place) % len(names)] if place.isdigit() else place] = record
        return content

    return spoil


def _about(given: Mapping[str, Any]) -> Spoil:
    def spoil(content: RecordDict) -> RecordDict:
        name = f"{_share(content)}.meta"
        content[name] = ConfigRecord({**content.config_records[name], **given})
        return content

    return spoil


PLACES = st.one_of(st.integers(0, 5).map(str), TEXTS)
RECORDS = st.one_of(
    st.dictionaries(TEXTS, made_arrays(), max_size=2).map(ArrayRecord),
    st.dictionaries(TEXTS, VALUES, max_size=3).map(ConfigRecord),
    st.dictionaries(TEXTS, METRICS, max_size=3).map(MetricRecord),
)
NAMES = st.one_of(st.sampled_from(["num-examples", "loss", "learnt-accuracy", *ACCURACIES]), TEXTS)
REPLIES = st.one_of(
    st.dictionaries(PLACES, RECORDS, min_size=1, max_size=3).map(_replaced),
    st.dictionaries(NAMES, METRICS, min_size=1, max_size=3).map(figures),
)
PARCELS = st.one_of(
    flips(),
    st.dictionaries(
        st.sampled_from(["kind", "codec", "round", "more"]), VALUES, min_size=1, max_size=2
    ).map(_about),
    st.dictionaries(
        st.sampled_from(["t.values", "ids", "counts", "t.more"]), made_arrays(), min_size=1
    ).map(lambda given: lambda content: _with_arrays(content, given)),
    REPLIES,
)


def _with_arrays(content: RecordDict, given: Mapping[str, Array]) -> RecordDict:
    name = _share(content)
    content[name] = ArrayRecord({**content.array_records[name], **given})
    return content
