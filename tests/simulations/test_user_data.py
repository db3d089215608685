"""Runs on data as users have them: files on the command line, objects from Python, gaps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedkt import Experiment, simulate
from fedkt.data import FederationSpec
from fedkt.data.identity import content_of
from fedkt.errors import ConfigError
from fedkt.simulations.experiment.references import absolute_data, absolute_target, beside
from fedkt.simulations.results.rounds import read_rounds
from fedkt.simulations.runs.plan import federation_of, federation_spec

from .conftest import Answer, invoke

ROWS = 200


def patients() -> pd.DataFrame:
    """Return a table with gaps, a category and a column of sites."""
    rng = np.random.default_rng(0)
    age = rng.integers(20, 90, ROWS).astype(float)
    ill = np.where(age + rng.normal(0, 9, ROWS) > 55, "ill", "well")
    age[::5] = np.nan
    sex, site = rng.choice(["f", "m"], ROWS), rng.choice(["north", "south"], ROWS)
    return pd.DataFrame({"age": age, "sex": sex, "site": site, "diagnosis": ill})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    patients().to_csv(tmp_path / "patients.csv", index=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Answer:
    """Return the answer of ``fedkt simulate`` on the table."""
    command = ["simulate", "--dataset", "patients.csv", "--set", "data.label=diagnosis"]
    common = ["--rounds", "1", "--clients", "3", "--grid", "in-process", "--strategy", "knfu"]
    return invoke(*command, *common, "--out", "run", *arguments)


def test_a_table_on_the_command_line(folder: Path) -> None:
    assert run("--models", "mlp,forest", "--set", "data.scale=standardise").code == 0
    settled = (folder / "run" / "config.toml").read_text(encoding="utf-8")
    assert f'dataset = "{folder}/patients.csv"' in settled
    assert len(read_rounds(folder / "run")) == 1


def test_gaps_are_for_models_that_take_them(folder: Path) -> None:
    answer = run("--models", "boosting,mlp")
    assert answer.code == 2
    assert "model 'mlp' does not take missing values, and 40 rows of patients" in answer.err
    assert 'data.scale = "standardise"' in answer.err
    assert run("--models", "boosting").code == 0


MODELS = '''
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression

class Filled(ClassifierMixin, BaseEstimator):
    """Says nothing of gaps, and fills them."""

    def fit(self, x, y, sample_weight=None):
        self.model_ = LogisticRegression().fit(np.nan_to_num(x), y, sample_weight)
        self.classes_ = self.model_.classes_
        return self

    def predict_proba(self, x):
        return self.model_.predict_proba(np.nan_to_num(x))

def filled(shape, classes):
    return Filled()

def scaled(shape, classes):
    return LogisticRegression()

def lightgbm(shape, classes):
    from lightgbm import LGBMClassifier

    return LGBMClassifier(n_estimators=5, min_child_samples=2, verbose=-1)

def xgboost(shape, classes):
    from xgboost import XGBClassifier

    return XGBClassifier(n_estimators=5)
'''


@pytest.mark.parametrize(
    ("model", "takes"),
    [("filled", True), ("scaled", False), ("lightgbm", True), ("xgboost", True)],
)
def test_classifiers_say_or_show_whether_they_take_gaps(
    folder: Path, model: str, takes: bool
) -> None:
    if model in ("lightgbm", "xgboost"):
        pytest.importorskip(model)
    (folder / "mine.py").write_text(MODELS, encoding="utf-8")
    study = Experiment(
        data=patients(), label="diagnosis", models=[f"mine.py:{model}"], clients=2, rounds=1,
        grid="in-process",
    )  # fmt: skip
    if takes:
        simulate(study, "knfu", out="run")
    else:
        with pytest.raises(ConfigError, match="does not take missing values"):
            simulate(study, "knfu", out="run")


def test_a_file_of_models_imports_what_lies_next_to_it(folder: Path) -> None:
    (folder / "models").mkdir()
    (folder / "models" / "blocks_beside.py").write_text(
        "from torch import nn\ndef hidden(width): return nn.LazyLinear(width)\n", encoding="utf-8"
    )
    (folder / "models" / "mine.py").write_text(
        "from blocks_beside import hidden, nn\n"
        "from sklearn.neighbors import KNeighborsClassifier\n"
        "class Wide(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.body, self.head = hidden(8), hidden(2)\n"
        "    def forward(self, x):\n"
        "        return {'logits': self.head(self.body(x).relu())}\n"
        "def votes(shape, classes):\n"
        "    return KNeighborsClassifier()\n",
        encoding="utf-8",
    )
    models = "models/mine.py:Wide,models/mine.py:votes"
    answer = run("--models", models, "--set", "data.scale=standardise")
    assert (answer.code, answer.err) == (0, "")
    assert "votes takes no sample weights, so it is fitted to rows drawn by weight" in answer.out


def objects() -> dict[str, Any]:
    """Return one thing of each kind of object that ``data=`` takes."""
    import torch
    from torch.utils.data import TensorDataset

    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, ROWS)
    x = (rng.normal(size=(ROWS, 3)) + 2 * y[:, None]).astype(np.float32)
    frame = pd.DataFrame(x, columns=["a", "b", "c"]).assign(label=y)
    return {
        "arrays": (x, np.array(["no", "yes"])[y]),
        "frame": frame,
        "torch": TensorDataset(torch.from_numpy(x), torch.from_numpy(y)),
        "named": {"dataset": {"x": x, "y": y}},  # a dictionary is the whole section
    }


@pytest.mark.parametrize("kind", ["arrays", "frame", "torch", "named", "hugging-face"])
def test_objects_of_python(tmp_path: Path, kind: str) -> None:
    things = objects()
    if kind == "hugging-face":
        datasets = pytest.importorskip("datasets")
        things[kind] = datasets.Dataset.from_pandas(things["frame"])
    study = Experiment(
        data=things[kind],
        models=["logistic"],
        clients=3,
        rounds=1,
        grid="in-process",
        partition="iid",
    )
    simulate(study, "knfu", out=tmp_path / "run")
    assert read_rounds(tmp_path / "run")[0]["global_accuracy"]["mean"] > 0.7


def write_files() -> None:
    """Write one thing of each kind that ``--dataset`` takes here."""
    from PIL import Image

    table = patients().drop(columns=["age"])
    table.to_csv("t.csv", index=False)
    table.to_parquet("t.parquet")
    np.savez("t.npz", x=np.eye(ROWS, 3), y=table["diagnosis"].to_numpy(str))
    for place in range(20):
        name = Path("images") / table["diagnosis"][place] / f"{place}.png"
        name.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (place, 0, 0)).save(name)


@pytest.mark.parametrize("kind", ["t.csv", "t.parquet", "t.npz", "images", "hub:a/b"])
def test_files_folders_and_sets_of_the_hub(
    folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    write_files()
    if kind.startswith("hub:"):
        datasets = pytest.importorskip("datasets")
        served = datasets.DatasetDict(
            {"train": datasets.Dataset.from_pandas(patients()[["sex", "diagnosis"]])}
        )
        monkeypatch.setattr(datasets, "load_dataset", lambda name: served)
        monkeypatch.setattr("fedkt.data.hub.reachable", lambda: True)
    label = {} if kind in ("t.npz", "images") else {"label": "diagnosis"}
    parts = []
    for seed in (0, 1):
        study = Experiment(data=kind, clients=2, seed=seed, public=False, **label)
        federation = federation_of(federation_spec(study))
        assert federation.classes == ("ill", "well")
        parts.append(federation.test_x)
    assert np.array_equal(*parts), "a hold-out with a seed of its own"


def test_identity_is_by_content(folder: Path) -> None:
    from PIL import Image

    def content(dataset: str) -> str:
        return content_of(FederationSpec(dataset=dataset, label="diagnosis"))

    before = content("patients.csv")
    assert content("patients.csv") == before
    patients()[::-1].to_csv("patients.csv", index=False)
    assert content("patients.csv") != before
    for name in ("cats/1.png", "dogs/1.png"):
        (folder / "images" / name).parent.mkdir(parents=True)
        Image.new("L", (4, 4), 7).save(folder / "images" / name)
    first = content("images")
    assert content("images") == first
    Image.new("L", (4, 4), 8).save(folder / "images" / "dogs" / "1.png")
    second = content("images")
    assert second != first
    (folder / "images" / "dogs" / "1.png").rename(folder / "images" / "cats" / "2.png")
    assert content("images") not in (first, second)


def test_paths_in_a_toml_are_relative_to_it(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    for name in ("cats/1.png", "dogs/1.png"):
        (folder / "pictures" / name).parent.mkdir(parents=True)
        Image.new("L", (4, 4), 7).save(folder / "pictures" / name)
    np.savez(folder / "stored.npz", x=np.zeros((4, 2)))
    (folder / "mine.py").write_text("", encoding="utf-8")
    values = {
        "models": ["mine.py:net", "other.py:net", "mlp"],
        "strategy": {"name": "mine.py:Mine", "root": "adam"},
        "compare": {
            "strategies": ["knfu", "Mine = mine.py:Mine(rate=2)"],
            "cells": [{"data": {"dataset": "pictures", "partition": "mine.py:split:3"}}],
        },
        "data": {
            "domains": ["patients.csv/*", "stored", "pictures", "digits", "hub:a/b", "mine.py:f"],
            "target": "pictures",
            "public_dataset": "patients.csv",
            "data_dir": ".",
        },
    }
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "other.py").write_text("", encoding="utf-8")
    (folder / "digits").mkdir()  # a registered name comes first
    monkeypatch.chdir(elsewhere)
    read = beside(values, folder)
    assert read["models"] == [f"{folder}/mine.py:net", "other.py:net", "mlp"]
    assert read["strategy"] == {"name": f"{folder}/mine.py:Mine", "root": "adam"}
    assert read["compare"] == {
        "strategies": ["knfu", f"Mine = {folder}/mine.py:Mine(rate=2)"],
        "cells": [
            {"data": {"dataset": f"{folder}/pictures", "partition": f"{folder}/mine.py:split:3"}}
        ],
    }
    assert read["data"] == {
        "domains": [
            *(f"{folder}/patients.csv/*", "stored", f"{folder}/pictures"),
            *("digits", "hub:a/b", f"{folder}/mine.py:f"),
        ],
        "target": f"{folder}/pictures",
        "public_dataset": f"{folder}/patients.csv",
        "data_dir": str(folder),
    }


def test_a_toml_runs_from_another_folder(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "mine.py").write_text(MODELS, encoding="utf-8")
    (folder / "study.toml").write_text(
        'rounds = 1\nmodels = ["mine.py:filled"]\n'
        'data = {dataset = "patients.csv", label = "diagnosis", clients = 2}\n'
        'strategy = {name = "local"}\nrun = {grid = "in-process"}\n',
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    answer = invoke("simulate", folder / "study.toml", "--out", "run")
    assert (answer.code, answer.err) == (0, "")
    settled = Path("run/config.toml").read_text(encoding="utf-8")
    assert f'dataset = "{folder}/patients.csv"' in settled
    assert invoke("simulate", "run/config.toml", "--out", "again").code == 0


def test_references_of_files_are_made_absolute(folder: Path) -> None:
    assert absolute_data("patients.csv") == f"{folder}/patients.csv"
    assert absolute_data("patients.csv/north") == f"{folder}/patients.csv/north"
    assert absolute_data("patients.csv/*") == f"{folder}/patients.csv/*"
    assert absolute_data("patients.csv", str(folder)) == f"{folder}/patients.csv"
    assert absolute_data("digits") == "digits"
    assert absolute_data("digits5/usps") == "digits5/usps"
    star = absolute_data("patients.csv/*")
    assert absolute_target("patients.csv/north", [star]) == f"{folder}/patients.csv/north"
    (folder / "north").mkdir()
    assert absolute_target("north", [star]) == "north"


def test_no_data_set_is_no_folder(tmp_path: Path) -> None:
    """An empty name was the folder of the TOML itself."""
    data = {"dataset": "", "public_dataset": ""}
    assert beside({"data": data}, tmp_path)["data"] == data
