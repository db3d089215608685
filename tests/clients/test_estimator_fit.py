"""Pipelines, meta-estimators and classifiers without sample weights, as people have them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.calibration import CalibratedClassifierCV
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from fedkt.clients import SklearnLearner
from fedkt.clients.learners.estimator_fit import Rows, WeightedFit, seeded, weighted_fit
from fedkt.clients.learners.gaps import takes_gaps
from fedkt.knowledge import Knowledge
from fedkt.models.builder import builder_of
from fedkt.objectives import KL, CrossEntropy, Distil
from fedkt.recipe import Train

STEP = "logisticregression__sample_weight"


def boosted(library: str, name: str, **options: Any) -> Callable[[], Any]:
    return lambda: getattr(pytest.importorskip(library), name)(**options)


def voting(*models: Any) -> VotingClassifier:
    return VotingClassifier([(str(i), model) for i, model in enumerate(models)], voting="soft")


KINDS: dict[str, tuple[Any, str | None]] = {
    "pipeline": (make_pipeline(StandardScaler(), LogisticRegression()), STEP),
    "calibrated": (CalibratedClassifierCV(LogisticRegression(), cv=3), "sample_weight"),
    "calibrated neighbours": (CalibratedClassifierCV(KNeighborsClassifier(), cv=3), None),
    "calibrated in a pipeline": (
        Pipeline([("z", StandardScaler()), ("c", CalibratedClassifierCV(GaussianNB()))]),
        "c__sample_weight",
    ),
    "vote": (voting(LogisticRegression(), GaussianNB()), "sample_weight"),
    "vote with neighbours": (voting(LogisticRegression(), KNeighborsClassifier()), None),
    "stack": (
        StackingClassifier([("a", LogisticRegression()), ("b", GaussianNB())], cv=2),
        "sample_weight",
    ),
    "boosted": (AdaBoostClassifier(LogisticRegression(), n_estimators=5), "sample_weight"),
    "bagged neighbours": (BaggingClassifier(KNeighborsClassifier(), 3), "sample_weight"),
    "one for each class": (OneVsRestClassifier(LogisticRegression()), None),
    "search": (
        GridSearchCV(
            make_pipeline(StandardScaler(), LogisticRegression(max_iter=50)),
            {"logisticregression__C": [0.1, 1.0]},
            cv=2,
        ),
        None,
    ),
    "neighbours": (KNeighborsClassifier(), None),
    "scaled neighbours": (make_pipeline(StandardScaler(), KNeighborsClassifier(3)), None),
    "discriminants": (LinearDiscriminantAnalysis(), None),
    "network": (MLPClassifier((32,), max_iter=200), "sample_weight"),
    "many components": (make_pipeline(PCA(60), LogisticRegression()), STEP),
    "boosting": (HistGradientBoostingClassifier(max_iter=10), "sample_weight"),
    "lightgbm": (
        boosted("lightgbm", "LGBMClassifier", n_estimators=5, verbose=-1),
        "sample_weight",
    ),
    "xgboost": (boosted("xgboost", "XGBClassifier", n_estimators=5), "sample_weight"),
}


def learner_of(kind: str) -> SklearnLearner:
    learner = SklearnLearner(builder_of(KINDS[kind][0], kind, (1, 8, 8), 10), 10, kind)
    learner.input_shape = (1, 8, 8)
    return learner


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_takes_part(data, work_on, kind) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few iterations
        learner = learner_of(kind)
        assert weighted_fit(learner._build, 64).key == KINDS[kind][1]
        learner.train(Train("private", [CrossEntropy()]), work_on(data), "learn/0")
        logits = learner.predict(data.common_test.x)
        before = float((learner.predict(data.public.x).argmax(-1) == data.public.y).double().mean())
        sure = torch.nn.functional.one_hot((data.public.y + 1) % 10, 10).float() * 0.9 + 0.01
        known = {"public": Knowledge.rows("probabilities", sure)}
        learner.train(Train("public", [Distil(KL())]), work_on(data, known), "absorb/0")
        again = learner_of(kind)
        again.load_state(learner.state())

    assert torch.isfinite(logits).all()
    taught = (learner.predict(data.public.x).argmax(-1) == (data.public.y + 1) % 10).double().mean()
    assert before > 0.25
    assert taught > 0.25
    assert torch.equal(again.predict(data.test.x), learner.predict(data.test.x))
    assert [note.startswith(f"{kind} takes no sample weights") for note in learner.notes] == (
        [True] if KINDS[kind][1] is None else []
    )


@pytest.mark.parametrize(
    ("model", "takes"),
    [
        (HistGradientBoostingClassifier(max_iter=3), True),
        (make_pipeline(StandardScaler(), HistGradientBoostingClassifier(max_iter=3)), True),
        (make_pipeline(SimpleImputer(), LogisticRegression()), True),
        (RandomForestClassifier(3), True),
        (make_pipeline(StandardScaler(), LogisticRegression()), False),
        (KNeighborsClassifier(), False),
    ],
)
def test_missing_values_are_for_those_that_take_them(model: Any, takes: bool) -> None:
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    assert takes_gaps(builder_of(model, "own", (3,), 2), x) is takes


@pytest.mark.parametrize("kind", ["calibrated", "neighbours", "vote with neighbours"])
def test_a_client_with_few_rows_of_a_class_takes_part(data, work_on, kind) -> None:
    few = replace(data, train=data.train.select(torch.arange(4)))
    learner = learner_of(kind)
    learner.train(Train("private", [CrossEntropy()]), work_on(few), "learn/0")
    logits = learner.predict(data.common_test.x)
    assert torch.isfinite(logits).all()
    assert set(logits.argmax(-1).tolist()) <= set(few.train.y.tolist())


def test_equal_seeds_give_equal_answers_in_parts_too(data, work_on) -> None:
    build = builder_of(
        make_pipeline(StandardScaler(), RandomForestClassifier(5)), "own", (1, 8, 8), 10
    )
    answers = []
    for _ in range(2):
        learner = SklearnLearner(build, 10, "own")
        learner.train(Train("private", [CrossEntropy()]), work_on(data), "learn/0")
        answers.append(learner.predict(data.test.x))
    assert torch.equal(*answers)
    assert seeded(voting(RandomForestClassifier()), 7).get_params()["0__random_state"] == 7


def test_rows_are_drawn_by_weight() -> None:
    labels = np.tile([0, 1, 2], 400)
    weight = np.tile([0.7, 0.2, 0.1], 400)
    sample = np.concatenate([np.arange(5), 5 + np.repeat(np.arange(400), 3)])
    labels, weight = np.append([3] * 5, labels), np.append([1.0] * 5, weight)
    rows = Rows(sample[:, None], labels, weight, sample)
    drawn = WeightedFit(KNeighborsClassifier, None).drawn(rows, 0, "absorb/0", 1, 2)

    assert drawn.y[:5].tolist() == [3] * 5
    assert drawn.x[:, 0].tolist() == list(range(405)), "each sample once"
    assert np.abs(np.bincount(drawn.y[5:]) / 400 - [0.7, 0.2, 0.1]).max() < 0.05
    same = WeightedFit(KNeighborsClassifier, None).drawn(rows, 0, "absorb/0", 1, 2)
    assert np.array_equal(same.y, drawn.y)


def test_repeated_rows_do_not_change_a_weighted_fit() -> None:
    x, y = np.random.default_rng(0).normal(size=(9, 3)), np.array([0, 0, 0, 0, 0, 0, 1, 1, 1])
    rows = Rows(x, y, np.ones(9), np.arange(9))
    plain = weighted_fit(LogisticRegression, 3).fitted(rows, 0).predict_proba(x)

    class Demanding(LogisticRegression):
        def fit(self, x: Any, y: Any, sample_weight: Any = None) -> Any:
            if np.bincount(y).min() < 10:
                raise ValueError("too few")
            return super().fit(x, y, sample_weight)

    more = weighted_fit(Demanding, 3).fitted(rows, 0).predict_proba(x)
    assert np.allclose(plain, more, atol=1e-4)
