"""Messages that are refused by what they declare, before any array is made of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedkt import npy, wire
from fedkt.codecs import About, Arrays, Codec, Size
from fedkt.declared import LONGEST_NAME, MOST_TENSORS, check_content, check_packet
from fedkt.errors import KnowledgeError
from fedkt.knowledge import Knowledge
from fedkt.registry import register
from fedkt.upload_check import Expected

IDS = torch.arange(50)
ANSWERS = Expected("logits", IDS, {"values": (50, 10)})
SOME = Expected("prototypes", torch.arange(10), {"values": (10, None)}, partial=True)
NET = Expected("weights", None, {"a": (3, 4), "b": (4,)})
ANY = Expected("weights", None, None)


class Unread(bytes):
    """The bytes of a file of which nobody may look at more than the header."""

    def __getitem__(self, key: Any) -> Any:
        assert isinstance(key, int) or key.stop <= 200, "the data are not copied"
        return super().__getitem__(key)


def declared(shape: tuple[int, ...], dtype: str = "<f4", data: int | None = None) -> Array:
    """Return an array of a shape; of its data nothing can be read."""
    size = int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize if data is None else data
    header = npy._header(dtype, shape)
    return Array("false", (7,), wire.SERIALISATION, Unread(header + bytes(size)))


def packet(kind: str = "logits", **arrays: Array) -> wire.Packet:
    names = {name.replace("_", ".", 1): array for name, array in arrays.items()}
    meta = ConfigRecord({"kind": kind, "codec": "none", "round": 1})
    return wire.Packet(ArrayRecord(names), meta)


@pytest.fixture(autouse=True)
def no_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let everything that makes an array or a tensor of what arrived fail."""

    def made(*args: Any, **options: Any) -> None:
        raise AssertionError("an array was made before it was checked")

    monkeypatch.setattr(np, "frombuffer", made)
    monkeypatch.setattr(torch, "tensor", made)


@pytest.mark.parametrize(
    ("expected", "came", "says"),
    [
        (ANSWERS, packet("labels", t_values=declared((50, 10))), "kind is labels, not logits"),
        (
            ANSWERS,
            packet(t_values=declared((50_000, 10))),
            "values has shape [50000, 10], not [50, 10]",
        ),
        (ANSWERS, packet(t_values=declared((10, 50))), "values has shape [10, 50], not [50, 10]"),
        (ANSWERS, packet(t_values=declared(())), "values has shape [], not [50, 10]"),
        (
            ANSWERS,
            packet(t_values=declared((50, 10), "<f8")),
            "values has dtype float64, not float32",
        ),
        (ANSWERS, packet(t_values=declared((50, 10), ">f4")), "values has dtype >f4, not float32"),
        (
            ANSWERS,
            packet(t_values=declared((10**9, 10**9), data=0)),
            "unreadable packet: ValueError: 0 bytes of data, where its header says "
            "4,000,000,000,000,000,000",
        ),
        (
            ANSWERS,
            packet(t_values=declared((50, 10), data=2001)),
            "unreadable packet: ValueError: 2,001 bytes of data, where its header says 2,000",
        ),
        (
            ANSWERS,
            packet(t_values=declared((-50, -10))),
            "unreadable packet: ValueError: a shape of [-50, -10]",
        ),
        (
            ANSWERS,
            packet(**{f"t_{n}": declared((1,)) for n in range(5000)}),
            "tensors differ from those asked for: t.0, t.1, t.10",
        ),
        (
            ANSWERS,
            packet(values=declared((50, 10))),
            "tensors differ from those asked for: t.values, values",
        ),
        (
            ANSWERS,
            packet(t_values=declared((50, 10)), ids=declared((51,), "<i8")),
            "ids of shape [51] for at most 50 rows",
        ),
        (
            ANSWERS,
            packet(t_values=declared((50, 10)), counts=declared((50,))),
            "counts have dtype float32, not int64",
        ),
        (
            Expected("features", None, {"values": (None, 2)}),
            packet("features", t_values=declared((1_000, 2)), ids=declared((1_250,), "<i8")),
            "ids of shape [1250] for at most 1,249 rows",
        ),
        (SOME, packet("prototypes", t_values=declared((11, 3))), "values has shape [11, 3], not"),
        (SOME, packet("prototypes", t_values=declared((9, 0, 3))), "values has shape [9, 0, 3]"),
        (
            SOME,
            packet("prototypes", t_values=declared((10, 1_000))),
            "40,000 bytes of tensors, and at most 9,999 are allowed",
        ),
        (
            NET,
            packet("weights", t_a=declared((3, 4)), ids=declared((1,), "<i8")),
            "tensors differ from those asked for: ids, t.b",
        ),
        (NET, packet("weights", t_a=declared((3, 4)), t_b=declared((5,))), "b has shape [5]"),
        (
            ANY,
            packet("weights", **{f"t_{'x' * 9999}": declared((1,))}),
            "10,001 characters in a name, and at most 500 are allowed",
        ),
        (
            ANY,
            packet("weights", t_a=declared((2_000,)), t_b=declared((500,))),
            "10,000 bytes of tensors, and at most 9,999 are allowed",
        ),
        (ANY, packet("weights", t_a=declared((2,), "<f2")), "a has dtype float16, not float32"),
    ],
)
def test_what_is_not_asked_for_is_refused_by_its_header(
    expected: Expected, came: wire.Packet, says: str
) -> None:
    with pytest.raises(KnowledgeError) as caught:
        check_packet(came, expected, open_bytes=9_999)
    assert str(caught.value).startswith(says)


