"""Delta coding and low rank: bytes and errors against an independent computation."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from fedkt import wire
from fedkt.codecs import About, Size, codec_chain
from fedkt.codecs.codec import Arrays, Codec
from fedkt.codecs.delta import Delta
from fedkt.codecs.quantised import CFD
from fedkt.codecs.svd import SVD
from fedkt.errors import ConfigError, KnowledgeError
from fedkt.knowledge import Kind, Knowledge
from fedkt.recipe import Recipe, Weights
from fedkt.schedules import Linear

RANDOM = np.random.default_rng(0)


def sent(codec: Codec, arrays: Arrays, about: About) -> tuple[int, Arrays]:
    """Return the bytes that travel and what is decoded."""
    travelling = codec.encode(arrays, about)
    return Size.of(travelling).bytes, codec.decode(travelling, about)


def probabilities(rows: int, seed: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(rows, 10, generator=random)).softmax(-1)


# --- delta ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("unchanged", [0, 1, 17, 40])
def test_delta_of_integers_is_exact_and_sends_rows_that_differ(unchanged: int) -> None:
    bounds = np.iinfo(np.int64)
    before = RANDOM.integers(bounds.min, bounds.max, 40)
    now = RANDOM.integers(bounds.min, bounds.max, 40)
    now[:unchanged] = before[:unchanged]
    size, decoded = sent(Delta(), {"x": now}, About("labels", base={"x": before}))
    assert np.array_equal(decoded["x"], now)
    assert size == (math.ceil(40 / 8) if unchanged else 0) + 8 * (40 - unchanged)


def always(ids: torch.Tensor | None) -> Callable[[int], torch.Tensor | None]:
    """Return a function of a round that returns these ids."""
    return lambda number: ids


@pytest.mark.parametrize("inner", ["uint8", "float16", "label-only", "top-k", "cfd(bits=3)"])
def test_delta_of_a_codec_decodes_to_its_bits(inner: str) -> None:
    base, chain = None, f"delta(codec={inner})"
    for round_ in range(1, 6):
        ids = torch.arange(round_, round_ + 30)  # other rows each round, most of them known
        rows = Knowledge.rows("probabilities", probabilities(60, seed=round_ // 3)[ids], ids)
        packet = wire.encode(rows, round_, ids, chain, base)
        decoded = wire.decode(packet, always(ids), chain, base=base)
        plain = wire.decode(wire.encode(rows, 1, ids, inner), always(ids), inner)
        assert torch.equal(decoded.values, plain.values)
        base = wire.Base(round_, decoded)


def test_delta_of_cfd_sends_only_bytes_that_differ() -> None:
    rows = probabilities(40, 0).numpy()
    label = {"values": np.eye(10, dtype=np.float32)[rows.argmax(1)]}
    moved = rows.copy()
    moved[[3, 20, 21]] = moved[[3, 20, 21]][:, ::-1]  # two rows share a byte
    about = About("probabilities", base=label)
    assert sent(Delta(CFD()), {"values": rows}, about)[0] == math.ceil(20 / 8) + 1
    assert sent(Delta(CFD()), {"values": moved}, about)[0] == math.ceil(20 / 8) + 2 + 1
    assert sent(Delta(CFD()), {"values": rows}, About("probabilities"))[0] == 20 + 8


def test_delta_of_floats_rounds_once() -> None:
    now = (10.0 ** RANDOM.uniform(-6, 6, (200, 10))).astype(np.float32)
    before = (10.0 ** RANDOM.uniform(-6, 6, (200, 10))).astype(np.float32)
    size, decoded = sent(Delta(), {"x": now}, About("weights", base={"x": before}))
    assert size == now.nbytes
    apart = np.abs(decoded["x"].astype(float) - now)
    assert (apart <= 2.0**-23 * (np.abs(before) + np.abs(now))).all()
    assert apart.max() > 0, "it is not lossless"


def test_errors_of_a_quantised_difference_do_not_add_up() -> None:
    base, errors, levels = None, [], []
    for round_ in range(1, 12):
        values = 20 + torch.randn(50, 10, generator=torch.Generator().manual_seed(0)) / round_
        packet = wire.encode(Knowledge.rows("logits", values), round_, None, "delta+uint8", base)
        decoded = wire.decode(packet, lambda r: None, "delta+uint8", base=base)
        before = values.new_zeros(50, 10) if base is None else base.knowledge.values
        change = values - before
        levels.append(float((change.amax(1) - change.amin(1)).max()) / 255)
        errors.append(float((decoded.values - values).abs().max()))
        base = wire.Base(round_, decoded)
    assert all(e <= s / 2 + 4e-6 for e, s in zip(errors, levels, strict=True))
    assert errors[-1] < errors[0] / 5, "the step is that of the change"


def test_probabilities_stay_on_the_simplex() -> None:
    base = None
    for round_ in range(1, 5):
        rows = Knowledge.rows("probabilities", probabilities(50, round_ // 2))
        packet = wire.encode(rows, round_, None, "delta+uint8", base)
        decoded = wire.decode(packet, lambda r: None, "delta+uint8", base=base)
        assert float((decoded.values.sum(1) - 1).abs().max()) < 1e-6
        assert float(decoded.values.min()) >= 0
        base = wire.Base(round_, decoded)


def test_what_delta_refuses() -> None:
    with pytest.raises(ConfigError, match=r"svd makes other bits .*; write delta\+svd"):
        Delta(SVD())  # of equal singular values each machine finds vectors of its own
    for inner in ({"codec": Delta()}, {"then": Delta()}):
        with pytest.raises(ConfigError, match="must not refer to a base"):
            Delta(**inner)
    with pytest.raises(ConfigError, match="must follow no schedule"):
        Delta(SVD(Linear(0.9, 0.95)))
    with pytest.raises(ConfigError, match="codec or then, not both"):
        Delta(CFD(), SVD())
    far = np.full((2, 3), 3e38, np.float32)
    about = About("weights", base={"x": -far})
    with pytest.raises(KnowledgeError, match="x and its base are too far apart"):
        Delta().encode({"x": far}, about)
    lying = {"x": np.zeros((1, 3), np.float32), "x:changed": np.array([0b11000000], np.uint8)}
    with pytest.raises(KnowledgeError, match=r"difference of x is float32 \[1, 3\]"):
        Delta().decode(lying, about)


# --- svd -----------------------------------------------------------------------------------------


def matrix(values: list[float], rows: int = 30, columns: int = 20) -> np.ndarray:
    """Return a matrix with these singular values."""
    u, v = (np.linalg.qr(RANDOM.standard_normal((n, len(values))))[0] for n in (rows, columns))
    return ((u * values) @ v.T).astype(np.float32)


def of(codec: Codec, array: np.ndarray, kind: Kind = "weights") -> tuple[int, np.ndarray]:
    size, decoded = sent(codec, {"x": array}, About(kind))
    return size, decoded["x"]


@pytest.mark.parametrize(("energy", "rank"), [(0.5, 1), (0.9, 2), (0.95, 3), (0.99, 4)])
def test_svd_keeps_the_energy(energy: float, rank: int) -> None:
    """Squares 60, 32, 6, 1.5, 0.5 of 100: sums 60, 92, 98, 99.5, 100."""
    values = np.sqrt([60, 32, 6, 1.5, 0.5])
    array = matrix(list(values))
    size, back = of(SVD(energy), array)
    assert size == 4 * rank * (30 + 20)
    lost = np.square(back.astype(float) - array).sum()
    assert lost == pytest.approx(sum([60, 32, 6, 1.5, 0.5][rank:]), rel=1e-4)
    assert lost <= (1 - energy) * np.square(array).sum()


def test_svd_of_full_rank_is_no_rank_of_zero() -> None:
    """As the paper's code has it: 10 × 64, energy 0.98, rank 0."""
    array = RANDOM.standard_normal((10, 64)).astype(np.float32)
    _, back = of(SVD(0.98), array)
    assert np.square(back - array).sum() <= 0.02 * np.square(array).sum()
    size, back = of(SVD(1.0), array)
    assert size == array.nbytes, "factors would be larger"
    assert np.array_equal(back, array)


