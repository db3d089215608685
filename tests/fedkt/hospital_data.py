"""A table as hospitals have it, for tests of readers."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fedkt import Dataset, Unlabelled

ROWS = 60
# Plain samples of a hospital, and names of their classes.
X = np.random.default_rng(1).normal(size=(ROWS, 4))
NAMES = np.array(["a", "b"])[np.arange(ROWS) % 2]


def patients() -> pd.DataFrame:
    """Return a table as hospitals have it: numbers with gaps, texts, truth values, dates."""
    rng = np.random.default_rng(0)
    age = rng.integers(20, 90, ROWS).astype(float)
    age[::7] = np.nan
    smokes = np.array(["yes", "no", None], dtype=object)[rng.integers(0, 3, ROWS)]
    return pd.DataFrame(
        {
            "age": age,
            "smokes": smokes,
            "insured": rng.integers(0, 2, ROWS).astype(bool),
            "seen": pd.to_datetime("2020-01-01") + pd.to_timedelta(np.arange(ROWS), unit="D"),
            "note": [f"patient {i} said {i * i}" for i in range(ROWS)],
            "site": np.array(["north", "south", "west"])[np.arange(ROWS) % 3],
            "diagnosis": np.array(["ill", "well"])[rng.integers(0, 2, ROWS)],
        }
    )


def labelled(data: Dataset | Unlabelled) -> Dataset:
    assert isinstance(data, Dataset)
    return data
