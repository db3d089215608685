"""Data as users have them: tables, arrays, folders of images, data sets of other libraries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from fedkt import Unlabelled
from fedkt.data import FederationSpec, build_federation, load_dataset
from fedkt.data.encoding import encoded
from fedkt.data.readers import Reading, of_frame
from fedkt.data.sources import dataset_of
from fedkt.errors import ConfigError

from .hospital_data import NAMES, ROWS, X, labelled, patients

# --- tables --------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".tsv", ".parquet"])
def test_tables_in_files(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"patients{ending}"
    frame = patients().drop(columns=["seen", "note"])
    if ending == ".parquet":
        frame.to_parquet(file)
    else:
        frame.to_csv(file, index=False, sep="\t" if ending == ".tsv" else ",")
    spec = FederationSpec(
        dataset=str(file), label="diagnosis", client="site", clients=3, scale="standardise"
    )
    federation = build_federation(spec)
    assert federation.classes == ("ill", "well")
    assert federation.name == "patients"
    names = ("age", "smokes=missing", "smokes=no", "smokes=yes", "insured")
    assert federation.columns == names
    assert np.isfinite(federation.pool_x).all()


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["yes", "no"], ("no", "yes")),
        ([1, 2], ("1", "2")),
        ([True, False], ("False", "True")),
        ([1.0, 0.0], ("0", "1")),
        (pd.Categorical(["mild", "grave"]), ("grave", "mild")),
        (pd.array([1, 0], dtype="Int64"), ("0", "1")),
        (pd.array(["b", "a"], dtype="string"), ("a", "b")),
        (pd.array([True, False], dtype="boolean"), ("False", "True")),
    ],
)
def test_labels_of_a_table_are_of_any_type(
    tmp_path: Path, labels: Any, classes: tuple[str, str]
) -> None:
    frame = pd.DataFrame({"age": [1.0, 2.0], "label": labels}).loc[[0, 1] * 10]
    frame.to_csv(tmp_path / "t.csv", index=False)
    for data in (labelled(dataset_of(frame, "t")), load_dataset(str(tmp_path / "t.csv"))):
        assert data.classes == classes
        first = classes.index(str(labels[0]).removesuffix(".0"))
        assert data.y_train.tolist() == np.where(data.x_train[:, 0] == 1, first, 1 - first).tolist()


def test_a_table_with_semicolons(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("a;b, with a comma;class\n" + "1;2;x\n3;4;y\n" * 10, encoding="utf-8")
    assert load_dataset(str(file)).columns == ("a", "b, with a comma")


def test_categories_are_encoded_by_the_training_part() -> None:
    frame = patients()
    frame["part"] = ["train"] * 40 + ["test"] * 20
    frame.loc[50, "smokes"] = "sometimes"
    frame.loc[30, "part"] = "validation"
    reading = Reading("patients", label="diagnosis", client="site", split="part")
    data = labelled(of_frame(frame, reading))
    assert (len(data.x_train), len(data.x_test)) == (40, 20)
    assert data.columns == ("age", "smokes=missing", "smokes=no", "smokes=yes", "insured", "seen")
    smokes = frame["smokes"].fillna("missing")
    for place, value in enumerate(("missing", "no", "yes")):
        assert (data.x_train[:, 1 + place] == (smokes[:40] == value)).all()
    assert data.x_test[10, 1:4].tolist() == [0, 0, 0]  # "sometimes"
    assert np.array_equal(data.x_train[:, 0], frame["age"][:40], equal_nan=True)
    assert data.x_train[:3, 5].tolist() == [18262, 18263, 18264]
    assert data.client_test is not None
    assert data.client_test[:3].tolist() == ["south", "west", "north"]
    assert any("'note' is left out: 40 different texts in 40" in note for note in data.notes)
    assert any("'smokes' has values in test rows" in note for note in data.notes)


def test_an_encoding_is_plain_data_for_rows_that_come_later() -> None:
    import json

    frame = patients()
    data = labelled(dataset_of(frame, "patients", label="diagnosis", client="site"))
    again = json.loads(json.dumps(data.encoding))
    later = encoded(frame[["insured", "note", "age", "seen", "smokes"]], again, "later")
    test = later[[i for i in range(ROWS) if later[i, 5] in data.x_test[:, 5]]]
    assert np.array_equal(test, data.x_test, equal_nan=True)
    with pytest.raises(ConfigError, match=r"column of later 'age'"):
        encoded(frame.drop(columns=["age"]), again, "later")
    frame["age"] = "old"
    with pytest.raises(ConfigError, match="column 'age' holds 'old', which is no number"):
        encoded(frame, again, "later")


def test_rare_values_share_a_column() -> None:
    rng = np.random.default_rng(0)
    towns = [f"town {i:03}" for i in range(80)]
    frame = pd.DataFrame({"town": [*towns[:60], *rng.choice(towns[:20], 500)], "y": [0, 1] * 280})
    data = labelled(dataset_of(frame, "towns"))
    assert len(data.columns) == 50
    assert data.columns[-1] == "town=other values"
    assert (data.x_train.sum(1) == 1).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"label": "diagnose"}, "label column of t 'diagnose'. Did you mean 'diagnosis'"),
        ({"label": ""}, "has the columns age, .*; say which is the label: data.label"),
        ({"label": "age"}, "column 'age' is empty in 9 of 60 rows"),
        ({"label": "seen"}, "column 'seen' has dtype object; labels are strings, integers"),
        ({"client": "sites"}, "client column of t 'sites'. Did you mean 'site'"),
        ({"split": "site"}, "column 'site' holds 'north'; allowed are train"),
    ],
)
def test_refusals_of_tables(change: dict[str, str], words: str) -> None:
    options = {"name": "t", "label": "diagnosis", **change}
    with pytest.raises(ConfigError, match=words):
        of_frame(patients(), Reading(**options, needs_labels=True))  # type: ignore[arg-type]  # mistakes


def test_regression_is_refused() -> None:
    frame = patients().assign(price=np.linspace(0, 1, ROWS))
    with pytest.raises(ConfigError, match=r"'price' holds float64 with 60 .* regression"):
        dataset_of(frame, "t", label="price")


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        (patients(), {"label": "diagnose"}, "label column of mine 'diagnose'. Did you mean 'diagn"),
        (patients(), {"client": "sites"}, "client column of mine 'sites'. Did you mean 'site'"),
        (patients(), {"split": "parts"}, "split column of mine 'parts'. Known: age, "),
        ((np.zeros((9, 2)), np.arange(9) % 2), {"split": "a"}, "no columns, and data.split is 'a'"),
        ({"x": np.zeros((9, 2)), "y": np.arange(9) % 2}, {"client": "a"}, "data.client is 'a'"),
        (patients(), {"label": ["site", "smokes"]}, "must be the name of a column; fedkt does sin"),
        (patients()[:0], {}, "mine is empty"),
        ((np.zeros((0, 2)), np.zeros(0)), {"label": ""}, "mine is empty"),
        ((patients(), np.linspace(0, 1, ROWS)), {}, "mine: y holds float64 with 60 different val"),
    ],
)
def test_what_an_object_of_the_clients_lacks(
    source: Any, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        dataset_of(source, "mine", **{"label": "diagnosis", **options}, needs_labels=True)


def test_a_table_without_its_label_is_inputs() -> None:
    data = dataset_of(patients().drop(columns=["diagnosis"]), "t", label="diagnosis")
    assert isinstance(data, Unlabelled)
    assert data.columns[0] == "age"
    with pytest.raises(ConfigError, match="label column of t 'diagnosis'"):
        of_frame(
            patients().drop(columns=["diagnosis"]),
            Reading("t", label="diagnosis", needs_labels=True),
        )


def test_a_file_that_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"none")
    with pytest.raises(ConfigError, match="not a readable table"):
        load_dataset(str(tmp_path / "t.parquet"))
    (tmp_path / "t.csv").write_bytes(b"")
    with pytest.raises(ConfigError, match="not a readable table"):
        load_dataset(str(tmp_path / "t.csv"))
    with pytest.raises(ConfigError, match="No such file or folder: "):
        load_dataset(str(tmp_path / "none.csv"))


# --- arrays --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pair",
    [
        (X, NAMES),
        (X.tolist(), NAMES.tolist()),
        (torch.from_numpy(X), torch.arange(ROWS) % 2),
        (X, np.eye(2)[np.arange(ROWS) % 2]),
        (X, (np.arange(ROWS) % 2)[:, None] + 1.0),
        (pd.DataFrame(X), pd.Series(NAMES)),
        {"x": X, "y": NAMES},
    ],
)
def test_inputs_and_labels(pair: Any) -> None:
    data = labelled(dataset_of(pair, "mine"))
    assert (data.x_train.shape, data.x_test.shape) == ((48, 4), (12, 4))
    assert data.x_train.dtype == np.float32
    assert np.bincount(data.y_test).tolist() == [6, 6]
    order = np.argsort(X[:, 0].astype(np.float32))
    both = np.concatenate([data.x_train, data.x_test])
    labels = np.concatenate([data.y_train, data.y_test])[np.argsort(both[:, 0])]
    assert (labels == (np.arange(ROWS) % 2)[order]).all()


def test_sparse_inputs_and_inputs_alone() -> None:
    from scipy.sparse import csr_matrix

    assert labelled(dataset_of((csr_matrix(X), NAMES), "mine")).x_train.shape == (48, 4)
    assert isinstance(dataset_of(X, "mine"), Unlabelled)
    assert isinstance(dataset_of({"x": X}, "mine"), Unlabelled)
    with pytest.raises(ConfigError, match="59 labels for 60 samples"):
        dataset_of((X, NAMES[1:]), "mine")
    with pytest.raises(ConfigError, match="mine is a dict, which no reader takes"):
        dataset_of({"z": X}, "mine")


def test_an_npz_file_with_x_and_y(tmp_path: Path) -> None:
    file = tmp_path / "mine.npz"
    np.savez(file, x=X, y=NAMES, client=np.arange(ROWS) // 20)
    data = load_dataset(str(file))
    assert (len(data.x_train), data.classes) == (48, ("a", "b"))
    assert data.client_train is not None
    assert sorted(set(data.client_train.tolist())) == [0, 1, 2]
    assert np.array_equal(load_dataset("mine", tmp_path).x_train, data.x_train)


def test_images_with_channels_first() -> None:
    images = np.random.default_rng(0).integers(0, 256, (ROWS, 3, 8, 6))
    data = labelled(dataset_of((torch.from_numpy(images), NAMES), "mine"))
    assert (data.x_train.dtype, data.input_shape) == (np.uint8, (3, 8, 6))


# --- images --------------------------------------------------------------------------------


def picture(folder: Path, name: str, value: int, size: tuple[int, int] = (6, 5)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("L" if value % 2 else "RGB", size, value if value % 2 else (value,) * 3).save(
        folder / name
    )


def test_a_folder_of_images(tmp_path: Path) -> None:
    for i in range(10):
        picture(tmp_path / "cats", f"{i}.png", 2 * i + 1)
        picture(tmp_path / "dogs", f"{i}.png", 2 * i + 101)
    data = load_dataset(str(tmp_path))
    assert (data.classes, data.input_shape) == (("cats", "dogs"), (1, 5, 6))
    assert data.name == tmp_path.name
    assert (data.x_train[data.y_train == 0] < 100).all()
    assert (data.x_train[data.y_train == 1] > 100).all()
    federation = build_federation(FederationSpec(dataset=str(tmp_path), clients=2))
    assert federation.input_shape == (1, 5, 6)


def test_images_in_folders_for_training_and_test(tmp_path: Path) -> None:
    for i in range(6):
        picture(tmp_path / "train" / "ab"[i % 2], f"{i}.png", 2 * i)
        picture(tmp_path / "test" / "ab"[i % 2], f"{i}.png", 2 * i + 100)
    data = load_dataset(str(tmp_path))
    assert (data.x_train.shape, data.x_test.shape) == ((6, 5, 6, 3), (6, 5, 6, 3))
    assert data.x_test.min() == 100


def test_images_of_several_sizes_need_a_shape(tmp_path: Path) -> None:
    for i in range(6):
        picture(tmp_path / "a", f"{i}.png", 11 + i, (4 + i, 5))
        picture(tmp_path / "b", f"{i}.png", 200 + i)
    with pytest.raises(ConfigError, match=r"6 different sizes; .* data.input_shape = \[3, 5, 4\]"):
        load_dataset(str(tmp_path))
    spec = FederationSpec(dataset=str(tmp_path), input_shape=(3, 8, 8), clients=2)
    assert build_federation(spec).input_shape == (3, 8, 8)


def test_images_without_labels_and_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no images"):
        load_dataset(str(tmp_path))
    picture(tmp_path, "1.png", 3)
    assert isinstance(dataset_of(tmp_path, "mine"), Unlabelled)
    (tmp_path / "2.png").write_bytes(b"none")
    with pytest.raises(ConfigError, match=r"2\.png is not a readable image"):
        dataset_of(tmp_path, "mine")


def test_images_of_more_than_8_bits_are_refused(tmp_path: Path) -> None:
    # pillow would make white of nearly all 16-bit values, and black of floats up to 1
    for values, name in ((np.uint16, "a.png"), (np.float32, "a.tif")):
        folder = tmp_path / name
        folder.mkdir()
        Image.fromarray(np.full((4, 4), 1000, values)).save(folder / name)
        with pytest.raises(ConfigError, match=r"image of mode (I;16|F); .* at most 8 bits"):
            dataset_of(folder, "scans")