def test_svd_of_a_given_rank_zeros_kernels_and_vectors() -> None:
    array = matrix([5, 4, 3, 2])
    size, back = of(SVD(rank=2), array)
    assert size == 4 * 2 * 50
    u, s, v = np.linalg.svd(array.astype(float), full_matrices=False)
    assert np.allclose(back, (u[:, :2] * s[:2]) @ v[:2], atol=1e-5)
    size, back = of(SVD(), np.zeros((30, 20), np.float32))
    assert (size, back.shape, back.any()) == (0, (30, 20), False)
    kernel = matrix([5, 1e-4], 8, 27).reshape(8, 3, 3, 3)
    size, back = of(SVD(), kernel)
    assert (size, back.shape) == (4 * (8 + 27), kernel.shape)
    assert np.allclose(back, kernel, atol=1e-3)
    assert of(SVD(), array[0])[0] == array[0].nbytes


def test_delta_and_svd_send_an_update_of_low_rank() -> None:
    before, update = RANDOM.standard_normal((30, 20)).astype(np.float32), matrix([1, 0.5])
    base = wire.Base(1, Knowledge("weights", {"w": torch.tensor(before)}))
    now = Knowledge("weights", {"w": torch.tensor(before + update)})
    chain = "delta+svd(energy=0.99)"
    packet = wire.encode(now, 2, None, chain, base)
    assert packet.num_bytes == 4 * 2 * 50
    decoded = wire.decode(packet, lambda r: None, chain, base=base)
    assert np.allclose(decoded.tensors["w"], now.tensors["w"], atol=1e-5)


