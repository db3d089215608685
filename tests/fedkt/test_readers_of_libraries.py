"""Data sets of torch and Hugging Face, columns that are not there, and tables that go together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import TensorDataset

from fedkt import Dataset, Unlabelled, register
from fedkt.data import FederationSpec, build_federation
from fedkt.data.readers import Reader, Reading, data_of
from fedkt.data.reading import Rows
from fedkt.data.sources import dataset_of
from fedkt.errors import ConfigError

from .hospital_data import NAMES, ROWS, X, labelled, patients

# --- data sets of other libraries ----------------------------------------------------------


class Words(TorchDataset[Any]):
    """Items of a tokeniser."""

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, place: int) -> dict[str, Any]:
        ids = torch.arange(place % 3 + 2)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": place % 2}


def test_data_sets_of_torch() -> None:
    pairs = TensorDataset(torch.from_numpy(X), torch.arange(ROWS) % 2)
    assert labelled(dataset_of(pairs, "mine")).x_train.shape == (48, 4)
    assert len(labelled(dataset_of((pairs, pairs), "mine")).x_test) == ROWS
    assert isinstance(dataset_of(TensorDataset(torch.from_numpy(X)), "mine"), Unlabelled)
    words = labelled(dataset_of(Words(), "mine"))
    assert (words.layout, words.x_train.dtype, words.input_shape) == ("tokens", np.int64, (4,))
    assert set(words.x_train[:, 3].tolist()) == {3, -1}  # padding: not attended to


def test_the_clients_and_parts_of_token_ids_in_torch_and_of_images_in_hugging_face() -> None:
    class Said(Words):
        def __getitem__(self, place: int) -> dict[str, Any]:
            return {**super().__getitem__(place), "speaker": "ab"[place % 2]}

    read = labelled(dataset_of(Said(), "mine", client="speaker"))
    assert (read.client_test == np.array(["a", "b"])[read.y_test]).all()
    with pytest.raises(ConfigError, match="Unknown label of mine 'mood'"):
        dataset_of(Said(), "mine", label="mood", needs_labels=True)

    datasets = pytest.importorskip("datasets")
    pictures = [Image.fromarray(np.full((4, 5), i, np.uint8)) for i in range(20)]
    columns = {
        "image": pictures,
        "writer": [f"w{i % 3}" for i in range(20)],
        "part": ["train"] * 15 + ["test"] * 5,
        "letter": [i % 2 for i in range(20)],
    }
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "writer": datasets.Value("string"),
            "part": datasets.Value("string"),
            "letter": datasets.ClassLabel(names=["a", "b"]),
        }
    )
    letters = datasets.Dataset.from_dict(columns, features=features)
    whole = labelled(dataset_of(letters, "mine", client="writer"))
    assert len(whole.x_test) == 4
    assert whole.client_train is not None
    assert (whole.client_train == np.array([f"w{i % 3}" for i in whole.x_train[:, 0, 0]])).all()
    parted = labelled(dataset_of(letters, "mine", client="writer", split="part"))
    assert parted.x_test[:, 0, 0].tolist() == [15, 16, 17, 18, 19]
    assert parted.client_test is not None
    assert parted.client_test.tolist() == ["w0", "w1", "w2", "w0", "w1"]
    with pytest.raises(ConfigError, match="client column of mine 'writers'"):
        dataset_of(letters, "mine", client="writers", needs_labels=True)


def test_token_ids_in_a_table_and_images_in_torch() -> None:
    frame = pd.DataFrame(
        {
            "input_ids": [[5, 6], [7, 8, 9]] * 10,
            "attention_mask": [[1, 0], [1, 1, 1]] * 10,
            "user": ["a", "b"] * 10,
            "label": [0, 1] * 10,
        }
    )
    tokens = labelled(dataset_of(frame, "mine", client="user"))
    assert (tokens.layout, tokens.x_train.dtype) == ("tokens", np.int64)
    assert set(map(tuple, tokens.x_train.tolist())) == {(5, -7, -1), (7, 8, 9)}

    class Pictures(Words):
        def __getitem__(self, place: int) -> Any:
            return Image.fromarray(np.full((4, 5), place, np.uint8)), "cat" if place % 2 else "dog"

    read = labelled(dataset_of(Pictures(), "mine"))
    assert (read.classes, read.input_shape, read.x_train.dtype) == (
        ("cat", "dog"),
        (1, 4, 5),
        np.uint8,
    )
    assert (read.y_train == 1 - read.x_train[:, 0, 0] % 2).all()


def test_data_sets_of_hugging_face() -> None:
    datasets = pytest.importorskip("datasets")
    labels = datasets.ClassLabel(names=["bad", "good"])
    columns = {"age": list(range(20)), "sex": ["f", "m"] * 10, "label": [0, 1] * 10}
    features = datasets.Features(
        {"age": datasets.Value("int64"), "sex": datasets.Value("string"), "label": labels}
    )
    table = datasets.Dataset.from_dict(columns, features=features)
    data = labelled(dataset_of(table, "mine"))
    assert (data.columns, data.classes) == (("age", "sex=f", "sex=m"), ("bad", "good"))
    parts = datasets.DatasetDict({"train": table, "test": table.select(range(6))})
    assert len(labelled(dataset_of(parts, "mine")).x_test) == 6
    words = {"input_ids": [[5, 6], [7, 8, 9]] * 10, "attention_mask": [[1, 0], [1, 1, 1]] * 10}
    tokens = datasets.Dataset.from_dict({**words, "label": [0, 1] * 10})
    read = labelled(dataset_of(tokens, "mine"))
    assert (read.layout, read.input_shape) == ("tokens", (3,))
    assert sorted(read.x_test.tolist())[0] == [5, -7, -1]
    vectors = datasets.Dataset.from_dict({"embedding": X[:20].tolist(), "label": [0, 1] * 10})
    assert labelled(dataset_of(vectors, "mine")).input_shape == (4,)
    assert isinstance(dataset_of(vectors.remove_columns("label"), "mine"), Unlabelled)
    texts = [f"{i} some words" for i in range(100)]
    text = datasets.Dataset.from_dict({"text": texts, "label": [0, 1] * 50})
    with pytest.raises(ConfigError, match="text is tokenised first"):
        dataset_of(text, "mine")


def test_columns_of_images_of_hugging_face() -> None:
    datasets = pytest.importorskip("datasets")
    pictures = [Image.new("L", (3, 3), 2 * i) for i in range(20)]
    columns = {"label": [0, 1] * 10, "writer": [f"w{i % 3}" for i in range(20)]}
    parts = {"part": ["test" if i % 4 == 2 else "train" for i in range(20)]}
    images = datasets.Dataset.from_dict({"image": pictures, **columns, **parts})
    data = labelled(dataset_of(images, "mine", client="writer", split="part"))
    assert data.x_test[:, 0, 0].tolist() == [4 * i for i in range(1, 10, 2)]  # row i holds 2 i
    for x, y, clients in (
        (data.x_train, data.y_train, data.client_train),
        (data.x_test, data.y_test, data.client_test),
    ):
        rows = x[:, 0, 0] // 2
        assert y.tolist() == (rows % 2).tolist()
        assert clients is not None
        assert clients.tolist() == [f"w{i % 3}" for i in rows]


@pytest.mark.parametrize("role", ["client", "split"])
def test_a_column_that_is_not_there_is_refused(role: str, tmp_path: Path) -> None:
    asked: dict[str, Any] = {role: "nowhere", "needs_labels": True}
    pair = X, np.arange(ROWS) % 2
    with pytest.raises(
        ConfigError, match=rf"mine: there are no columns, and data.{role} is 'nowhere'"
    ):
        dataset_of(pair, "mine", **asked)
    np.savez(tmp_path / "mine.npz", x=pair[0], y=pair[1])
    with pytest.raises(ConfigError, match=rf"there are no columns, and data.{role} is"):
        build_federation(FederationSpec(dataset=str(tmp_path / "mine.npz"), **{role: "nowhere"}))
    with pytest.raises(ConfigError, match=f"{role} column of mine 'nowhere'"):
        dataset_of(patients(), "mine", label="diagnosis", **asked)
    public = dataset_of(pair, "mine", **{**asked, "needs_labels": False})
    assert isinstance(public, Dataset)  # a public set has no need of them


def test_a_kind_of_source_is_one_class() -> None:
    from fedkt import registry

    @register(name="words-for-a-test")
    class Spelled(Reader):
        """Text files with a label and numbers."""

        @staticmethod
        def takes(source: Any) -> bool:
            return source == "spelled"

        @staticmethod
        def read(source: Any, reading: Reading) -> Dataset | Unlabelled:
            return data_of(reading, Rows(X, NAMES))

    try:
        assert labelled(dataset_of("spelled", "mine")).classes == ("a", "b")
    finally:
        registry.forget("readers", "words-for-a-test")


# --- tables that go together ---------------------------------------------------------------


def two_tables(folder: Path) -> tuple[Path, Path]:
    """Write a table and one with other values of its category, in another order of columns."""
    first = patients().drop(columns=["seen", "note"])
    first["age"] = first["age"].fillna(50)
    second = first[["site", "age", "smokes", "insured", "diagnosis"]].copy()
    second["site"] = second["site"].replace("north", "east")
    paths = folder / "first.csv", folder / "second.csv"
    for frame, path in zip((first, second), paths, strict=True):
        frame.to_csv(path, index=False)
    return paths


def test_a_public_table_is_encoded_as_that_of_the_clients(tmp_path: Path) -> None:
    first, second = two_tables(tmp_path)
    pd.read_csv(second).drop(columns=["diagnosis"]).to_csv(second, index=False)
    spec = FederationSpec(
        dataset=str(first), label="diagnosis", public_dataset=str(second), clients=2
    )
    federation = build_federation(spec)
    assert federation.public_y is None
    sites = [federation.columns.index(f"site={name}") for name in ("north", "south", "west")]
    told = federation.public_x[:, sites]
    assert len(federation.public_x) == ROWS
    assert told.sum(0).tolist() == [0, 20, 20]  # east is no value of the clients'
    ages = federation.public_x[:, federation.columns.index("age")]
    assert sorted(ages) == sorted(pd.read_csv(second)["age"].astype(np.float32))
    pd.read_csv(second).drop(columns=["age"]).to_csv(second, index=False)
    with pytest.raises(ConfigError, match="Unknown column of second 'age'"):
        build_federation(spec)


def test_tables_as_domains_have_the_values_of_all(tmp_path: Path) -> None:
    domains = tuple(map(str, two_tables(tmp_path)))
    spec = FederationSpec(domains=domains, label="diagnosis", clients=2)
    federation = build_federation(spec)
    names = [name for name in federation.columns if name.startswith("site")]
    assert names == ["site=east", "site=north", "site=south", "site=west"]
    east = federation.columns.index("site=east")
    shares = [federation.client(c).train.x[:, east].mean().item() for c in range(2)]
    assert shares[0] == 0 < shares[1]


def test_the_domains_of_a_table_are_the_values_of_its_client_column(tmp_path: Path) -> None:
    first, _ = two_tables(tmp_path)
    spec = FederationSpec(domains=(f"{first}/*",), label="diagnosis", client="site", clients=3)
    federation = build_federation(spec)
    assert federation.domains == ("first/north", "first/south", "first/west")
    assert federation.notes  # what was said in the reading of the whole is said once
    assert len(set(federation.notes)) == len(federation.notes)
