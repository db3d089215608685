from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from fedkt import registry, wire
from fedkt.codecs import About, Arrays, Codec, Float16, codec_chain, wire_name
from fedkt.decoded import about_rows
from fedkt.errors import ConfigError, KnowledgeError
from fedkt.knowledge import Knowledge

ABOUT = About("logits")


def coded(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    codec = Float16()
    return dict(codec.decode(codec.encode(arrays, ABOUT), ABOUT))


def test_float16_is_half_the_bytes_and_comes_back_as_float32() -> None:
    array = np.linspace(-5, 5, 1001, dtype=np.float32)
    sent = Float16().encode({"x": array}, ABOUT)["x"]
    assert sent.dtype == np.float16
    assert sent.nbytes * 2 == array.nbytes
    assert Float16().decode({"x": sent}, ABOUT)["x"].dtype == np.float32


def test_float16_error_bound() -> None:
    rng = np.random.default_rng(0)
    exponents = rng.uniform(-8, 15.9, 10_000)
    array = (rng.choice([-1, 1], 10_000) * 2.0**exponents).astype(np.float32)
    back = coded({"x": array})["x"]
    relative = np.abs(back.astype(np.float64) - array) / np.abs(array)
    assert relative.max() <= 2.0**-11
    assert relative.max() > 2.0**-13  # it does lose something: the bound is not idle


def test_float16_of_tiny_values_errs_by_at_most_half_a_subnormal() -> None:
    array = np.geomspace(1e-12, 2.0**-14, 5000).astype(np.float32)
    back = coded({"x": array})["x"]
    assert np.abs(back.astype(np.float64) - array).max() <= 2.0**-25


def test_integers_travel_unchanged() -> None:
    array = np.array([70000, -3])
    assert Float16().encode({"x": array}, ABOUT)["x"] is array
    assert Float16().decode({"x": array}, ABOUT)["x"] is array


@pytest.mark.parametrize("value", [65505.0, -1e6, np.inf])
def test_beyond_the_range_is_an_error_and_never_infinite(value: float) -> None:
    with pytest.raises(KnowledgeError, match="logits exceeds the range of float16"):
        Float16().encode({"logits": np.array([0, value], dtype=np.float32)}, ABOUT)


def test_the_largest_value_fits() -> None:
    array = np.array([65504.0], dtype=np.float32)
    assert coded({"x": array})["x"] == 65504.0


def test_empty_arrays_are_fine() -> None:
    assert Float16().encode({"x": np.zeros((0, 3), np.float32)}, ABOUT)["x"].shape == (0, 3)


def test_by_name() -> None:
    (codec,) = codec_chain("float16")
    assert isinstance(codec, Float16)
    assert isinstance(codec, Codec)
    assert "float16" in registry.names("codecs")
    with pytest.raises(ConfigError, match="Did you mean 'float16'"):
        codec_chain("float61")


def test_chains() -> None:
    assert list(codec_chain("none")) == []
    assert [type(c) for c in codec_chain("float16+float16")] == [Float16, Float16]


# --- codecs that refer to what the receiver decoded last ---------------------------------------


@registry.register(part="codecs", name="test-difference")
@dataclass(frozen=True)
class Difference(Codec):
    """The difference from the base, in float16."""

    uses_base: ClassVar[bool] = True
    scale: float = 1.0

    def encode(self, arrays: Arrays, about: About) -> Arrays:
        base = about.base or dict.fromkeys(arrays, np.float32(0))
        return {n: ((a - base[n]) * self.scale).astype(np.float16) for n, a in arrays.items()}

    def decode(self, arrays: Arrays, about: About) -> Arrays:
        base = about.base or dict.fromkeys(arrays, np.float32(0))
        return {n: base[n] + a.astype(np.float32) / self.scale for n, a in arrays.items()}


def rows(ids: list[int], seed: int = 0, counts: list[int] | None = None) -> Knowledge:
    values = torch.randn(len(ids), 3, generator=torch.Generator().manual_seed(seed))
    of_rows = None if counts is None else torch.tensor(counts)
    return Knowledge("logits", {"values": values}, torch.tensor(ids), of_rows)


def sent(knowledge: Knowledge, round_: int, base: wire.Base | None) -> Knowledge:
    packet = wire.encode(knowledge, round_, None, "test-difference", base)
    return wire.decode(packet, lambda r: None, "test-difference", round_, base)


def test_errors_do_not_add_up_since_the_base_is_what_was_decoded() -> None:
    base, errors = None, []
    for round_ in range(1, 30):
        knowledge = rows([0, 1, 2], seed=round_ // 10)  # it hardly changes
        decoded = sent(knowledge, round_, base)
        errors.append(float((decoded.values - knowledge.values).abs().max()))
        base = wire.Base(round_, decoded)
    assert max(errors) < 2e-3
    assert errors[9 - 1] < 1e-6, "each round sends what the last one left"


def test_rows_of_the_base_are_found_by_their_ids() -> None:
    base = wire.Base(4, rows([7, 2, 9], counts=[1, 0, 3]))
    about = about_rows("logits", torch.tensor([9, 1, 2, 7]), base)
    assert about.known is not None
    assert about.base is not None
    assert about.known.tolist() == [True, False, False, True], "2 has a count of 0"
    values = base.knowledge.values.numpy()
    expected = np.stack([values[2], np.zeros(3), np.zeros(3), values[0]])
    assert np.array_equal(about.base["values"], expected)


def test_statistics_have_a_base_without_ids() -> None:
    base = wire.Base(1, Knowledge("statistics", {"mean": torch.ones(2)}))
    about = about_rows("statistics", None, base)
    assert about.known is None
    assert about.base is not None
    assert about.base["mean"].tolist() == [1, 1]


@pytest.mark.parametrize("held", [None, 3])
def test_a_receiver_with_another_base_refuses(held: int | None) -> None:
    knowledge = rows([0, 1])
    packet = wire.encode(knowledge, 5, None, "test-difference", wire.Base(4, rows([0, 1])))
    base = None if held is None else wire.Base(held, rows([0, 1], seed=1))
    with pytest.raises(KnowledgeError, match="its base is of round 4, and the receiver holds"):
        wire.decode(packet, lambda r: None, "test-difference", base=base)
    plain = wire.encode(knowledge, 5, None, "test-difference")
    decoded = wire.decode(plain, lambda r: None, "test-difference", base=base)
    assert torch.allclose(decoded.values, knowledge.values, atol=2e-3), "a packet without is fine"


def test_a_base_of_another_form_is_none() -> None:
    base = wire.Base(1, Knowledge.rows("probabilities", torch.rand(2, 3)))
    assert "base" not in wire.encode(rows([0, 1]), 2, None, "test-difference", base).meta
    wider = wire.Base(1, Knowledge.rows("logits", torch.rand(2, 4)))
    assert "base" not in wire.encode(rows([0, 1]), 2, None, "test-difference", wider).meta


def test_only_the_first_of_a_chain_has_a_base() -> None:
    base = wire.Base(1, rows([0, 1]))
    chain = "test-difference(scale=4)+float16"
    packet = wire.encode(rows([0, 1], seed=3), 2, None, chain, base)
    decoded = wire.decode(packet, lambda r: None, chain, base=base)
    assert torch.allclose(decoded.values, rows([0, 1], seed=3).values, atol=4e-3)
    with pytest.raises(ConfigError, match="must be the first"):
        codec_chain("float16+test-difference")


def test_a_file_is_named_by_what_clients_know(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(
        "from fedkt import Codec, register\n@register\nclass Same(Codec):\n"
        "    def encode(self, arrays, about):\n        return arrays\n"
        "    def decode(self, arrays, about):\n        return arrays\n",
        encoding="utf-8",
    )
    name = wire_name(f"{file}:Same+float16")
    assert name.startswith("own@")
    assert name.endswith(":same+float16")
    assert len(codec_chain(name)) == 2
    with pytest.raises(ConfigError, match=r"own\.py:Same is in a file"):
        wire_name(f"delta(codec={file}:Same)")
    with pytest.raises(ConfigError, match=r"Unknown codec .*own\.py:Same"):
        codec_chain(f"{file}:Same")
    assert wire_name("none") == "none"
    assert wire_name("test-difference(scale=2)+float16") == "test-difference(scale=2)+float16"


def test_on_the_wire() -> None:
    values = torch.rand(5, 3, generator=torch.Generator().manual_seed(0))
    packet = wire.encode(Knowledge.rows("logits", values), 1, None, "float16")
    back = wire.decode(packet, lambda r: None, "float16")
    assert back.values.dtype == torch.float32
    assert torch.equal(back.values, values.half().float())
    assert back.ids.tolist() == [0, 1, 2, 3, 4]
