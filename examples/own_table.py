"""A table of one's own: a CSV file with a text column and gaps; LightGBM beside an MLP."""

import sys
from pathlib import Path
from tempfile import mkdtemp

import pandas as pd
from lightgbm import LGBMClassifier
from sklearn.datasets import load_breast_cancer

import fedkt

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 10
FOLDER = Path(mkdtemp())


def write_table() -> Path:
    """Return the file of a table as hospitals have them."""
    bunch = load_breast_cancer(as_frame=True)
    table = bunch.data.round(4)
    table["texture"] = pd.qcut(table.pop("mean texture"), 3, labels=["fine", "medium", "coarse"])
    table.loc[::7, "mean area"] = None  # never measured
    table["diagnosis"] = bunch.target.map({0: "malignant", 1: "benign"})
    table.to_csv(FOLDER / "patients.csv", index=False)
    return FOLDER / "patients.csv"


if __name__ == "__main__":
    study = fedkt.Experiment(
        data={"dataset": write_table(), "label": "diagnosis", "scale": "standardise", "clients": 6},
        partition="dirichlet:1",
        models={"mlp": "mlp", "lightgbm": LGBMClassifier(n_estimators=30, verbose=-1)},
        rounds=ROUNDS,
        grid="in-process",
        metrics=["auroc"],
    )
    both = fedkt.compare(study, ["local", "fedmd"], seeds=3, out=FOLDER / "run")
    print(both.table())
    print(both.test("fedmd", "local"))
