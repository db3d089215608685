"""Training that diverges, and answers that are not finite, of single clients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.naive_bayes import GaussianNB
from torch import nn

from fedkt.clients import SklearnLearner
from fedkt.clients.cohorts import cohort
from fedkt.clients.cohorts.cohort import Row
from fedkt.clients.phases import evaluate, share
from fedkt.data import ClientData
from fedkt.errors import NotFiniteError
from fedkt.objectives import CrossEntropy
from fedkt.recipe import Predict, Recipe, Train, Validation

HUGE = 1e30
TRAIN = Train("private", [CrossEntropy()])


def diverging(learner: Any, data: ClientData, work_on: Any, executor: str) -> float | None:
    """Train where every weight overflows with the very last step; return the loss."""
    work = work_on(data, batch_size=1000, optimiser="sgd", learning_rate=3e38)
    if executor == "loop":
        return learner.train(TRAIN, work, "learn/0")
    (loss,) = cohort.train(learner, TRAIN, [Row(learner.state(), work)], "learn/0")
    return loss


@pytest.mark.parametrize("executor", ["loop", "cohort"])
def test_weights_that_break_with_the_last_step_count(
    learner_of, data, work_on, executor: str
) -> None:
    """The loss was taken before the step, and is finite."""
    large = replace(data, train=replace(data.train, x=data.train.x * 1e3))
    loss = diverging(learner_of("linear"), large, work_on, executor)
    assert loss is not None
    assert np.isnan(loss)


@pytest.mark.parametrize("executor", ["loop", "cohort"])
def test_moments_that_overflow_count(learner_of, data, work_on, executor: str) -> None:
    """Adam would not move the weights ever again: they stay finite, but the client is lost."""
    large = replace(data, train=replace(data.train, x=data.train.x * 1e25))
    learner, work = learner_of("linear"), work_on(large, batch_size=1000)
    if executor == "loop":
        loss = learner.train(TRAIN, work, "learn/0")
    else:
        (loss,) = cohort.train(learner, TRAIN, [Row(learner.state(), work)], "learn/0")
    assert all(bool(p.isfinite().all()) for p in learner.model.parameters())
    assert loss is not None
    assert np.isnan(loss)


class Masked(nn.Module):
    """A linear model with a constant buffer of minus infinity, as masks of attention have it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)
        self.register_buffer("mask", torch.full((3,), -torch.inf))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.flatten(1)) + self.mask.exp().sum()


@pytest.mark.parametrize("executor", ["loop", "cohort"])
def test_a_buffer_that_is_infinite_by_design_is_none_of_it(
    learner_of, data, work_on, executor: str
) -> None:
    learner = learner_of(Masked)
    if executor == "loop":
        loss = learner.train(TRAIN, work_on(data), "learn/0")
    else:
        (loss,) = cohort.train(learner, TRAIN, [Row(learner.state(), work_on(data))], "learn/0")
    assert loss is not None
    assert np.isfinite(loss)


# --- what is asked of a model that overflows ----------------------------------------------------


@pytest.fixture
def overflowing(learner_of) -> Any:
    """A learner with finite weights and without a finite answer."""
    learner = learner_of()
    weights = learner.weights()
    learner.load_weights(
        weights.with_tensors({n: torch.full_like(t, HUGE) for n, t in weights.tensors.items()})
    )
    return learner


@pytest.mark.parametrize("personalised", ["split", "matched"])
@pytest.mark.parametrize("left", ["test", "validation", "common_test"])
def test_no_accuracy_is_taken(overflowing, data, empty, personalised: str, left: str) -> None:
    only: dict[str, Any] = {"test": empty, "validation": empty, "common_test": None}
    data = replace(data, **{**only, left: getattr(data, left)})
    if personalised == "matched" and left == "test":
        assert evaluate(overflowing, data, personalised) == {}
        return
    with pytest.raises(NotFiniteError, match="answers hold NaN or infinity"):
        evaluate(overflowing, data, personalised)


@pytest.mark.parametrize("form", ["labels", "logits", "probabilities"])
def test_nothing_is_shared(overflowing, data, work_on, form: Any) -> None:
    with pytest.raises(NotFiniteError, match="answers hold NaN or infinity"):
        share(overflowing, Recipe(share=[Predict(form=form)]), work_on(data))


def test_no_loss_is_shared(overflowing, data, work_on) -> None:
    work = work_on(data, {"weights": overflowing.weights()})
    with pytest.raises(NotFiniteError, match="answers hold NaN or infinity"):
        share(overflowing, Recipe.sharing_weights(TRAIN, also=[Validation()]), work)


class Undecided(GaussianNB):
    """A classifier of scikit-learn's that answers NaN."""

    def predict_proba(self, x: Any) -> Any:
        return super().predict_proba(x) * np.nan


def test_nor_of_a_scikit_learn_model(data, work_on) -> None:
    learner = SklearnLearner(Undecided, 10, "undecided")
    learner.train(TRAIN, work_on(data), "learn/0")
    with pytest.raises(NotFiniteError, match="answers hold NaN or infinity"):
        evaluate(learner, data)
