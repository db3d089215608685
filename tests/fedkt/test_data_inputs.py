from __future__ import annotations

import numpy as np
import pytest

from fedkt.data import Dataset, inputs, load_dataset
from fedkt.data.inputs import check_input_shape, fit_input
from fedkt.data.splits import Array
from fedkt.errors import ConfigError

RNG = np.random.default_rng(0)


def of(x: Array) -> Dataset:
    labels = np.arange(len(x)) % 2
    return Dataset("toy", x, labels, x[::-1], labels)


def fitted(x: Array, *shape: int) -> Array:
    return fit_input(of(x), shape).x_train


BYTES = RNG.integers(0, 256, (6, 8, 8), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)


def test_what_has_the_shape_is_left_alone() -> None:
    dataset = of(BYTES)
    assert fit_input(dataset, (1, 8, 8)) is dataset
    vectors = of(RNG.random((4, 7)))
    assert fit_input(vectors, (7,)) is vectors


def test_luminance_of_the_primaries() -> None:
    red, green, blue = np.eye(3, dtype=np.uint8) * 255
    x = np.stack([red, green, blue, red + green + blue]).reshape(4, 1, 1, 3).repeat(2, axis=1)
    # 255 x 0.299 = 76.2, x 0.587 = 149.7, x 0.114 = 29.1
    assert fitted(x, 1, 2, 1)[:, 0, 0].tolist() == [76, 150, 29, 255]


def test_grey_to_colour_and_back_is_the_identity() -> None:
    colour = fit_input(of(BYTES), (3, 8, 8))
    assert colour.x_train.shape == (6, 8, 8, 3)
    assert (colour.x_train == BYTES[..., None]).all()
    assert np.array_equal(fit_input(colour, (1, 8, 8)).x_train, BYTES)
    floats = of(BYTES.astype(np.float32) / 3)
    back = fit_input(fit_input(floats, (3, 8, 8)), (1, 8, 8))
    assert np.allclose(back.x_train, floats.x_train)


@pytest.mark.parametrize("value", [0, 1, 77, 254, 255])
@pytest.mark.parametrize("size", [(3, 3), (14, 5), (1, 1), (8, 20)])
def test_constant_images_stay_constant(value: int, size: tuple[int, int]) -> None:
    x = np.full((4, 8, 8), value, dtype=np.uint8)
    for channels in (1, 3):
        out = fitted(x, channels, *size)
        assert out.dtype == np.uint8
        assert (out == value).all()


def test_halving_averages_over_the_pixels_around() -> None:
    """A triangle of half-width two pixels at stride 2 has the weights 1 3 3 1 over 8."""
    x = RNG.random((4, 12, 12)).astype(np.float32)
    x[0, 0, 0] = 1.0
    weights = np.array([1, 3, 3, 1]) / 8
    expected = np.zeros((4, 4, 4))
    for i in range(4):
        for j in range(4):
            patch = x[:, 2 * i + 1 : 2 * i + 5, 2 * j + 1 : 2 * j + 5]
            expected[:, i, j] = np.einsum("nab,a,b->n", patch, weights, weights)
    out = fitted(x, 1, 6, 6)
    assert out.shape == (4, 6, 6)
    assert np.allclose(out[:, 1:5, 1:5], expected, atol=1e-6)


def test_bytes_are_the_rounded_floats() -> None:
    floats = fitted(COLOUR.astype(np.float32), 1, 14, 14)
    bytes_ = fitted(COLOUR, 1, 14, 14)
    assert bytes_.dtype == np.uint8
    assert np.abs(bytes_ - floats).max() <= 0.5001


def test_floats_keep_their_scale() -> None:
    digits = load_dataset("digits")
    found = fit_input(digits, (1, 14, 14))
    assert found.input_shape == (1, 14, 14)
    assert (found.x_train.min(), found.x_train.max()) == (0, 16)
    assert found.x_train.mean() == pytest.approx(digits.x_train.mean(), rel=0.02)
    assert np.array_equal(found.y_train, digits.y_train)
    assert found.classes == digits.classes


def test_a_large_set_is_converted_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fitted(COLOUR, 1, 5, 5)
    monkeypatch.setattr(inputs, "CONVERTED_AT_ONCE", 4)
    assert np.array_equal(fitted(COLOUR, 1, 5, 5), whole)


def test_vectors_cannot_be_converted() -> None:
    for dataset, shape in ((of(RNG.random((4, 7))), (1, 8, 8)), (of(BYTES), (64,))):
        with pytest.raises(ConfigError, match="only images"):
            fit_input(dataset, shape)


@pytest.mark.parametrize("shape", [(), (2, 8, 8), (28, 28), (1, 0, 8), (-1,), (1, 1, 8, 8)])
def test_shapes_that_are_none(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"write \[1, height, width\]"):
        check_input_shape(shape)
