"""What was done to the inputs of a federation, done again to rows as users have them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedkt.data import Federation, FederationSpec, build_federation
from fedkt.data.preprocessing import prepared_rows
from fedkt.errors import ConfigError

RNG = np.random.default_rng(0)
GAPS = RNG.normal(5, 3, (80, 4)).astype(np.float32)
GAPS[RNG.random((80, 4)) < 0.2] = np.nan
INPUTS: dict[str, Any] = {
    "bytes": RNG.integers(0, 256, (80, 4, 5), dtype=np.uint8),
    "floats": RNG.random((80, 4, 5), dtype=np.float32) * 16,
    "colour": RNG.integers(0, 256, (80, 6, 6, 3), dtype=np.uint8),
    "gaps": GAPS,
    "counts": RNG.integers(0, 9, (80, 4)).astype(np.float32),
    "ids": RNG.integers(-300, 300, (80, 7)),
    "waves": RNG.normal(size=(80, 9, 2)).astype(np.float32),
}


def built(folder: Path, x: Any, **options: Any) -> tuple[Federation, Any]:
    """Return a federation of inputs and those of its common test set, as they were given."""
    y = np.arange(80) % 2
    np.savez(folder / "toy.npz", x_train=x[:60], y_train=y[:60], x_test=x[60:], y_test=y[60:])
    spec = FederationSpec(dataset="toy", data_dir=str(folder), clients=2, **options)
    return build_federation(spec), x[60:]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("bytes", {}),
        ("bytes", {"scale": "none"}),
        ("bytes", {"scale": "standardise"}),
        ("bytes", {"layout": "vector"}),
        ("floats", {}),
        ("floats", {"scale": "standardise"}),
        ("colour", {}),
        ("colour", {"input_shape": (1, 4, 4)}),
        ("gaps", {"scale": "standardise"}),
        ("gaps", {"features": "standardise"}),
        ("counts", {"features": "log"}),
        ("counts", {"features": "log", "scale": "unit"}),
        ("ids", {}),
        ("waves", {"layout": "series", "scale": "standardise"}),
    ],
)
def test_rows_become_what_the_federation_holds(
    tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    federation, raw = built(tmp_path, INPUTS[name], **options)
    test = federation.client(0).common_test
    assert test is not None
    kept = json.loads(json.dumps(federation.preprocessing_of(0)))
    found = prepared_rows(raw, kept)
    assert found.dtype == test.x.numpy().dtype
    assert found.tolist() == test.x.tolist()
    assert prepared_rows(raw[:1], kept).shape == (1, *federation.input_shape)
    federation.save(tmp_path / "kept")
    assert Federation.load(tmp_path / "kept").preprocessing_of(0) == kept
    assert list(federation.describe()["preprocessing"].values()) == [kept]


def table(rows: int) -> pd.DataFrame:
    return pd.DataFrame({
        "age": np.where(np.arange(rows) % 7, np.arange(rows) * 1.0, np.nan),
        "sex": np.array(["f", "m", None], dtype=object)[np.arange(rows) % 3],
        "label": np.array(["ill", "well"])[np.arange(rows) % 2],
    })  # fmt: skip


def test_rows_of_a_table_are_encoded_first(tmp_path: Path) -> None:
    whole = table(60).assign(split=["train"] * 40 + ["test"] * 20)
    whole.to_csv(tmp_path / "people.csv", index=False)
    spec = FederationSpec(
        dataset="people.csv", data_dir=str(tmp_path), split="split", clients=2, scale="standardise"
    )
    federation = build_federation(spec)
    test = federation.client(0).common_test
    assert test is not None
    kept = federation.preprocessing_of(0)
    raw = table(60)[40:]
    assert prepared_rows(raw, kept).tolist() == test.x.tolist()
    turned = raw[["label", "sex", "age"]].assign(other=1)
    assert prepared_rows(turned, kept).tolist() == test.x.tolist()
    assert prepared_rows(raw[["age", "sex"]].to_numpy(), kept).tolist() == test.x.tolist()
    with pytest.raises(ConfigError, match="'sex'"):
        prepared_rows(raw[["age"]], kept)
    with pytest.raises(ConfigError, match=r"The input has shape \[20, 3\]; .* age, sex"):
        prepared_rows(raw.to_numpy(), kept)


def test_rows_of_token_ids_as_a_table(tmp_path: Path) -> None:
    ids = [list(range(n % 3 + 2)) for n in range(20)]
    frame = pd.DataFrame({"input_ids": ids, "label": [0, 1] * 10})
    frame.to_parquet(tmp_path / "words.parquet")
    federation = build_federation(
        FederationSpec(dataset=str(tmp_path / "words.parquet"), clients=2, public=False)
    )
    kept = federation.preprocessing_of(0)
    assert prepared_rows(frame, kept).tolist()[:2] == [[0, 1, -1, -1], [0, 1, 2, -1]]
    assert prepared_rows(frame[:1], kept).tolist() == [[0, 1, -1, -1]]  # as beside longer ones
    assert prepared_rows(np.ones((1, 4), int), kept).tolist() == [[1, 1, 1, 1]]
    for length in (3, 5):
        with pytest.raises(ConfigError, match=f"has {length} token ids in a row; the model has 4"):
            prepared_rows(np.ones((1, length), int), kept)


def test_each_domain_has_its_own() -> None:
    spec = FederationSpec(
        domains=("digits-plain", "digits-inverted"), clients=2, scale="standardise"
    )
    federation = build_federation(spec)
    assert federation.preprocessing_of(0) != federation.preprocessing_of(1)
    assert federation.preprocessing_of(0)["input_shape"] == [1, 8, 8]


def test_it_is_not_part_of_the_content(tmp_path: Path) -> None:
    federation, _ = built(tmp_path, INPUTS["bytes"])
    assert replace(federation, preprocessing=()).fingerprint() == federation.fingerprint()


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (
            np.ones((3, 5)),
            r"the input has samples of shape \[5\], which cannot be brought to",
        ),
        (np.full((3, 4), -1.0), 'features is "log" and the input holds -1'),
        ([["a", "b", "c", "d"]], "allowed are numbers"),
    ],
)
def test_rows_of_another_form(tmp_path: Path, rows: Any, words: str) -> None:
    federation, _ = built(tmp_path, INPUTS["counts"], features="log")
    with pytest.raises(ConfigError, match=words):
        prepared_rows(rows, federation.preprocessing_of(0))