def test_delta_then_svd_sends_the_first_message_whole() -> None:
    """Without a base the values travel as they are; of rows that differ, as two factors."""
    before = RANDOM.standard_normal((40, 20)).astype(np.float32)
    codec = Delta(then=SVD(0.99))
    assert of(codec, before)[0] == before.nbytes
    assert np.array_equal(of(codec, before)[1], before)
    now = before.copy()
    now[:30] += matrix([1, 0.5])
    about = About("weights", base={"x": before, "n": np.array(3)})
    size, decoded = sent(codec, {"x": now, "n": np.array(4)}, about)
    assert size == 4 * 2 * (30 + 20) + math.ceil(40 / 8) + 8
    assert np.allclose(decoded["x"], now, atol=1e-5)
    assert np.array_equal(decoded["x"][30:], before[30:])
    assert decoded["n"] == 4


@pytest.mark.parametrize(("progress", "rank"), [(0.0, 1), (0.5, 2), (1.0, 4)])
def test_the_energy_may_follow_the_run(progress: float, rank: int) -> None:
    """Squares 60, 32, 6, 1.5, 0.5 of 100, and E from 0.5 to 0.99."""
    array = matrix(list(np.sqrt([60, 32, 6, 1.5, 0.5])))
    (codec,) = codec_chain("svd(energy=linear(start=0.5, end=0.99))")
    about = About("weights", progress=progress)
    assert Size.of(codec.encode({"x": array}, about)).bytes == 4 * rank * 50
    knowledge = Knowledge("weights", {"x": torch.tensor(array)})
    text = "svd(energy=linear(start=0.5,end=0.99))"
    assert wire.encode(knowledge, 1, None, text, progress=progress).num_bytes == 4 * rank * 50
    share = Weights(codec_up=text)
    assert Recipe(share=[share]).follows_progress
    assert not Recipe(share=[Weights()]).follows_progress


def test_small_factors_are_not_decoded_to_a_large_matrix() -> None:
    factors = {"x": np.ones((1000, 1), np.float32), "x:right": np.ones((1, 1000), np.float32)}
    with pytest.raises(KnowledgeError, match="8000 bytes are allowed"):
        SVD().decode(factors, About("weights", limit=8000))


def test_factors_have_no_more_columns_than_a_rank() -> None:
    factors = {"x": np.ones((1, 1000), np.float32), "x:right": np.ones((1000, 1), np.float32)}
    with pytest.raises(KnowledgeError, match=r"factors of shapes \(1, 1000\) and \(1000, 1\)"):
        SVD().decode(factors, About("weights", limit=8000))


