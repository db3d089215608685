"""Four hospitals as natural clients: one table each, measured by AUROC."""

import sys
from tempfile import mkdtemp

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import fedkt

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 10


if __name__ == "__main__":
    x, y = load_breast_cancer(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    public, *hospitals = np.split(order, [120, 300, 420, 500])  # of unequal size
    study = fedkt.Experiment(
        data=[(x[rows], y[rows]) for rows in hospitals],
        public=x[public],  # without labels
        models={
            "mlp": "mlp",
            "forest": RandomForestClassifier(n_estimators=50),
            "logistic": make_pipeline(StandardScaler(), LogisticRegression()),
        },
        scale="standardise",
        metrics=["auroc"],
        rounds=ROUNDS,
        grid="in-process",
    )
    both = fedkt.compare(study, ["local", "fedmd", "knfu"], seeds=3, out=f"{mkdtemp()}/run")
    print(both.table())
    print(both.test("fedmd", "local", "global_auroc"))
