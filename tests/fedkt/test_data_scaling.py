"""Scale and layout: statistics of training rows alone, and what the user says goes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedkt.data import (
    Dataset,
    FederationSpec,
    build_federation,
    load_dataset,
    model_inputs,
    scaling,
)
from fedkt.data.scaling import on_scale, scaled, standard_statistics
from fedkt.data.splits import Array
from fedkt.errors import ConfigError

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (80, 4, 5), dtype=np.uint8)


def of(x: Array, **more: Any) -> Dataset:
    y = np.arange(len(x)) % 2
    cut = len(x) * 3 // 4
    return Dataset("toy", x[:cut], y[:cut], x[cut:], y[cut:], **more)


def write(folder: Path, data: Dataset, name: str = "toy") -> None:
    keys = ("x_train", "y_train", "x_test", "y_test")
    np.savez(folder / f"{name}.npz", **{key: getattr(data, key) for key in keys})


def federation_of(folder: Path, data: Dataset, **more: Any) -> Any:
    write(folder, data)
    values = {"dataset": "toy", "data_dir": str(folder), "clients": 3, "partition": "iid", **more}
    return build_federation(FederationSpec(**values))


def seen(data: Dataset, how: str | None = None) -> Array:
    """Return the training part as models see it, scaled by all of it."""
    found, _ = scaled(data, how, np.zeros(len(data.x_train), dtype=bool))
    return model_inputs(found.x_train, found.input_shape)


# --- what models see -----------------------------------------------------------------------


def test_model_inputs_of_images_series_and_vectors() -> None:
    grey = np.array([[[0, 255], [51, 102]]], dtype=np.uint8)
    colour = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)
    counts = np.array([[0, 3], [20, 1]], dtype=np.uint8)
    series = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    found = model_inputs(grey, (1, 2, 2))
    assert found.tolist() == [[[[0.0, 1.0], [np.float32(0.2), np.float32(0.4)]]]]
    assert np.allclose(model_inputs(colour, (3, 2, 2))[1, 2], colour[1, :, :, 2] / 255)
    assert model_inputs(counts, (2,)).tolist() == [[0.0, 3.0], [20.0, 1.0]]
    assert np.array_equal(model_inputs(series, (3, 2)), series)
    assert all(
        model_inputs(x, s).dtype == np.float32
        for x, s in ((grey, (1, 2, 2)), (counts, (2,)), (series, (3, 2)))
    )
    assert grey.tolist() == [[[0, 255], [51, 102]]], "the stored array is left alone"


@pytest.mark.parametrize(
    ("x", "low", "high"),
    [
        (BYTES, 0.0, 1.0),
        (BYTES.astype(np.float32), 0.0, 1.0),
        (BYTES.astype(np.float32) / 20, 0.0, 1.0),
        (BYTES.astype(np.float32) / 510, 0.0, 0.5),
        (np.repeat(BYTES[..., None], 3, axis=3), 0.0, 1.0),
        (BYTES.reshape(80, 20), 0.0, 255.0),
        (BYTES.reshape(80, 20).astype(np.float32), 0.0, 255.0),
    ],
    ids=["bytes", "as floats", "to 12.75", "below 1", "colour", "counts", "vectors"],
)
def test_the_default_is_todays(x: Array, low: float, high: float) -> None:
    x.reshape(len(x), -1)[:2, :2] = [[x.min()] * 2, [x.max()] * 2]
    found = seen(of(x))
    assert (found.min(), found.max()) == (low, np.float32(high))


@pytest.mark.parametrize(
    ("shift", "factor"), [(-128, 1 / 60), (-1, 1 / 255), (0, 1e3), (-300, 1.0)]
)
@pytest.mark.parametrize("channels", [0, 1, 3])
def test_float_images_outside_0_to_255_are_left_alone_with_a_note(
    tmp_path: Path, shift: float, factor: float, channels: int
) -> None:
    x = (BYTES.astype(np.float32) + shift) * np.float32(factor)
    x = np.repeat(x[..., None], channels, axis=3) if channels else x
    federation = federation_of(tmp_path, of(x))
    assert {float(v) for v in np.unique(federation.pool_x)} <= {float(v) for v in np.unique(x)}
    assert [n for n in federation.notes if "data.scale" in n and "data.layout" in n]
    said = federation_of(tmp_path, of(x), scale="none")
    assert np.array_equal(said.pool_x, federation.pool_x)
    assert not [n for n in said.notes if "data.scale" in n], "who says it needs no note"


# --- statistics ----------------------------------------------------------------------------


def test_standardised_columns_have_mean_0_and_variance_1_over_present_values() -> None:
    rng = np.random.default_rng(0)
    train = (rng.normal(size=(200, 6)) * [1, 5, 0.01, 1e4, 1, 1] + 3).astype(np.float32)
    train[:, 4] = 0.1  # constant; its variance in floating point is not quite 0
    train[:, 5] = np.nan
    missing = rng.random((200, 4)) < 0.3
    train[:, :4][missing] = np.nan
    test = rng.normal(size=(50, 6)).astype(np.float32)
    test[0] = np.nan
    statistics = {"how": "standardise", **standard_statistics(train)}
    seen, tested = on_scale(train, statistics), on_scale(test, statistics)
    assert seen.dtype == tested.dtype == np.float32
    for column in range(4):
        present = seen[~missing[:, column], column].astype(np.float64)
        assert present.mean() == pytest.approx(0, abs=1e-5)
        assert present.var() == pytest.approx(1, abs=1e-4)
        assert (seen[missing[:, column], column] == 0).all()
        kept = train[~missing[:, column], column].astype(np.float64)
        expected = (test[1:, column] - kept.mean()) / kept.std()
        assert tested[1:, column] == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert not seen[:, 4:].any()
    assert not tested[:, 4:].any()
    assert not tested[0].any()


@pytest.mark.parametrize("how", [None, "unit", "standardise"])
@pytest.mark.parametrize("kind", ["image", "colour", "series", "vector"])
def test_the_test_part_sets_no_scale(tmp_path: Path, kind: str, how: str | None) -> None:
    """One test sample of 1e9 changes itself alone; digits went from 85 to 26 %."""
    shape = {"image": (4, 5), "colour": (4, 5, 3), "series": (10, 2), "vector": (20,)}[kind]
    x = np.float32(16) * RNG.random((80, *shape), dtype=np.float32)
    layout = {"colour": "image"}.get(kind, kind)
    options: dict[str, Any] = {"layout": layout, "scale": how}
    clean = federation_of(tmp_path, of(x, layout=layout), **options)
    bright = x.copy()
    bright[-1] = 1e9
    found = federation_of(tmp_path, of(bright, layout=layout), **options)
    for key in ("pool_x", "public_x"):
        assert np.array_equal(getattr(clean, key), getattr(found, key))
    assert (clean.test_x != found.test_x).reshape(len(clean.test_x), -1).any(1).sum() == 1


@pytest.mark.parametrize(
    ("how", "features"),
    [(None, "as-stored"), ("unit", "as-stored"), ("standardise", "as-stored"),
     (None, "standardise")],
)  # fmt: skip
def test_what_clients_hold_out_sets_no_scale(
    tmp_path: Path, how: str | None, features: str
) -> None:
    """Split first: other values in validation and test rows change nothing of the training."""
    x = np.float32(16) * RNG.random((80, 4, 5), dtype=np.float32)
    data = of(x.reshape(80, 20) if features == "standardise" else x)
    options: dict[str, Any] = {"scale": how, "features": features}
    clean = federation_of(tmp_path, data, **options)
    held_out = np.concatenate([clean.rows[b[1] : b[3]] for b in clean.bounds])
    assert len(held_out) > 10
    stored = federation_of(tmp_path, data, scale="none")
    assert np.array_equal(stored.rows, clean.rows)
    places = {row.tobytes(): i for i, row in enumerate(data.x_train)}
    other = data.x_train.copy()
    other[[places[stored.pool_x[row].tobytes()] for row in held_out]] *= 200
    found = federation_of(tmp_path, replace(data, x_train=other), **options)
    kept = np.setdiff1d(np.arange(len(clean.pool_x)), held_out)
    assert np.array_equal(found.pool_x[kept], clean.pool_x[kept])
    assert not np.array_equal(found.pool_x, clean.pool_x)
    for key in ("public_x", "test_x"):
        assert np.array_equal(getattr(found, key), getattr(clean, key))


@pytest.mark.parametrize("how", [None, "unit", "standardise"])
def test_a_target_is_scaled_by_its_unlabelled_training_part(
    tmp_path: Path, how: str | None
) -> None:
    x = RNG.random((80, 4, 5), dtype=np.float32)
    write(tmp_path, of(x), "source")
    target = of(np.float32(50) * x)
    spec = FederationSpec(
        domains=("source", "toy"), target="toy", data_dir=str(tmp_path), clients=2, scale=how
    )
    write(tmp_path, target)
    clean = build_federation(spec)
    write(tmp_path, replace(target, x_test=target.x_test * 1e6, y_train=target.y_train[::-1]))
    found = build_federation(spec)
    for key in ("pool_x", "public_x"):
        assert np.array_equal(getattr(clean, key), getattr(found, key))
    expected, _ = scaled(target, how, np.zeros(60, dtype=bool))
    rows = {row.tobytes() for row in expected.x_train}
    assert {row.tobytes() for row in clean.public_x} == rows, "of all of it, and of it alone"


def test_images_and_series_are_standardised_by_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    x = (RNG.normal(size=(80, 6, 5, 3)) * [1, 10, 100] + [5, 0, -5]).astype(np.float32)
    for data in (of(x), of(x.reshape(80, 30, 3), layout="series"), of(x[..., 0]), of(BYTES)):
        found = seen(data, "standardise")
        axes = (0, 2, 3) if data.layout == "image" else (0, 1)
        assert np.allclose(found.mean(axes, dtype=np.float64), 0, atol=1e-5)
        assert np.allclose(found.std(axes, dtype=np.float64), 1, atol=1e-5)
        with monkeypatch.context() as patch:
            patch.setattr(scaling, "AT_ONCE", 100)
            assert np.allclose(seen(data, "standardise"), found, atol=1e-5), "in pieces"


def test_unit_divides_by_the_largest_absolute_value() -> None:
    x = np.array([[[-8.0, 2.0], [4.0, 0.0]]] * 8, dtype=np.float32)
    for layout in ("image", "series"):
        assert np.ptp(seen(of(x, layout=layout), "unit")) == 1.5
    assert seen(of(x / 16), "unit").min() == -0.5, "what is within is left alone"
    counts = BYTES.reshape(80, 20)
    assert np.array_equal(seen(of(counts), "unit"), (counts[:60] / np.float32(255)))
    assert np.array_equal(seen(of(BYTES), "none")[:, 0], BYTES[:60].astype(np.float32))
    assert scaled(of(BYTES), None, np.zeros(60, bool))[0].x_train.dtype == np.uint8


def test_missing_values_of_series_become_the_mean(tmp_path: Path) -> None:
    x = RNG.normal(3.0, 2.0, (80, 10, 2)).astype(np.float32)
    x[::3, 4, 1] = np.nan
    data = of(x, layout="series")
    assert federation_of(tmp_path, data, layout="series").gaps() == 27
    found = federation_of(tmp_path, data, layout="series", scale="standardise")
    assert found.gaps() == 0
    assert (found.pool_x[:, 4, 1] == 0).sum() > 5
    with pytest.raises(ConfigError, match="x_train holds NaN"):
        federation_of(tmp_path, data, layout="image", scale="standardise")


# --- layout --------------------------------------------------------------------------------


def test_a_series_keeps_its_axes_and_values(tmp_path: Path) -> None:
    """A reading of 1e5 divided all others by it, as if they were pixels."""
    x = RNG.normal(size=(80, 16, 3)).astype(np.float32)
    x[3, 5, 1] = 1e5
    for layout, shape in (("series", (16, 3)), ("vector", (48,)), (None, (1, 16, 3))):
        found = federation_of(tmp_path, of(x), layout=layout)
        assert found.input_shape == found.client(0).train.x.shape[1:] == shape
        rows = np.concatenate([found.pool_x, found.public_x]).reshape(-1, 48)
        assert {r.tobytes() for r in rows} <= {r.tobytes() for r in x.reshape(80, 48)}
    one = federation_of(tmp_path, of(x[:, :, 0]), layout="series")
    assert one.input_shape == (16, 1)


def test_a_function_may_say_its_layout(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import numpy as np\nfrom fedkt.data import Dataset\n"
        "def curves():\n    x, y = np.ones((8, 5, 2)), np.arange(8) % 2\n"
        "    return Dataset('curves', x, y, x, y, layout='series')\n",
        encoding="utf-8",
    )
    assert load_dataset(f"{file}:curves").input_shape == (5, 2)
    assert load_dataset(f"{file}:curves", layout="vector").input_shape == (10,)


def test_vectors_of_any_axes(tmp_path: Path) -> None:
    x = RNG.random((80, 2, 3, 4), dtype=np.float32)
    keys = {"x_train": x[:60], "y_train": np.arange(60) % 2, "x_test": x[60:]}
    np.savez(tmp_path / "toy.npz", y_test=np.arange(20) % 2, **keys)
    assert load_dataset("toy", tmp_path, layout="vector").input_shape == (24,)
    with pytest.raises(ConfigError, match=r'x_train has shape \[60, 2, 3, 4\].*layout "vector"'):
        load_dataset("toy", tmp_path)
    with pytest.raises(ConfigError, match=r'with layout "series"'):
        load_dataset("toy", tmp_path, layout="series")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"layout": "images"}, "not 'images'. Did you mean 'image'?"),
        ({"scale": "standardize"}, "not 'standardize'. Did you mean 'standardise'?"),
        ({"scale": "unit", "features": "standardise"}, "give one or the other"),
        ({"features": "standardise"}, 'features is "standardise" and toy holds images'),
        ({"layout": "series", "features": "log"}, 'features is "log" and toy holds series'),
    ],
)
def test_what_cannot_be(tmp_path: Path, changed: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        federation_of(tmp_path, of(BYTES), **changed)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_both_names_of_standardise_are_one_thing(tmp_path: Path) -> None:
    table = of((RNG.normal(size=(80, 5)) * [1, 10, 0.1, 5, 1]).astype(np.float32))
    ways = ({"features": "standardise"}, {"scale": "standardise"},
            {"features": "standardise", "scale": "standardise"})  # fmt: skip
    found = {federation_of(tmp_path, table, **way).fingerprint() for way in ways}
    assert len(found) == 1


# --- tables --------------------------------------------------------------------------------


@pytest.mark.parametrize(("factor", "noted"), [(1e4, True), (1e3, True), (50.0, False)])
@pytest.mark.parametrize("layout", ["vector", "series"])
def test_columns_of_different_orders_of_magnitude_get_a_note(
    tmp_path: Path, factor: float, noted: bool, layout: str
) -> None:
    x = RNG.random((80, 4, 3), dtype=np.float32) + 1
    x[..., 1] *= np.float32(factor)
    x = x[:, 0] if layout == "vector" else x
    found = federation_of(tmp_path, of(x, layout=layout), layout=layout)
    key = "features" if layout == "vector" else "scale"
    assert any(f'data.{key} = "standardise"' in note for note in found.notes) is noted
    assert not federation_of(
        tmp_path, of(x, layout=layout), layout=layout, scale="standardise"
    ).notes


def test_breast_cancer_is_told_to_be_standardised(tmp_path: Path) -> None:
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    x, y = bunch.data.astype(np.float32), bunch.target
    data = Dataset("cancer", x[:450], y[:450], x[450:], y[450:])
    (note,) = federation_of(tmp_path, data).notes
    assert note.startswith("toy: the largest values of its columns differ by a factor of ")
    assert note.endswith('data.features = "standardise" brings them to one scale')
