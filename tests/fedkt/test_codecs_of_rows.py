"""Codecs of answers: bytes and errors against an independent computation."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from collections import Counter

import numpy as np
import pytest
import torch

from fedkt import wire
from fedkt.codecs import About, Codec, Float16, Size, codec_chain
from fedkt.codecs.label_only import LabelOnly
from fedkt.codecs.quantised import CFD
from fedkt.codecs.top_k import TopK
from fedkt.codecs.uint8 import UInt8
from fedkt.errors import KnowledgeError
from fedkt.knowledge import Kind, Knowledge

ROWS, CLASSES = 50, 10
RANDOM = np.random.default_rng(0)
LOGITS = (3 * RANDOM.standard_normal((ROWS, CLASSES))).astype(np.float32)


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


ANSWERS: dict[Kind, np.ndarray] = {"logits": LOGITS, "probabilities": softmax(LOGITS)}


def sent(codec: Codec, array: np.ndarray, kind: str) -> tuple[int, np.ndarray]:
    """Return the bytes that travel and what is decoded."""
    about = About(kind)
    arrays = codec.encode({"values": array}, about)
    return Size.of(arrays).bytes, codec.decode(arrays, about)["values"]


def bytes_of(chain: str, kind: Kind, array: np.ndarray) -> int:
    values = torch.tensor(array)
    return wire.encode(Knowledge.rows(kind, values), 1, torch.arange(len(values)), chain).num_bytes


# --- float16, centred ----------------------------------------------------------------------------


def test_centred_float16_keeps_the_softmax_and_errs_less_on_a_high_level() -> None:
    high = LOGITS + np.float32(3000)
    size, centred = sent(Float16(centred=True), high, "logits")
    _, plain = sent(Float16(), high, "logits")
    assert size == 2 * high.size
    truth = softmax(high.astype(float))
    assert np.abs(softmax(centred) - truth).max() < 2e-3 < np.abs(softmax(plain) - truth).max()
    assert np.allclose(centred.mean(-1), 0, atol=1e-2), "the level stays at home"
    assert np.array_equal(
        sent(Float16(centred=True), high, "features")[1], sent(Float16(), high, "features")[1]
    )


# --- uint8 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["logits", "features", "weights"])
def test_uint8_errs_by_half_a_step(kind: str) -> None:
    size, back = sent(UInt8(), LOGITS, kind)
    assert size == ROWS * CLASSES + 8 * ROWS
    for row, decoded in zip(LOGITS.astype(float), back, strict=True):
        step = (row.max() - row.min()) / 255
        levels = row.min() + step * np.arange(256)
        nearest = [levels[np.abs(levels - value).argmin()] for value in row]
        assert np.allclose(decoded, nearest, atol=1e-5)
        assert np.abs(decoded - row).max() <= step / 2 + 1e-6


def test_uint8_of_probabilities_stays_on_the_simplex() -> None:
    truth = ANSWERS["probabilities"]
    _, back = sent(UInt8(), truth, "probabilities")
    step = (truth.max(1) - truth.min(1)) / 255
    assert np.abs(back.sum(1) - 1).max() < 1e-6
    assert (np.abs(back - truth).max(1) <= step * (1 + CLASSES) / 2 + 1e-6).all()


def test_uint8_of_short_rows_and_of_equal_numbers() -> None:
    short = LOGITS[:, :2]
    assert sent(UInt8(), short, "logits")[0] == short.nbytes, "ranges would cost more"
    _, same = sent(UInt8(), np.full((3, 5), np.float32(7.3)), "logits")
    assert (same == np.float32(7.3)).all()
    vector = RANDOM.standard_normal(100).astype(np.float32)
    assert sent(UInt8(), vector, "weights")[0] == 100 + 8, "a vector is one row"


# --- top-k ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 3])
def test_top_k_of_probabilities_spreads_what_is_left(k: int) -> None:
    truth = ANSWERS["probabilities"]
    size, back = sent(TopK(k), truth, "probabilities")
    assert size == ROWS * k * (4 + 1) + 4
    for row, decoded in zip(truth.astype(float), back, strict=True):
        largest = sorted(range(CLASSES), key=lambda c: (-row[c], c))[:k]
        left = 1 - sum(row[c] for c in largest)
        expected = [row[c] if c in largest else left / (CLASSES - k) for c in range(CLASSES)]
        assert np.allclose(decoded, expected, atol=1e-6)
        assert np.abs(decoded - row).sum() <= 2 * left + 1e-6


def test_top_k_of_logits_has_the_same_softmax_of_the_largest() -> None:
    size, back = sent(TopK(3), LOGITS, "logits")
    assert size == ROWS * 3 * (4 + 1) + 4 * ROWS + 4
    ours, truth = softmax(back.astype(float)), softmax(LOGITS.astype(float))
    for row, z, p, q in zip(LOGITS, back, truth, ours, strict=True):
        largest = row.argsort()[-3:]
        assert np.array_equal(z[largest], row[largest])
        assert np.allclose(q[largest], p[largest], atol=1e-6)
        assert len(Counter(np.delete(z, largest).tolist())) == 1
        assert np.allclose(np.delete(q, largest).sum(), np.delete(p, largest).sum(), atol=1e-6)


def test_top_k_of_few_classes_travels_as_it_is() -> None:
    few = ANSWERS["probabilities"][:, :3]
    assert sent(TopK(3), few, "probabilities")[0] == few.nbytes
    assert sent(TopK(3), LOGITS, "features")[0] == LOGITS.nbytes
    wide = softmax(RANDOM.standard_normal((4, 300)).astype(np.float32))
    assert sent(TopK(2), wide, "probabilities")[0] == 4 * 2 * (4 + 2) + 4, "places of two bytes"


# --- label-only ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["logits", "probabilities"])
@pytest.mark.parametrize(("classes", "width"), [(10, 1), (256, 1), (257, 2)])
def test_label_only_is_the_argmax(kind: str, classes: int, width: int) -> None:
    logits = RANDOM.standard_normal((20, classes)).astype(np.float32)
    rows = logits if kind == "logits" else softmax(logits)
    size, back = sent(LabelOnly(margin=5.0), rows, kind)
    assert size == 20 * width + 4
    labels = [max(range(classes), key=lambda c: row[c]) for row in logits]
    assert np.array_equal(back, (5 if kind == "logits" else 1) * np.eye(classes)[labels])


def test_label_only_has_a_largest_number_of_classes() -> None:
    with pytest.raises(KnowledgeError, match="65,537 classes, at most 65,536"):
        sent(LabelOnly(), np.zeros((1, 2**16 + 1), np.float32), "logits")


# --- CFD -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_cfd_is_the_nearest_point_of_the_quantised_simplex(bits: int) -> None:
    """Against all points: C = 4 classes, L = 2ᵇ − 1."""
    truth, levels = softmax(LOGITS[:, :4]), 2**bits - 1
    points = [p for p in itertools.product(range(levels + 1), repeat=4) if sum(p) == levels]
    grid = np.array(points) / levels
    _, back = sent(CFD(bits), truth, "probabilities")
    for row, decoded in zip(truth, back, strict=True):
        assert np.abs(grid - decoded).max(1).min() < 1e-6, "it is one of them"
        nearest = np.square(grid - row).sum(1).min()
        assert abs(np.square(decoded - row).sum() - nearest) < 1e-6
        assert np.abs(decoded - row).max() < 1 / levels


@pytest.mark.parametrize(
    ("bits", "classes", "per_row"), [(1, 10, 4), (1, 2, 1), (1, 100, 7), (2, 10, 18), (8, 10, 72)]
)
def test_cfd_is_packed(bits: int, classes: int, per_row: int) -> None:
    rows = softmax(RANDOM.standard_normal((33, classes)).astype(np.float32))
    size, _ = sent(CFD(bits), rows, "probabilities")
    assert size == math.ceil(33 * per_row / 8) + 8


def test_cfd_of_one_bit_is_the_label_and_of_32_bits_the_answer() -> None:
    truth = ANSWERS["probabilities"]
    one, label = (sent(c, truth, "probabilities")[1] for c in (CFD(1), LabelOnly()))
    assert np.array_equal(one, label)
    assert np.abs(sent(CFD(32), truth, "probabilities")[1] - truth).max() < 1e-6
    again = sent(CFD(4), truth, "probabilities")[1]
    assert np.array_equal(sent(CFD(4), again, "probabilities")[1], again)


def test_cfd_of_ties_absent_rows_and_logits() -> None:
    tied = np.array([[0.5, 0.5, 0], [0, 0, 0]], np.float32)
    _, back = sent(CFD(2), tied, "probabilities")
    assert np.allclose(back * 3, [[2, 1, 0], [1, 1, 1]])
    assert sent(CFD(), LOGITS, "logits")[0] == LOGITS.nbytes


# --- all of them ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "codec",
    [UInt8(), TopK(), LabelOnly(), CFD(), CFD(4)],
    ids=["uint8", "top-k", "label-only", "cfd", "cfd-4"],
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_refused_not_hidden(codec: Codec, value: float) -> None:
    rows = ANSWERS["probabilities"].copy()
    rows[3, 2] = value
    with pytest.raises(KnowledgeError, match="values holds NaN or infinity"):
        codec.encode({"values": rows}, About("probabilities"))


@pytest.mark.parametrize("codec", [TopK(), LabelOnly(), CFD(), CFD(4)], ids=repr)
def test_a_few_bytes_are_not_decoded_to_many(codec: Codec) -> None:
    arrays = dict(codec.encode({"values": ANSWERS["probabilities"]}, About("probabilities")))
    whole = 4 * ROWS * CLASSES
    codec.decode(arrays, About("probabilities", limit=whole))
    with pytest.raises(KnowledgeError, match=f"{whole - 1} bytes are allowed"):
        codec.decode(arrays, About("probabilities", limit=whole - 1))


@pytest.mark.parametrize(
    ("codec", "arrays", "says"),
    [
        (
            TopK(1),
            {
                "x": np.zeros((1, 1), "S900"),  # of which 1000 classes are 900 kB
                "x:places": np.zeros((1, 1), np.uint8),
                "x:classes": np.array([1000], np.int32),
                "x:rest": np.zeros(1, "S1"),
            },
            r"x has dtype \|S900, not a float's",
        ),
        (
            TopK(1),
            {
                "x": np.zeros((1, 1)),
                "x:places": np.zeros((1, 1), np.uint8),
                "x:classes": np.array([1000], np.int32),
            },
            r"an array of \[1, 1000\], and 4000 bytes are allowed",
        ),
        (
            LabelOnly(),
            {"x": np.zeros((10**6, 0), np.uint8), "x:classes": np.array([10], np.int32)},
            r"labels of shape \[1000000, 0\]",
        ),
        (
            UInt8(),
            {"x": np.zeros((2, 2000), np.uint8), "x:ranges": np.zeros((2, 2), np.float32)},
            r"an array of \[2, 2000\], and 4000 bytes are allowed",
        ),
    ],
)
def test_nor_are_strange_ones(codec: Codec, arrays: dict[str, np.ndarray], says: str) -> None:
    with pytest.raises(KnowledgeError, match=says):
        codec.decode(arrays, About("logits", limit=4000))


def test_bits_are_unpacked_without_8_bytes_for_each() -> None:
    codec, rows = CFD(32), np.full((20_000, 10), 0.1, np.float32)
    arrays = dict(codec.encode({"values": rows}, About("probabilities")))
    tracemalloc.start()
    decoded = codec.decode(arrays, About("probabilities"))["values"]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert np.allclose(decoded, rows)
    assert peak < 20 * rows.nbytes, "a byte for each bit, and numbers of 8 bytes"


@pytest.mark.parametrize(
    ("chain", "due"),
    [
        ("uint8+float16", ROWS * (CLASSES + 4)),
        ("top-k(k=2)+float16", ROWS * 2 * (2 + 1) + 4),
        ("top-k(k=3)+uint8", ROWS * (3 + 8 + 3) + 4),
        ("cfd(bits=2)+uint8", math.ceil(ROWS * 18 / 8) + 8),
    ],
)
def test_chains(chain: str, due: int) -> None:
    truth = ANSWERS["probabilities"]
    assert bytes_of(chain, "probabilities", truth) == due
    packet = wire.encode(Knowledge.rows("probabilities", torch.tensor(truth)), 1, None, chain)
    back = wire.decode(packet, lambda r: None, chain).values.numpy()
    assert np.abs(back.sum(1) - 1).max() < 5e-3
    steps = codec_chain(chain)
    assert np.abs(back - sent(steps[0], truth, "probabilities")[1]).max() < 5e-3
