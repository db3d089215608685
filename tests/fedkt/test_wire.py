from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from fedkt import wire
from fedkt.errors import KnowledgeError
from fedkt.knowledge import Knowledge

IDS = torch.tensor([2, 5, 11])
NOISE = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
EVERY_KIND = {
    "logits": Knowledge.rows("logits", NOISE, IDS),
    "probabilities": Knowledge.rows("probabilities", NOISE.softmax(-1), IDS),
    "labels": Knowledge.rows("labels", torch.tensor([3, 0, 1]), IDS),
    "features": Knowledge.rows("features", NOISE[:, :2], IDS),
    "class-logits": Knowledge("class-logits", {"values": NOISE}, IDS, torch.tensor([4, 1, 9])),
    "prototypes": Knowledge("prototypes", {"values": NOISE.T[:3]}, IDS, torch.tensor([4, 0, 9])),
    "statistics": Knowledge("statistics", {"mean": NOISE[0], "n": torch.tensor(3.0)}),
    "weights": Knowledge("weights", {"0.weight": NOISE, "0.bias": NOISE[0], "s": torch.ones(())}),
}


def never(round_: int) -> torch.Tensor | None:
    raise AssertionError("ids were sent; nobody may ask for them")


def same(a: Knowledge, b: Knowledge) -> bool:
    def equal(x: torch.Tensor | None, y: torch.Tensor | None) -> bool:
        if x is None or y is None:
            return x is y
        return x.dtype == y.dtype and torch.equal(x, y)

    return (
        a.kind == b.kind
        and list(a.tensors) == list(b.tensors)
        and all(equal(a.tensors[n], b.tensors[n]) for n in a.tensors)
        and equal(a.ids, b.ids)
        and equal(a.counts, b.counts)
    )


@pytest.mark.parametrize("kind", list(EVERY_KIND))
def test_round_trip_with_the_ids_sent(kind: str) -> None:
    knowledge = EVERY_KIND[kind]
    packet = wire.encode(knowledge, 3, None)
    known = never if knowledge.ids is not None else lambda r: None
    assert same(wire.decode(packet, known), knowledge)


@pytest.mark.parametrize("kind", [k for k, v in EVERY_KIND.items() if v.ids is not None])
def test_known_ids_are_not_sent_and_are_asked_for_by_round(kind: str) -> None:
    knowledge = EVERY_KIND[kind]
    packet = wire.encode(knowledge, 7, IDS.clone())
    assert "ids" not in packet.arrays
    asked = []

    def known(round_: int) -> torch.Tensor:
        asked.append(round_)
        return IDS

    assert same(wire.decode(packet, known), knowledge)
    assert asked == [7]


def test_the_order_of_ids_counts() -> None:
    packet = wire.encode(EVERY_KIND["logits"], 1, IDS.flip(0))
    assert same(wire.decode(packet, never), EVERY_KIND["logits"])


def test_a_non_contiguous_tensor_travels_whole() -> None:
    knowledge = Knowledge.rows("logits", NOISE.T[:, :3], range(4))
    assert same(wire.decode(wire.encode(knowledge, 1, None), never), knowledge)


# --- bytes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("m", "c"), [(1000, 10), (7, 3)])
def test_answers_cost_4mc_and_ids_8m(m: int, c: int) -> None:
    knowledge = Knowledge.rows("probabilities", torch.full((m, c), 1 / c))
    assert wire.encode(knowledge, 1, torch.arange(m)).num_bytes == 4 * m * c
    assert wire.encode(knowledge, 1, None).num_bytes == 4 * m * c + 8 * m
    assert wire.encode(knowledge, 1, torch.arange(m), "float16").num_bytes == 2 * m * c


def test_weights_cost_4p() -> None:
    model = torch.nn.Linear(64, 10)
    weights = Knowledge("weights", dict(model.state_dict()))
    assert wire.encode(weights, 1, None).num_bytes == 4 * (64 * 10 + 10)


def test_labels_and_counts_cost_8_each() -> None:
    assert wire.encode(EVERY_KIND["labels"], 1, IDS).num_bytes == 3 * 8
    assert wire.encode(EVERY_KIND["class-logits"], 1, IDS).num_bytes == 4 * 12 + 3 * 8


def test_the_bytes_are_those_of_the_serialised_arrays_less_their_headers() -> None:
    packet = wire.encode(EVERY_KIND["weights"], 1, None)
    sent = sum(len(a.data) for a in packet.arrays.values())
    headers = sum(len(a.data) - np.load(io.BytesIO(a.data)).nbytes for a in packet.arrays.values())
    assert packet.num_bytes == sent - headers


# --- messages ------------------------------------------------------------------------------


def test_one_packet_in_many_messages_is_one_object() -> None:
    packet = wire.encode(EVERY_KIND["logits"], 1, IDS)
    contents = [RecordDict({}) for _ in range(3)]
    for content in contents:
        wire.attach(content, {"public": packet})
    assert {id(wire.extract(c)["public"].arrays) for c in contents} == {id(packet.arrays)}


def test_attach_and_extract_keep_shares_apart_and_foreign_records_out() -> None:
    content = RecordDict({"config": ConfigRecord({"a": 1}), "other": ArrayRecord({})})
    packets = {n: wire.encode(k, 1, None) for n, k in EVERY_KIND.items()}
    wire.attach(content, packets)
    found = wire.extract(content)
    assert set(found) == set(EVERY_KIND)
    assert same(wire.decode(found["logits"], never), EVERY_KIND["logits"])


