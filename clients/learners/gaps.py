"""Missing values: whether a classifier of scikit-learn's interface takes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fedkt.data.splits import Array

ROWS = 40  # of the trial


def takes_gaps(build: Callable[[], Any], x: Array) -> bool:
    """Return whether a classifier says that it takes missing values, or does when tried.

    Parameters
    ----------
    build : callable
        Returns a new, unfitted classifier.
    x : ndarray
        Real inputs, float ``[n, d]``; the first few are used, each with a gap.
    """
    classifier = build()
    if _says_so(classifier):
        return True
    x = x[:ROWS].copy()
    x[np.arange(len(x)), np.arange(len(x)) % x.shape[1]] = np.nan
    try:
        classifier.fit(x, np.arange(len(x)) % 2)
        return bool(np.isfinite(classifier.predict_proba(x)).all())
    except Exception:  # a classifier may refuse in any way
        return False


def _says_so(classifier: Any) -> bool:
    from sklearn.utils import get_tags

    try:
        return bool(get_tags(classifier).input_tags.allow_nan)
    except Exception:  # classifiers of other libraries may have no tags, or other ones
        return False