def test_factors_that_are_none() -> None:
    one, other = np.ones((5, 2), np.float32), np.ones((3, 4), np.float32)
    for left, right, what in (
        (one, other, "shapes"),
        (one.astype(float), other[:2], "dtypes float64 and float32"),
        (one, other[:2].astype(int), "dtypes float32 and int64"),
    ):
        with pytest.raises(KnowledgeError, match=f"x: factors of {what}"):
            SVD().decode({"x": left, "x:right": right}, About("weights"))


# --- cache ---------------------------------------------------------------------------------------


def exchange(
    rounds: list[list[int]], codec: str, lost: tuple[int, ...] = (), counts: int | None = None
) -> list[tuple[int, torch.Tensor]]:
    """Return the bytes and what is decoded in each round, of rows ``10·id + round``."""
    sender: wire.Base | None = None
    receiver: wire.Base | None = None
    told = []
    for round_, ids in enumerate(rounds, 1):
        values = torch.tensor(ids).float()[:, None] * 10 + round_
        of_rows = None if counts is None else torch.tensor([int(i != counts) for i in ids])
        rows = Knowledge("features", {"values": values}, torch.tensor(ids), of_rows)
        if sender is not None and (receiver is None or receiver.round != sender.round):
            sender = None
        packet = wire.encode(rows, round_, rows.ids, codec, sender)
        decoded = wire.decode(packet, always(rows.ids), codec, base=sender)
        if round_ not in lost:
            there = wire.decode(packet, always(rows.ids), codec, base=receiver)
            assert torch.equal(there.values, decoded.values)
            receiver = wire.next_base(packet, there, codec, receiver)
        sender = wire.next_base(packet, decoded, codec, sender)
        told.append((packet.num_bytes, decoded.values[:, 0]))
    return told


def oracle(rounds: list[list[int]], age: int) -> list[tuple[int, list[int]]]:
    """Return the rows that travel and the value of each, by a dictionary."""
    cache: dict[int, int] = {}
    told = []
    for round_, ids in enumerate(rounds, 1):
        fresh = [i for i in ids if i not in cache or round_ - cache[i] >= age]
        cache.update(dict.fromkeys(fresh, round_))
        told.append((len(fresh), [10 * i + cache[i] for i in ids]))
    return told


@pytest.mark.parametrize("age", [1, 2, 3, 50])
def test_cache_sends_rows_that_are_not_young(age: int) -> None:
    """Samples drawn anew each round, as SCARLET draws them: a row may be absent for a while."""
    rounds = [sorted(RANDOM.choice(12, 6, replace=False).tolist()) for _ in range(15)]
    for (size, values), (fresh, expected) in zip(
        exchange(rounds, f"cache(rounds={age})"), oracle(rounds, age), strict=True
    ):
        assert size == 4 * fresh
        assert values.tolist() == expected


def test_cache_begins_anew_after_a_loss() -> None:
    rounds = [[1, 2, 3]] * 6
    sizes = [size // 4 for size, _ in exchange(rounds, "cache", lost=(3,))]
    assert sizes == [3, 0, 0, 3, 0, 0]


def test_cache_of_rows_that_a_client_lacks() -> None:
    rounds = [[1, 2, 3]] * 3
    told = exchange(rounds, "cache", counts=2)
    assert [size - 3 * 8 for size, _ in told] == [3 * 4, 4, 4], "2 was never there; counts travel"
    assert [values[0].item() for _, values in told] == [11, 11, 11]


def test_cache_and_another_codec() -> None:
    rounds = [[1, 2, 3], [2, 3, 4]]
    assert [size for size, _ in exchange(rounds, "cache+float16")] == [2 * 3, 2 * 1]


def test_a_packet_without_a_base_replaces_what_was_kept() -> None:
    kept = wire.Base(1, Knowledge.rows("features", torch.ones(2, 1), [7, 8]))
    rows = Knowledge.rows("features", torch.ones(1, 1), [9])
    packet = wire.encode(rows, 2, None, "cache")
    held = wire.next_base(packet, rows, "cache", kept).knowledge.ids
    assert held is not None
    assert held.tolist() == [9], "as the sender has it, who has lost the base"
