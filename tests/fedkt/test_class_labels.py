"""Labels of any type become numbers from 0, and keep their names."""

from pathlib import Path

import numpy as np
import pytest

from fedkt.data import Dataset, Unlabelled
from fedkt.data.class_labels import NOT_HERE, encoded_labels
from fedkt.data.splits import Array
from fedkt.errors import ConfigError

ONE_HOT = np.eye(3)[[2, 0, 1, 2]]


@pytest.mark.parametrize(
    ("labels", "numbers", "names"),
    [
        (np.array([0, 2, 1, 2]), [0, 2, 1, 2], ("0", "1", "2")),
        (np.array([0, 3, 0, 3]), [0, 3, 0, 3], ("0", "1", "2", "3")),  # a gap is a class
        (np.array([1, 2, 3, 2]), [0, 1, 2, 1], ("1", "2", "3")),
        (np.array([-1, 1, 1, -1]), [0, 1, 1, 0], ("-1", "1")),
        (np.array([0, 700, 0, 8000]), [0, 1, 0, 2], ("0", "700", "8000")),
        (np.array([True, False, True, True]), [1, 0, 1, 1], ("False", "True")),
        (np.array([1.0, 0.0, 2.0, 1.0]), [1, 0, 2, 1], ("0", "1", "2")),
        (np.array(["cat", "ant", "cat", "bee"]), [2, 0, 2, 1], ("ant", "bee", "cat")),
        (np.array(["b", "a", "b", "a"], dtype=object), [1, 0, 1, 0], ("a", "b")),
        (np.array([3, 4, 3, 4], dtype=object), [0, 1, 0, 1], ("3", "4")),
        (ONE_HOT, [2, 0, 1, 2], ("0", "1", "2")),
        (ONE_HOT.astype(bool), [2, 0, 1, 2], ("0", "1", "2")),
        (np.array([[5], [6], [5], [5]]), [0, 1, 0, 0], ("5", "6")),
    ],
)
def test_labels_of_any_type(labels: Array, numbers: list[int], names: tuple[str, ...]) -> None:
    (encoded,), classes = encoded_labels("toy", [labels])
    assert encoded.tolist() == numbers
    assert encoded.dtype == np.int64
    assert classes == names


def test_given_names_are_kept_in_their_order() -> None:
    labels = np.array(["no", "yes", "no"])
    assert encoded_labels("toy", [labels], ("yes", "no"))[0][0].tolist() == [1, 0, 1]
    assert encoded_labels("toy", [np.array([1, 2])], ("a", "b"))[0][0].tolist() == [0, 1]
    assert encoded_labels("toy", [np.array([1, 2])], ("a", "b", "c"))[0][0].tolist() == [1, 2]
    with pytest.raises(ConfigError, match="a label is 'maybe'; the class names are yes, no"):
        encoded_labels("toy", [np.array(["no", "maybe"])], ("yes", "no"))


def test_both_parts_share_one_numbering() -> None:
    x = np.zeros((3, 2), np.float32)
    toy = Dataset("toy", x, np.array(["a", "c", "a"]), x, np.array(["b", "c", "c"]))
    assert (toy.y_train.tolist(), toy.y_test.tolist()) == ([0, 2, 0], [1, 2, 2])
    assert toy.classes == ("a", "b", "c")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.linspace(0, 1, 50), "float64 with 50 different values; fedkt does single-label"),
        (np.arange(50.0) * 1000, "regression, multi-label and segmentation are not here yet"),
        (np.array([[1, 1, 0], [0, 1, 1]]), r"shape \[2, 3\]; fedkt does single-label classific"),
        (np.zeros((4, 2)), "fedkt does single-label classification"),
        (np.zeros((4, 8, 8)), r"shape \[4, 8, 8\]; fedkt does single-label classification"),
        (np.array(["a", None, "b"], dtype=object), "no label in 1 of 3 rows"),
    ],
)
def test_other_targets_are_refused(labels: Array, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        encoded_labels("toy", [labels])


def test_the_readme_says_what_fedkt_is_for() -> None:
    readme = Path(__file__).parents[2] / "README.md"
    text = " ".join(readme.read_text(encoding="utf-8").split())
    assert NOT_HERE.partition(";")[0] + ";" in text
    for target in ("regression", "multi-label", "segmentation"):
        assert target in text


def test_integers_are_token_ids_unless_their_columns_have_names() -> None:
    ids, y = np.array([[5, 7, 0], [1, 2, 3]]), np.array([0, 1])
    tokens = Dataset("toy", ids, y, ids, y)
    assert (tokens.layout, tokens.x_train.dtype, tokens.input_shape) == ("tokens", np.int64, (3,))
    table = Dataset("toy", ids, y, ids, y, columns=("a", "b", "c"))
    assert (table.layout, table.x_train.dtype) == ("vector", np.float32)
    assert Dataset("toy", ids, y, ids, y, layout="vector").x_train.dtype == np.float32
    assert Dataset("toy", ids.astype(np.uint8), y, ids.astype(np.uint8), y).layout == "vector"
    assert Unlabelled("toy", ids).layout == "tokens"


def test_whole_numbers_are_pixels_in_images() -> None:
    x, y = np.arange(2 * 9).reshape(2, 3, 3), np.array([0, 1])
    assert Dataset("toy", x, y, x, y).x_train.dtype == np.uint8
