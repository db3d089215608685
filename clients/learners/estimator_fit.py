"""Fitting any classifier with scikit-learn's interface to weighted rows."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from fedkt.errors import ConfigError
from fedkt.rng import numpy_rng

PLAIN = "sample_weight"
PROBABILITIES = "predict_proba"
# Rows of each class: more than the folds of a calibration and the neighbours of a vote, usually.
LEAST = 10
TRIED = 24  # rows of the trial, each with two labels


@dataclass(frozen=True)
class Rows:
    """Rows to fit: inputs ``[n, d]``; labels, weights and numbers of their samples, ``[n]`` each.

    Rows of one sample, which differ in their labels, follow each other.
    """

    x: Any
    y: Any
    weight: Any
    sample: Any


@dataclass(frozen=True)
class WeightedFit:
    """How a classifier learns from weighted rows.

    Parameters
    ----------
    build : callable
        Returns a new, unfitted classifier.
    key : str, optional
        The argument of ``fit`` that takes the weights: ``sample_weight``, or that of a pipeline's
        last step. None: it takes none, and is fitted to rows drawn by weight.
    """

    build: Callable[[], Any]
    key: str | None

    def drawn(self, rows: Rows, seed: int, stream: str, round_: int, client: int) -> Rows:
        """Return the rows that are fitted: all, or of each sample one, drawn by the weights."""
        if self.key is not None:
            return rows
        weight = rows.weight.astype(np.float64)
        _, first, count = np.unique(rows.sample, return_index=True, return_counts=True)
        ends = np.cumsum(weight)
        begins, totals = ends[first] - weight[first], np.add.reduceat(weight, first)
        places = numpy_rng(seed, f"resample/{stream}", round_, client).random(len(first))
        chosen = np.searchsorted(ends, begins + places * totals, side="right")
        chosen = np.clip(chosen, first, first + count - 1)  # against rounding
        return Rows(rows.x[chosen], rows.y[chosen], np.ones(len(chosen)), rows.sample[chosen])

    def fitted(self, rows: Rows, seed: int) -> Any:
        """Return a classifier fitted to rows, its random numbers from a seed.

        Where it wants more rows of a class than there are, as a calibration in folds or a vote of
        neighbours, rows are repeated and their weights divided.
        """
        try:
            return self._fitted(rows, seed)
        except ValueError as error:
            more = _repeated(rows, self.key is not None)
            if len(more.y) == len(rows.y):
                raise
            try:
                return self._fitted(more, seed)
            except ValueError:
                raise error from None

    def _fitted(self, rows: Rows, seed: int) -> Any:
        classifier = seeded(self.build(), seed)
        weights = {} if self.key is None else {self.key: rows.weight}
        classifier.fit(rows.x, rows.y, **weights)
        classifier.predict_proba(rows.x[:1])  # some find only now that there are too few rows
        return classifier


@lru_cache(maxsize=64)
def weighted_fit(build: Callable[[], Any], width: int) -> WeightedFit:
    """Return the way that a classifier takes weights: the first that changes its answers.

    Tried on a few made-up rows of ``width`` numbers, because signatures do not tell: those that
    pass weights on fail later, or warn that only a part of them uses these.
    """
    template = build()
    keys = list(_keys(template))
    with _quietly():
        if not _fits(build, width):
            return WeightedFit(build, next((key for key in keys if _declares(template, key)), None))
        return WeightedFit(build, next((key for key in keys if _heeds(build, key, width)), None))


def check_classifier(template: Any, name: str) -> None:
    """Refuse a classifier without probabilities.

    Raises
    ------
    ConfigError
        If it has no ``predict_proba``.
    """
    if not hasattr(template, PROBABILITIES) and not _has_them_when_fitted(template):
        raise ConfigError(
            f"model {name!r} has no predict_proba: {type(template).__name__} gives no "
            'probabilities (some do if asked: voting="soft", probability=True; '
            "CalibratedClassifierCV makes them for any)."
        )


def _has_them_when_fitted(template: Any) -> bool:
    """Return whether a classifier, which is fitted for it, then has probabilities, as a stack."""
    if not hasattr(type(template), PROBABILITIES):
        return False
    x, y, _ = _made_up(2)
    with _quietly(), contextlib.suppress(Exception):  # each library has errors of its own for this
        return hasattr(seeded(template, 0).fit(x, y), PROBABILITIES)
    return False


def seeded(classifier: Any, seed: int) -> Any:
    """Return a classifier, changed in place, whose random numbers, and its parts', have a seed."""
    parameters = classifier.get_params() if hasattr(classifier, "get_params") else {}
    states = [n for n in parameters if n == "random_state" or n.endswith("__random_state")]
    return classifier.set_params(**dict.fromkeys(states, seed % 2**32)) if states else classifier


def _keys(template: Any) -> Iterator[str]:
    """Yield the arguments of ``fit`` that may take weights."""
    yield PLAIN
    if steps := getattr(template, "steps", None):
        yield f"{steps[-1][0]}__{PLAIN}"


def _declares(template: Any, key: str) -> bool:
    """Return whether the signature of a fit names weights."""
    from sklearn.utils.validation import has_fit_parameter

    last = template if key == PLAIN else template.steps[-1][1]
    return bool(has_fit_parameter(last, PLAIN))


def _made_up(width: int) -> tuple[Any, Any, Any]:
    """Return rows that are there with label 0 and label 1, and the weights of those labels."""
    x = np.random.default_rng(0).normal(size=(TRIED, width)).astype(np.float32)
    y = np.repeat([0, 1], TRIED)
    return np.concatenate([x, x]), y, np.where(y == 0, 0.9, 0.1)


def _fits(build: Callable[[], Any], width: int) -> bool:
    x, y, _ = _made_up(width)
    try:
        seeded(build(), 0).fit(x, y).predict_proba(x)
    except Exception:  # as a decomposition into more columns than there are rows
        return False
    return True


def _heeds(build: Callable[[], Any], key: str, width: int) -> bool:
    """Return whether all of a classifier uses weights that are given so."""
    x, y, weight = _made_up(width)
    answers = []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for weights in (weight, 1 - weight):
            try:
                model = seeded(build(), 0).fit(x, y, **{key: weights})
                answers.append(model.predict_proba(x))
            except Exception:  # each library has errors of its own for this
                return False
    partly = any("sample weight" in (text := str(w.message)) or PLAIN in text for w in said)
    return not partly and not np.allclose(answers[0], answers[1])


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep what libraries say about made-up rows to themselves."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _repeated(rows: Rows, weighted: bool) -> Rows:
    """Return rows of which each class has at least :data:`LEAST`, with the same sum of weights.

    Without weights every class is repeated as often, so that their proportions stay.
    """
    classes, places, counts = np.unique(rows.y, return_inverse=True, return_counts=True)
    times = -(-LEAST // counts)
    times = times if weighted else np.full(len(classes), times.max())
    each = times[places]
    chosen = np.repeat(np.arange(len(each)), each)
    return Rows(rows.x[chosen], rows.y[chosen], (rows.weight / each)[chosen], rows.sample[chosen])
