"""Lists of data sets as natural clients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedkt import Experiment
from fedkt.data import load_dataset
from fedkt.data.dataset import Dataset
from fedkt.data.joining import joined_clients
from fedkt.data.sources import dataset_of
from fedkt.errors import ConfigError

RNG = np.random.default_rng(0)


def rows_of(data: Dataset, client: str | int) -> tuple[Any, list[str]]:
    """Return the inputs and the class names of a client, the training part first."""
    x = np.concatenate([data.x_train, data.x_test])
    y = np.concatenate([data.y_train, data.y_test])
    owners = np.concatenate([data.client_train, data.client_test])
    return x[owners == client], [data.classes[k] for k in y[owners == client]]


def test_pairs_become_clients() -> None:
    given = [(np.full((n, 3), k, np.float32), np.arange(n) % 4) for k, n in enumerate((40, 7, 1))]
    data = joined_clients(given, ["north", "east", "tiny"])
    assert data.classes == ("0", "1", "2", "3")
    for k, (client, size) in enumerate((("north", 40), ("east", 7), ("tiny", 1))):
        x, names = rows_of(data, client)
        assert x.shape == (size, 3)
        assert (x == k).all()
        assert sorted(names) == sorted(str(c) for c in np.arange(size) % 4)
    assert (data.client_test == "north").sum() == 8
    assert (data.client_train == "tiny").sum() == 1


def test_a_client_may_have_one_class() -> None:
    given = [(RNG.random((10, 2)), np.full(10, kind)) for kind in ("flu", "cold", "flu")]
    data = joined_clients(given, ["a", "b", "c"])
    assert data.classes == ("cold", "flu")
    assert set(rows_of(data, "b")[1]) == {"cold"}
    assert set(rows_of(data, "c")[1]) == {"flu"}


def test_a_table_of_one_class_may_be_a_client() -> None:
    ages = RNG.random(20)
    both = pd.DataFrame({"age": ages, "label": ["flu", "cold"] * 10})
    study = Experiment(data=[both, both[both.label == "flu"]], rounds=1)
    data = load_dataset(study.data.dataset)
    assert data.classes == ("cold", "flu")
    assert set(rows_of(data, 1)[1]) == {"flu"}
    with pytest.raises(ConfigError, match="data: all labels are equal; at least 2 classes"):
        load_dataset(Experiment(data=[both[both.label == "flu"]] * 2).data.dataset)


def test_text_that_is_left_out_of_one_table_is_left_out_of_all() -> None:
    def visits(count: int) -> pd.DataFrame:
        texts = [f"visit {n}" for n in range(count)]  # of a small table they could be a category
        return pd.DataFrame(
            {"text": texts, "age": range(count), "label": ["a", "b"] * (count // 2)}
        )

    for sizes in ((40, 8), (8, 40)):
        study = Experiment(data=[visits(size) for size in sizes], rounds=1)
        data = load_dataset(study.data.dataset)
        assert data.columns == ("age",)
        assert len(data.x_train) + len(data.x_test) == 48
        assert any("'text' is left out" in note for note in data.notes)


def test_labels_go_by_their_names() -> None:
    one = dataset_of((RNG.random((30, 2)), np.array(["b", "c"] * 15)), "one")
    other = dataset_of((RNG.random((30, 2)), np.array(["a", "c"] * 15)), "other")
    assert isinstance(one, Dataset)
    assert isinstance(other, Dataset)
    data = joined_clients([one, other], ["one", "other"])
    assert data.classes == ("a", "b", "c")
    assert set(rows_of(data, "one")[1]) == {"b", "c"}
    assert set(rows_of(data, "other")[1]) == {"a", "c"}


def test_numbers_are_in_their_order() -> None:
    one = dataset_of((RNG.random((30, 2)), np.arange(30) % 2 + 9), "one")
    other = dataset_of((RNG.random((30, 2)), np.arange(30) % 2 + 10), "other")
    assert isinstance(one, Dataset)
    assert isinstance(other, Dataset)
    assert joined_clients([one, other], ["one", "other"]).classes == ("9", "10", "11")


def test_tables_share_their_categories() -> None:
    def table(kinds: str) -> Any:
        values = [kinds[k % len(kinds)] for k in range(30)]
        return pd.DataFrame({"age": np.arange(30.0), "kind": values, "label": ["x", "y"] * 15})

    sets = [dataset_of(table(kinds), "t", label="label") for kinds in ("ab", "bc")]
    data = joined_clients([d for d in sets if isinstance(d, Dataset)], ["one", "other"])
    assert data.columns == ("age", "kind=a", "kind=b", "kind=c")
    x, _ = rows_of(data, "other")
    assert x[:, 1:].sum(0).tolist() == [0, 15, 15]


@pytest.mark.parametrize(
    ("given", "names", "words"),
    [
        ([(np.ones((4, 2)), [0, 1] * 2)] * 2, ["a", "a"], "2 clients need as many names"),
        ([], [], "0 clients"),
        ([(np.ones((4, 2)), [0, 1]), (np.ones((4, 2)), [0, 1] * 2)], ["a", "b"], "client a has 2"),
        (
            [(np.ones((4, 2)), [0, 1] * 2), (np.ones((4, 3)), [0, 1] * 2)],
            ["a", "b"],
            r"Client b has samples of shape \[3\] and client a of \[2\]",
        ),
    ],
)
def test_clients_that_do_not_go_together(given: Any, names: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        joined_clients(given, names)
