"""Runs with natural clients: lists of data sets from Python, the column of a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tomli

import fedkt
from fedkt.errors import ConfigError

RNG = np.random.default_rng(0)
SIZES = (40, 12, 25, 30)


def hospital(size: int) -> tuple[Any, Any]:
    x = RNG.normal(size=(size, 5)).astype(np.float32)
    return x, np.where(x[:, 0] > 0, "ill", "well")


def values(**more: Any) -> dict[str, Any]:
    return {"models": ["mlp"], "rounds": 1, "run": {"grid": "in-process"}, **more}


@pytest.mark.usefixtures("no_report")
def test_a_list_of_data_sets_is_one_client_each(tmp_path: Path) -> None:
    study = fedkt.Experiment(
        data=[hospital(size) for size in SIZES], public=RNG.normal(size=(30, 5)), **values()
    )
    assert study.data.partition == "natural"
    fedkt.simulate(study, "knfu(local_epochs=1, distil_epochs=1)", out=tmp_path / "run")
    facts = json.loads((tmp_path / "run" / "federation.json").read_text(encoding="utf-8"))
    assert (facts["clients"], facts["client_names"]) == (4, ["0", "1", "2", "3"])
    assert (facts["classes"], facts["public"]) == (["ill", "well"], 30)
    assert [sum(parts) for parts in zip(*facts["sizes"].values(), strict=True)] == [32, 10, 20, 24]
    settings = tomli.loads((tmp_path / "run" / "config.toml").read_text(encoding="utf-8"))
    assert settings["data"]["clients"] == 4
    assert settings["data"]["public"] is True


def test_a_dictionary_names_the_clients(tmp_path: Path) -> None:
    frames = {}
    for name, size in zip(("north", "east"), SIZES, strict=False):
        x, y = hospital(size)
        frames[name] = pd.DataFrame(x, columns=list("abcde")).assign(outcome=y)
    study = fedkt.Experiment(data={"dataset": frames, "label": "outcome"}, **values())
    from fedkt.simulations.runs.plan import federation_of, federation_spec

    federation = federation_of(federation_spec(study))
    assert federation.client_names == ("east", "north")
    assert federation.columns == tuple("abcde")


@pytest.mark.parametrize("named", [True, False])
def test_clients_are_files_of_one_table_each(here: Path, named: bool) -> None:
    from fedkt.simulations.runs.plan import federation_of, federation_spec

    for name, size in zip(("north", "east"), SIZES, strict=False):
        x, y = hospital(size)
        frame = pd.DataFrame(x, columns=list("abcde")).assign(outcome=y)
        frame.to_csv(f"{name}.csv", index=False)
    files = {"north": Path("north.csv"), "east": Path("east.csv")} if named else ["north.csv"] * 2
    federation = federation_of(federation_spec(fedkt.Experiment(data=files, label="outcome")))
    assert federation.client_names == (("east", "north") if named else ("0", "1"))
    assert federation.columns == tuple("abcde")
    with pytest.raises(ConfigError, match=r"No such file or folder: west\.csv"):
        fedkt.Experiment(data=["north.csv", "west.csv"], label="outcome")
    with pytest.raises(ConfigError, match=r"Unknown key in \[data\] 'datasett'"):
        fedkt.Experiment(data={"datasett": "north.csv"})


def test_splits_are_no_clients() -> None:
    from fedkt.simulations.runs.plan import federation_of, federation_spec

    frame = pd.DataFrame({"age": np.arange(20.0), "label": [0, 1] * 10})
    with pytest.raises(ConfigError, match="data is a dict, which no reader takes"):
        fedkt.Experiment(data={"train": frame, "test": frame})
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_pandas(frame)
    study = fedkt.Experiment(data={"train": rows, "test": rows.select(range(6))}, clients=2)
    assert len(federation_of(federation_spec(study)).test_x) == 6


def test_a_client_may_have_one_class_and_few_rows() -> None:
    from fedkt.simulations.runs.plan import federation_of, federation_spec

    rows = pd.DataFrame({"age": [30.0, 40, 50, 60], "sex": list("ffmm")})
    frames = [
        rows.assign(label="ill"),
        rows.assign(label=["ill", "well"] * 2),
        rows[:1].assign(label="well"),
    ]
    federation = federation_of(federation_spec(fedkt.Experiment(data=frames, **values())))
    assert federation.classes == ("ill", "well")
    assert federation.columns == ("age", "sex=f", "sex=m")
    assert [len(federation.client(k).train) > 0 for k in range(3)] == [True] * 3
    same = fedkt.Experiment(data=frames[:1], **values())
    with pytest.raises(ConfigError, match="data: all labels are equal; at least 2 classes"):
        federation_of(federation_spec(same))


def test_the_client_column_of_a_table(here: Path, fedkt: Any, no_report: None) -> None:
    x, y = hospital(90)
    table = pd.DataFrame(x, columns=list("abcde")).assign(label=y, ward=np.arange(90) % 3)
    table.loc[:1, "ward"] = 7  # two patients only
    table.to_csv("wards.csv", index=False)
    arguments = ["simulate", "--dataset", "wards.csv", "--partition", "natural", "--out", "run"]
    arguments += [
        "--models",
        "mlp",
        "--rounds",
        "1",
        "--strategy",
        "fedavg",
        "--grid",
        "in-process",
    ]
    for option in ("data.client=ward", "data.min_samples=5", "data.small=drop"):
        arguments += ["--set", option]
    answer = fedkt(*arguments)
    assert (answer.code, answer.err) == (0, "")
    facts = json.loads((here / "run" / "federation.json").read_text(encoding="utf-8"))
    assert facts["client_names"] == ["0", "1", "2"]
    assert facts["public"] == 0
    assert "natural clients has fewer than 5 samples of the training part" in answer.out
