from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fedkt.data import hub, load_dataset
from fedkt.errors import ConfigError

datasets = pytest.importorskip("datasets")
image_module = pytest.importorskip("PIL.Image")

Serve = Callable[[Any], None]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Serve:
    def install(answer: Any) -> None:
        def load(name: str) -> Any:
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr(datasets, "load_dataset", load)
        monkeypatch.setattr(hub, "reachable", lambda: True)

    return install


def split(count: int, colour: bool = False, first: int = 0) -> Any:
    shape = (4, 5, 3) if colour else (4, 5)
    pixels = [np.full(shape, first + i, dtype=np.uint8) for i in range(count)]
    return datasets.Dataset.from_dict(
        {
            "picture": [image_module.fromarray(p) for p in pixels],
            "kind": [i % 2 for i in range(count)],
        },
        features=datasets.Features(
            {"picture": datasets.Image(), "kind": datasets.ClassLabel(names=["ant", "bee"])}
        ),
    )


def test_columns_are_found_by_type(serve: Serve) -> None:
    serve(datasets.DatasetDict({"train": split(6), "test": split(4, first=100)}))
    found = load_dataset("hub:someone/something")

    assert found.classes == ("ant", "bee")
    assert found.x_train.shape == (6, 4, 5)
    assert found.x_train[:, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert found.y_train.tolist() == [0, 1, 0, 1, 0, 1]
    assert found.x_test[0, 0, 0] == 100


def test_colour_and_no_test_split(serve: Serve) -> None:
    serve(datasets.DatasetDict({"train": split(20, colour=True)}))
    found = load_dataset("hub:someone/something")

    assert found.input_shape == (3, 4, 5)
    assert (len(found.x_train), len(found.x_test)) == (16, 4)
    assert np.bincount(found.y_test).tolist() == [2, 2]
    values = np.concatenate([found.x_train, found.x_test])[:, 0, 0, 0]
    assert sorted(values.tolist()) == list(range(20))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (datasets.exceptions.DatasetNotFoundError("no such thing"), "no public data set 'a/b'"),
        (ConnectionError("cut\noff"), "cannot be downloaded: cut off"),
        (RuntimeError("odd"), "cannot be loaded: RuntimeError: odd"),
    ],
)
def test_failures_are_one_line(serve: Serve, answer: Exception, words: str) -> None:
    serve(answer)
    with pytest.raises(ConfigError, match=words) as caught:
        load_dataset("hub:a/b")
    assert "\n" not in str(caught.value)


def test_unusable_content(serve: Serve) -> None:
    text = datasets.Dataset.from_dict({"text": ["a"], "n": [1]})
    serve(datasets.DatasetDict({"train": text}))
    with pytest.raises(ConfigError, match=r"columns text \(Value\), n \(Value\); say which is"):
        load_dataset("hub:a/b")
    serve(datasets.DatasetDict({"dev": text}))
    with pytest.raises(ConfigError, match="no 'train' split, only dev"):
        load_dataset("hub:a/b")


def test_no_network_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise OSError("no route")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(hub, "getproxies", dict)
    monkeypatch.setattr(socket, "create_connection", refuse)
    with pytest.raises(ConfigError, match="hub:a/b needs a network"):
        load_dataset("hub:a/b")


@pytest.mark.parametrize("name", ["", "a b", "a/b/c", "../x/y"])
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(ConfigError, match="hub:OWNER/NAME"):
        load_dataset(f"hub:{name}")


def test_tables_and_token_ids(serve: Serve) -> None:
    columns = {"age": list(range(20)), "sex": ["f", "m"] * 10, "ill": [True, False] * 10}
    serve(datasets.DatasetDict({"train": datasets.Dataset.from_dict(columns)}))
    table = load_dataset("hub:a/b", label="ill")
    assert table.columns == ("age", "sex=f", "sex=m")
    assert table.classes == ("False", "True")
    words = {"input_ids": [[5, 6], [7, 8, 9]] * 10, "label": [0, 1] * 10}
    part = datasets.Dataset.from_dict(words)
    serve(datasets.DatasetDict({"train": part, "validation": part.select(range(4))}))
    tokens = load_dataset("hub:a/b")
    assert (tokens.layout, tokens.x_train.dtype) == ("tokens", np.int64)
    assert tokens.x_test.tolist() == [[5, 6, -1], [7, 8, 9]] * 2