@pytest.mark.parametrize("codec", ["delta", "svd", "float16"])
def test_an_empty_array_of_a_billion_rows_is_refused(codec: str) -> None:
    came = packet("logits", t_values=declared((10**9, 0)))
    says = r"t.values of shape \[1000000000, 0\], whose sums could have more than 67,108,864 bytes"
    with pytest.raises(KnowledgeError, match=says):
        check_packet(came, ANSWERS, codec)
    open_ = Expected("statistics", None, {"values": (None, None)})
    with pytest.raises(KnowledgeError, match=says):
        check_packet(packet("statistics", t_values=declared((10**9, 0))), open_, open_bytes=1e6)
    none = Expected("logits", torch.arange(0), {"values": (0, 10)})
    check_packet(packet("logits", t_values=declared((0, 10))), none, codec)
    few = packet("logits", t_values=declared((50, 0)), **{"t_values:right": declared((0, 10))})
    check_packet(few, ANSWERS, "svd")


def test_the_number_of_tensors_is_bounded_where_it_is_open() -> None:
    array = declared((1,))
    arrays = ArrayRecord({f"t.{n}": array for n in range(MOST_TENSORS + 1)})
    meta = ConfigRecord({"kind": "weights", "codec": "none", "round": 1})
    with pytest.raises(KnowledgeError, match="100,001 arrays of tensors"):
        check_packet(wire.Packet(arrays, meta), ANY)


@pytest.mark.parametrize(
    ("expected", "came"),
    [
        (ANSWERS, packet(t_values=declared((50, 10)))),
        (ANSWERS, packet(t_values=declared((50, 10)), ids=declared((50,), "<i8"))),
        (SOME, packet("prototypes", t_values=declared((10, 249)))),
        (
            SOME,
            packet(
                "prototypes",
                t_values=declared((0, 0)),
                ids=declared((0,), "<i8"),
                counts=declared((0,), "<i8"),
            ),
        ),
        (NET, packet("weights", t_b=declared((4,)), t_a=declared((3, 4)))),
        (ANY, packet("weights", t_whatever=declared((2_000,)))),
        (
            Expected("labels", IDS, {"values": (50,)}),
            packet("labels", t_values=declared((50,), "<i8")),
        ),
    ],
)
def test_what_is_asked_for_passes_unread(expected: Expected, came: wire.Packet) -> None:
    check_packet(came, expected, open_bytes=9_999)


# --- with codecs -----------------------------------------------------------------------------


