"""Classifiers of scikit-learn, unfitted; the caller sets ``random_state``."""

from __future__ import annotations

from typing import Any

from fedkt.registry import register


@register(part="models")
def forest(input_shape: tuple[int, ...], num_classes: int) -> Any:
    """Random forest of 50 trees (scikit-learn)."""
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(n_estimators=50)


@register(part="models")
def logistic(input_shape: tuple[int, ...], num_classes: int) -> Any:
    """Logistic regression (scikit-learn)."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=1000)


@register(part="models")
def boosting(input_shape: tuple[int, ...], num_classes: int) -> Any:
    """Gradient boosting on histograms (scikit-learn)."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier()