def test_a_packet_without_its_meta_is_not_knowledge() -> None:
    content = RecordDict({})
    wire.attach(content, {"public": wire.encode(EVERY_KIND["logits"], 1, None)})
    del content["knowledge.public.meta"]
    assert wire.extract(content) == {}


def test_flower_arrays_to_weights_and_back() -> None:
    model = torch.nn.BatchNorm1d(3)
    arrays = ArrayRecord({n: Array(t.numpy()) for n, t in model.state_dict().items()})
    weights = wire.weights_of(arrays)
    assert set(weights.tensors) == set(arrays) - {"num_batches_tracked"}
    back = wire.arrays_of(weights)
    for name in back:
        assert np.array_equal(back[name].numpy(), arrays[name].numpy())
    again = wire.weights_of(back)
    assert same(again, weights)


# --- damage --------------------------------------------------------------------------------


def packet_with(**changed: object) -> wire.Packet:
    """A good packet of probabilities, one field of its array or meta changed."""
    good = wire.encode(EVERY_KIND["probabilities"], 1, None)
    fields = {k: getattr(good.arrays["t.values"], k) for k in ("dtype", "shape", "stype", "data")}
    meta = dict(good.meta)
    for key, value in changed.items():
        (meta if key in meta else fields)[key] = value
    arrays = {**good.arrays, "t.values": Array(**fields)}
    return wire.Packet(ArrayRecord(arrays), ConfigRecord(meta))


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


GOOD_DATA = packet_with().arrays["t.values"].data
DAMAGE: dict[str, tuple[Callable[[], wire.Packet], str]] = {  # and what the error says
    "empty": (lambda: packet_with(data=b""), "unreadable packet"),
    "cut short": (lambda: packet_with(data=GOOD_DATA[:-3]), "unreadable packet"),
    "not an array": (lambda: packet_with(data=b"this is no array"), "unreadable packet"),
    "pickle": (lambda: packet_with(data=b"\x80\x04]."), "unreadable packet"),
    "text": (lambda: packet_with(data=npy(np.array(["a", "b", "c"]))), "unreadable packet"),
    "dates": (lambda: packet_with(data=npy(np.zeros(3, dtype="M8[s]"))), "unreadable packet"),
    "rows missing": (
        lambda: packet_with(data=npy(np.ones((2, 4), np.float32))),
        "2 rows for ids",
    ),
    "scalar": (lambda: packet_with(data=npy(np.float32(1))), "0 rows for ids"),
    "other serialisation": (lambda: packet_with(stype="pickle"), "serialised as 'pickle'"),
    "unknown kind": (lambda: packet_with(kind="guesses"), "unknown kind 'guesses'"),
    "kind is a list": (lambda: packet_with(kind=["logits"]), r"unknown kind \['logits'\]"),
    "unknown codec": (lambda: packet_with(codec="zip"), "encoded with 'zip', not with 'none'"),
    "round is text": (lambda: packet_with(round="one"), "its round is 'one'"),
    "round is infinite": (lambda: packet_with(round=float("inf")), "its round is inf"),
}


def test_the_undamaged_packet_is_good() -> None:
    assert same(wire.decode(packet_with(), never), EVERY_KIND["probabilities"])


@pytest.mark.parametrize(("damaged", "says"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_packets_are_knowledge_errors(
    damaged: Callable[[], wire.Packet], says: str
) -> None:
    with pytest.raises(KnowledgeError, match=says):
        wire.decode(damaged(), never)


@pytest.mark.parametrize("missing", ["kind", "codec", "round"])
def test_meta_must_be_complete(missing: str) -> None:
    good = packet_with()
    meta = ConfigRecord({k: v for k, v in good.meta.items() if k != missing})
    with pytest.raises(KnowledgeError, match=missing):
        wire.decode(wire.Packet(good.arrays, meta), never)


def test_ids_neither_sent_nor_known() -> None:
    packet = wire.encode(EVERY_KIND["logits"], 1, IDS)
    with pytest.raises(KnowledgeError, match="need ids"):
        wire.decode(packet, lambda r: None)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "float64", "uint8"])
def test_what_is_sent_is_what_numpy_would_write(dtype: str) -> None:
    values = torch.arange(12).reshape(3, 4).to(getattr(torch, dtype))
    one = Knowledge("statistics", {"mean": values, "empty": values[:0]})
    for _ in range(2):  # written, and remembered
        arrays = wire.encode(one, 1, None).arrays
        assert arrays["t.mean"] == Array(values.numpy())
        assert arrays["t.empty"] == Array(values[:0].numpy())


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.int64),
        np.array(2.5, np.float32),
        np.zeros((0, 3), np.float32),
        np.asfortranarray(np.arange(6, dtype=np.float16).reshape(2, 3)),
        np.arange(12, dtype=np.float64).reshape(3, 4)[:, ::2],
    ],
)
def test_arrays_of_others_are_read_as_numpy_reads_them(array: np.ndarray) -> None:
    record = ArrayRecord({"t.x": Array(array)})
    packet = wire.Packet(record, ConfigRecord({"kind": "statistics", "round": 1, "codec": "none"}))
    for _ in range(2):  # parsed, and remembered
        (found,) = wire.decode(packet, lambda _: None).tensors.values()
        assert found.numpy().dtype == array.dtype
        assert np.array_equal(found.numpy(), array)
