from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedkt.data.dataset import Dataset
from fedkt.data.sources import load_dataset
from fedkt.errors import ConfigError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"

FUNCTIONS = """
import numpy as np
from fedkt.data import Dataset

def toy():
    return Dataset("toy", np.zeros((4, 3), np.float32), np.arange(4), np.ones((4, 3), np.float32),
                   np.arange(4))

def seeded(seed):
    x = np.full((2, 3), seed, dtype=np.float32)
    return Dataset("seeded", x, np.arange(2), x, np.arange(2))

def wrong():
    return 3

number = 5
"""


def arrays(**changed: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.integers(0, 256, (6, 4, 5), dtype=np.uint8),
        "y_train": np.array([0, 1, 2, 0, 1, 2], dtype=np.uint8),
        "x_test": rng.integers(0, 256, (3, 4, 5), dtype=np.uint8),
        "y_test": np.array([0, 1, 2], dtype=np.uint8),
        **changed,
    }


def write(folder: Path, name: str, **changed: Any) -> Path:
    file = folder / f"{name}.npz"
    file.parent.mkdir(parents=True, exist_ok=True)
    held = {key: value for key, value in arrays(**changed).items() if value is not None}
    np.savez_compressed(file, **held)
    return file


def message(reference: str, folder: Path | None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_dataset(reference, folder)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_digits_are_the_embedded_set_with_a_fixed_stratified_test_part() -> None:
    digits = load_dataset("digits")
    again = load_dataset("digits", seed=5)

    assert (len(digits.x_train), len(digits.x_test)) == (1438, 359)
    assert digits.x_train.dtype == np.float32
    assert digits.x_train.shape[1:] == (8, 8)
    assert digits.input_shape == (1, 8, 8)
    assert digits.num_classes == 10
    assert (digits.x_train.max(), digits.x_test.max()) == (16, 16)
    assert np.bincount(digits.y_test).min() >= 34
    assert np.array_equal(digits.x_test, again.x_test)


def test_npz_round_trip(tmp_path: Path) -> None:
    write(tmp_path, "toy", classes=np.array(["ant", "bee", "cat"]))
    toy = load_dataset("toy", tmp_path)

    assert toy.name == "toy"
    assert toy.classes == ("ant", "bee", "cat")
    assert toy.x_train.dtype == np.uint8
    assert np.array_equal(toy.x_train, arrays()["x_train"])
    assert toy.y_test.dtype == np.int64
    assert toy.input_shape == (1, 4, 5)


def test_npz_in_a_sub_folder_and_default_class_names(tmp_path: Path) -> None:
    write(tmp_path, "more/toy")
    assert load_dataset("more/toy", tmp_path).classes == ("0", "1", "2")
    assert load_dataset("more/toy.npz", str(tmp_path)).name == "more/toy"


def test_classes_may_hold_one_that_does_not_occur(tmp_path: Path) -> None:
    write(tmp_path, "toy", classes=np.array(["a", "b", "c", "d"]))
    assert load_dataset("toy", tmp_path).num_classes == 4


def test_unknown_name_tells_the_nearest_and_the_files_there(tmp_path: Path) -> None:
    write(tmp_path, "mnist")
    write(tmp_path, "digits5/usps")
    text = message("minst", tmp_path)

    assert "'minst'" in text
    assert "Did you mean 'mnist'?" in text
    assert "mnist.npz" in text
    assert "digits5/usps.npz" in text
    assert "digits" in text


def test_unknown_name_without_a_folder_points_to_the_option() -> None:
    assert "--data-dir" in message("mnist", None)
    assert "Did you mean 'digits'?" in message("digit", None)


def test_missing_folder(tmp_path: Path) -> None:
    assert "nowhere" in message("mnist", tmp_path / "nowhere")
    assert "no .npz files" in message("mnist", tmp_path)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 cut off"])
def test_corrupt_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.npz").write_bytes(content)
    assert "bad.npz is not a readable .npz file" in message("bad", tmp_path)


def test_truncated_file(tmp_path: Path) -> None:
    file = write(tmp_path, "cut")
    file.write_bytes(file.read_bytes()[:200])
    assert "cut.npz" in message("cut", tmp_path)


def test_a_single_array_is_no_archive(tmp_path: Path) -> None:
    with (tmp_path / "one.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    assert "one.npz is not a readable" in message("one", tmp_path)


def test_pickles_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "pickled", y_train=np.array([0, "a", None], dtype=object))
    assert "pickled.npz" in message("pickled", tmp_path)


FAULTS: list[tuple[dict[str, Any], list[str]]] = [
    ({"y_test": None}, ["'y_test'", "it holds x_train, y_train, x_test"]),
    ({"x_train": np.zeros(6, np.uint8)}, ["x_train", "[6]", "[N, H, W]"]),
    ({"x_train": np.zeros((6, 4, 5, 2), np.uint8)}, ["x_train", "[6, 4, 5, 2]"]),
    ({"x_train": np.zeros((6, 4, 6), np.uint8)}, ["[4, 6]", "[4, 5]", "must agree"]),
    ({"x_train": np.zeros((6, 4, 5), np.float32)}, ["float32", "uint8", "must agree"]),
    ({"x_train": np.full((6, 4, 5), "a")}, ["<U1", "allowed are numbers", "pandas frame"]),
    ({"x_train": np.zeros((0, 4, 5), np.uint8), "y_train": np.zeros(0, int)}, ["x_train is empty"]),
    ({"y_train": np.zeros(5, np.uint8)}, ["5 labels", "6 samples"]),
    ({"y_train": np.ones((6, 2), np.uint8)}, ["y_train", "[6, 2]", "single-label", "multi-label"]),
    ({"y_train": np.linspace(0, 1, 6)}, ["y_train", "float64", "regression"]),
    ({"y_train": np.array([0, 1, np.nan, 2, 0, 1])}, ["no label in 1 of 6 rows"]),
    ({"classes": np.array(["a", "b"])}, ["a label is 2", "2 names"]),
]


def test_one_class_is_too_few(tmp_path: Path) -> None:
    write(tmp_path, "toy", y_train=np.zeros(6, int), y_test=np.zeros(3, int))
    assert "toy: all labels are equal; at least 2 classes" in message("toy", tmp_path)


@pytest.mark.parametrize(("changed", "words"), FAULTS)
def test_faulty_arrays_name_file_and_key(
    tmp_path: Path, changed: dict[str, Any], words: list[str]
) -> None:
    write(tmp_path, "toy", **changed)
    text = message("toy", tmp_path)
    assert "toy.npz: " in text
    for word in words:
        assert word in text


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_values(tmp_path: Path, value: float) -> None:
    x = np.zeros((6, 3), np.float32)
    x[4, 1] = value
    write(tmp_path, "gaps", x_train=x, x_test=np.zeros((3, 3), np.float32))
    assert "x_train holds NaN or infinity in 1 of 6 rows" in message("gaps", tmp_path)


def test_functions_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(FUNCTIONS, encoding="utf-8")

    assert load_dataset(f"{file}:toy").num_classes == 4
    assert load_dataset(f"{file}:seeded", seed=7).x_train[0, 0] == 7
    assert "wrong is a int, which no reader takes" in message(f"{file}:wrong", None)
    assert "number is a int, which no reader takes" in message(f"{file}:number", None)
    assert "'tooy'" in message(f"{file}:tooy", None)
    assert "file.py:Class" in message(str(file), None)


def test_dataset_keeps_half_precision_as_float32() -> None:
    x = np.zeros((2, 3), np.float16)
    assert Dataset("h", x, np.arange(2), x, np.arange(2)).x_train.dtype == np.float32


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no data sets in {SHARED.name} beside the project")
@pytest.mark.parametrize(
    ("name", "train", "test", "shape"),
    [
        ("mnist", 60000, 10000, (1, 28, 28)),
        ("office_caltech/amazon_img64", 766, 192, (3, 64, 64)),
        ("office_caltech/amazon_surf", 766, 192, (800,)),
        ("office_caltech/amazon_googlenet", 766, 192, (1024,)),
    ],
)
def test_stored_sets(name: str, train: int, test: int, shape: tuple[int, ...]) -> None:
    found = load_dataset(name, SHARED)
    assert (len(found.x_train), len(found.x_test)) == (train, test)
    assert found.input_shape == shape
    assert found.num_classes == 10


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no data sets in {SHARED.name} beside the project")
def test_a_stored_set_with_gaps_is_explained() -> None:
    assert "NaN" in message("heart4", SHARED)
