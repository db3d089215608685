from __future__ import annotations

import numpy as np
import pytest
import torch

from fedkt import registry, wire
from fedkt.codecs import Float16, codec_named
from fedkt.errors import ConfigError, KnowledgeError
from fedkt.knowledge import Knowledge


def test_float16_is_half_the_bytes_and_comes_back_as_float32() -> None:
    array = np.linspace(-5, 5, 1001, dtype=np.float32)
    sent = Float16().encode({"x": array})["x"]
    assert sent.dtype == np.float16
    assert sent.nbytes * 2 == array.nbytes
    assert Float16().decode({"x": sent})["x"].dtype == np.float32


def test_float16_error_bound() -> None:
    rng = np.random.default_rng(0)
    exponents = rng.uniform(-8, 15.9, 10_000)
    array = (rng.choice([-1, 1], 10_000) * 2.0**exponents).astype(np.float32)
    back = Float16().decode(Float16().encode({"x": array}))["x"]
    relative = np.abs(back.astype(np.float64) - array) / np.abs(array)
    assert relative.max() <= 2.0**-11
    assert relative.max() > 2.0**-13  # it does lose something: the bound is not idle


def test_float16_of_tiny_values_errs_by_at_most_half_a_subnormal() -> None:
    array = np.geomspace(1e-12, 2.0**-14, 5000).astype(np.float32)
    back = Float16().decode(Float16().encode({"x": array}))["x"]
    assert np.abs(back.astype(np.float64) - array).max() <= 2.0**-25


def test_integers_travel_unchanged() -> None:
    array = np.array([70000, -3])
    assert Float16().encode({"x": array})["x"] is array
    assert Float16().decode({"x": array})["x"] is array


@pytest.mark.parametrize("value", [65505.0, -1e6, np.inf])
def test_beyond_the_range_is_an_error_and_never_infinite(value: float) -> None:
    with pytest.raises(KnowledgeError, match="logits exceeds the range of float16"):
        Float16().encode({"logits": np.array([0, value], dtype=np.float32)})


def test_the_largest_value_fits() -> None:
    array = np.array([65504.0], dtype=np.float32)
    assert Float16().decode(Float16().encode({"x": array}))["x"] == 65504.0


def test_empty_arrays_are_fine() -> None:
    assert Float16().encode({"x": np.zeros((0, 3), np.float32)})["x"].shape == (0, 3)


def test_by_name() -> None:
    assert isinstance(codec_named("float16"), Float16)
    assert "float16" in registry.names("codecs")
    with pytest.raises(ConfigError, match="Did you mean 'float16'"):
        codec_named("float61")


def test_chains() -> None:
    assert list(wire.codec_chain("none")) == []
    assert [type(c) for c in wire.codec_chain("float16+float16")] == [Float16, Float16]


def test_on_the_wire() -> None:
    values = torch.rand(5, 3, generator=torch.Generator().manual_seed(0))
    packet = wire.encode(Knowledge.rows("logits", values), 1, None, "float16")
    back = wire.decode(packet, lambda r: None, "float16")
    assert back.values.dtype == torch.float32
    assert torch.equal(back.values, values.half().float())
    assert back.ids.tolist() == [0, 1, 2, 3, 4]