@register(part="codecs", name="test-swelling")
class Swelling(Codec):
    """Three times as many bytes: more than codecs have by default."""

    def encode(self, arrays: Arrays, about: About) -> Arrays:
        return {name: np.repeat(array, 3, 0) for name, array in arrays.items()}

    def decode(self, arrays: Arrays, about: About) -> Arrays:
        return {name: array[::3] for name, array in arrays.items()}


@register(part="codecs", name="test-swelling-said")
class SwellingSaid(Swelling):
    """The same, and it says so."""

    def encoded_size(self, size: Size) -> Size:
        return Size(size.arrays, 3 * size.bytes)


@pytest.mark.parametrize(
    ("codec", "arrays", "rows"),
    [
        ("float16", 1, 2_000),
        ("test-swelling", 8, 2 * 2_000 + 1024),
        ("test-swelling-said", 1, 6_000),
        ("float16+test-swelling", 8, 2 * 2_000 + 1024),
        ("test-swelling-said+test-swelling", 8, 2 * 6_000 + 1024),
    ],
)
def test_a_codec_says_how_large_an_upload_can_be(codec: str, arrays: int, rows: int) -> None:
    """Whatever it does with names, types and shapes."""
    most = {f"x_{n}": declared((1,), "|u1") for n in range(arrays - 1)}
    left = rows - len(most)
    check_packet(packet(t_values=declared((left,), "|u1"), **most), ANSWERS, codec)
    with pytest.raises(
        KnowledgeError, match=rf"{rows + 1:,} bytes of tensors, and at most {rows:,}"
    ):
        check_packet(packet(t_values=declared((left + 1,), "|u1"), **most), ANSWERS, codec)
    more = {f"y_{n}": declared((1,), "|u1") for n in range(arrays + 3)}
    with pytest.raises(KnowledgeError, match=f"{arrays + 3} arrays of tensors and their ids"):
        check_packet(packet(**more), ANSWERS, codec)


def test_a_codec_that_makes_more_than_it_says_is_refused_by_the_sender() -> None:
    values = torch.zeros(1000, 2)
    rows = Knowledge.rows("logits", values, torch.arange(1000))
    with pytest.raises(
        KnowledgeError,
        match="codec test-swelling makes 1 arrays of 24,000 bytes, and its encoded_size allows 8 "
        "of 17,024",
    ):
        wire.encode(rows, 1, rows.ids, "test-swelling")
    sent = wire.encode(rows, 1, rows.ids, "test-swelling-said")
    check_packet(sent, Expected("logits", rows.ids, {"values": (1000, 2)}), "test-swelling-said")


# --- beside the arrays -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            {"metrics": MetricRecord({f"m{n}": 1.0 for n in range(50_000)})},
            "50,000 values in 'metrics', and at most 1,000 are allowed",
        ),
        (
            {f"r{n}": MetricRecord() for n in range(1_001)},
            "1,001 records in the message, and at most 1,000 are allowed",
        ),
        ({"n" * 10**6: MetricRecord()}, "1,000,000 characters in a name, and at most 500"),
        ({"config": ConfigRecord({"n" * 501: 1})}, "501 characters in a name"),
        (
            {"config": ConfigRecord({"a": "x" * 6_000_000, "b": ["y" * 4_000_001]})},
            "10,000,001 characters and numbers in 'config', and at most 10,000,000 are allowed",
        ),
        ({"metrics": MetricRecord({"loss": [0.5] * 10_000_001})}, "10,000,001 characters and"),
        ({"knowledge.other": ArrayRecord()}, "arrays called 'knowledge.other' were not asked for"),
        ({"arrays": ArrayRecord()}, "arrays called 'arrays' were not asked for"),
    ],
    ids=str,
)
def test_records_that_are_too_many_or_too_large(content: dict[str, Any], says: str) -> None:
    with pytest.raises(KnowledgeError) as caught:
        check_content(RecordDict(content), ["public"])
    assert str(caught.value).startswith(says)


def test_records_of_an_honest_reply() -> None:
    facts = {"a": "x" * LONGEST_NAME, "b": ["y"] * 10**5, "c": 1.0, "d": True, "n" * 500: b"z"}
    content = {"knowledge.public": ArrayRecord(), "config": ConfigRecord(facts)}
    check_content(RecordDict(content), ["public"])
