from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from fedkt.clients import SklearnLearner
from fedkt.clients.learners.sklearn import FLOOR
from fedkt.data import Samples
from fedkt.data.priors import empirical_bayes_prior
from fedkt.errors import ConfigError
from fedkt.knowledge import Knowledge
from fedkt.objectives import KL, AdjustedCrossEntropy, CrossEntropy, Distil, Proximal, Supported
from fedkt.objectives.term import Target, Term, target_of
from fedkt.recipe import Load, Predict, Recipe, Train, Weighted, Weights
from fedkt.strategies.answers.fedmd import FedMD
from fedkt.strategies.answers.knfu import KnFu
from fedkt.strategies.weights.fedavg import FedAvg

LEARN = Train("private", [CrossEntropy()])
ABSORB = Train("public", [Distil(KL())])
BUILDS = {
    "forest": partial(RandomForestClassifier, n_estimators=10),
    "logistic": partial(LogisticRegression, max_iter=300),
    "tree": partial(DecisionTreeClassifier, max_depth=4),
}


def learner_of(name: str = "forest") -> SklearnLearner:
    return SklearnLearner(BUILDS[name], 10, name)


def targets(data, seed: int = 0, kind: str = "probabilities") -> dict[str, Knowledge]:
    """Teach that every public sample is of the class after its own."""
    right = torch.nn.functional.one_hot((data.public.y + 1) % 10, 10).float()
    values = 0.9 * right + 0.01
    if kind == "logits":
        values = values.log()
    return {"public": Knowledge.rows(kind, values)}


# --- answers -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(BUILDS))
def test_logits_are_finite_normalised_log_probabilities(data, work_on, name) -> None:
    learner = learner_of(name)
    learner.train(LEARN, work_on(data), "learn/0")
    logits = learner.predict(data.common_test.x)
    assert logits.shape == (100, 10)
    assert logits.dtype == torch.float32
    assert torch.isfinite(logits).all()
    assert torch.allclose(logits.exp().sum(-1), torch.ones(100), atol=1e-5)
    assert float(logits.min()) >= math.log(FLOOR / (1 + 10 * FLOOR)) - 1e-4


def test_answers_are_those_of_the_classifier(data, work_on) -> None:
    learner = learner_of("logistic")
    learner.train(LEARN, work_on(data), "learn/0")
    plain = BUILDS["logistic"]().fit(data.train.x.flatten(1).numpy(), data.train.y.numpy())
    by_hand = np.zeros((100, 10))
    by_hand[:, plain.classes_] = plain.predict_proba(data.common_test.x.flatten(1).numpy())
    by_hand = np.maximum(by_hand, FLOOR)
    by_hand /= by_hand.sum(1, keepdims=True)
    assert np.allclose(learner.predict(data.common_test.x).exp(), by_hand, atol=1e-5)


def test_before_the_first_fit_everything_is_equally_likely(data) -> None:
    logits = learner_of().predict(data.test.x)
    assert torch.allclose(logits, torch.full_like(logits, -math.log(10)))
    assert learner_of().predict(data.test.x[:0]).shape == (0, 10)


@pytest.mark.parametrize("name", list(BUILDS))
def test_a_client_of_one_class(data, work_on, name) -> None:
    same = data.train.select(torch.arange(6))
    one_class = Samples(same.x, torch.full((6,), 4), same.ids)
    learner = learner_of(name)
    learner.train(LEARN, work_on(replace(data, train=one_class)), "learn/0")
    assert learner.predict(data.common_test.x).argmax(-1).unique().tolist() == [4]
    learner.train(ABSORB, work_on(replace(data, train=one_class), targets(data)), "absorb/0")
    assert len(learner.predict(data.common_test.x).argmax(-1).unique()) > 2


def test_a_client_without_samples(data, work_on, empty) -> None:
    learner = learner_of()
    learner.train(LEARN, work_on(replace(data, train=empty)), "learn/0")
    assert torch.isfinite(learner.predict(data.test.x)).all()


@pytest.mark.parametrize("floor", [0.0, 0.05, 0.3])
def test_adjusted_answers_are_divided_by_the_floored_prior(data, work_on, floor: float) -> None:
    learner, plain = learner_of("logistic"), learner_of("logistic")
    learn = Train("private", [AdjustedCrossEntropy(floor)])
    learner.train(learn, work_on(data), "learn/0")
    plain.train(LEARN, work_on(data), "learn/0")
    prior = empirical_bayes_prior(data.class_counts).double()
    mixed = (1 - floor) * prior + floor / 10
    expected = plain.predict(data.test.x).double().exp() / mixed
    expected = expected / expected.sum(-1, keepdim=True)
    assert torch.allclose(learner.predict(data.test.x).double().exp(), expected, atol=1e-5)
    again = learner_of("logistic")
    again.load_state(learner.state())
    assert torch.equal(again.predict(data.test.x), learner.predict(data.test.x))


# --- absorbing -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(BUILDS))
@pytest.mark.parametrize("kind", ["probabilities", "logits"])
def test_absorbing_changes_the_predictions(data, work_on, name, kind) -> None:
    learner = learner_of(name)
    learner.train(LEARN, work_on(data), "learn/0")
    taught = (data.public.y + 1) % 10

    def agreement() -> float:
        return float((learner.predict(data.public.x).argmax(-1) == taught).double().mean())

    before = agreement()
    learner.train(ABSORB, work_on(data, targets(data, kind=kind)), "absorb/0")
    assert agreement() > before + 0.2


def test_refitting_is_a_weighted_fit_of_both_sets(data, work_on) -> None:
    learner = learner_of("logistic")
    values = torch.tensor([[0.7, 0.295, 0.005, *[0.0] * 7], [*[0.0] * 8, 0.5, 0.5]])
    fused = {"public": Knowledge.rows("probabilities", values, [3, 8])}
    learner.train(ABSORB, work_on(data, fused), "absorb/0")
    x = torch.cat([data.train.x, data.public.x[[3, 3, 8, 8]]]).flatten(1).numpy()
    y = np.concatenate([data.train.y.numpy(), [0, 1, 8, 9]])
    weight = np.concatenate([np.ones(len(data.train)), [0.7, 0.295, 0.5, 0.5]])
    plain = BUILDS["logistic"]().fit(x, y, sample_weight=weight)
    answers = plain.predict_proba(data.common_test.x.flatten(1).numpy())
    ours = learner.predict(data.common_test.x).exp().numpy()[:, plain.classes_]
    assert np.allclose(ours, answers, atol=2e-3)


def test_what_was_absorbed_takes_part_later(data, work_on) -> None:
    learner = learner_of("tree")
    learner.train(LEARN, work_on(data), "learn/0")
    learner.train(ABSORB, work_on(data, targets(data)), "absorb/0")
    taught = learner.predict(data.public.x)
    learner.train(LEARN, work_on(data, round_=2), "learn/0")
    assert torch.equal(learner.predict(data.public.x), taught)


def test_nothing_arrived_changes_nothing(data, work_on) -> None:
    learner = learner_of()
    learner.train(LEARN, work_on(data), "learn/0")
    before = learner.predict(data.common_test.x)
    learner.train(ABSORB, work_on(data), "absorb/0")
    assert torch.equal(learner.predict(data.common_test.x), before)


def test_no_epochs_no_work(data, work_on) -> None:
    learner = learner_of()
    learner.train(replace(LEARN, epochs=0), work_on(data), "learn/0")
    learner.train(replace(ABSORB, epochs=0), work_on(data, targets(data)), "absorb/0")
    assert torch.allclose(learner.predict(data.test.x), torch.tensor(-math.log(10)))


def test_the_labelled_public_set_can_be_learnt(data, work_on) -> None:
    learner = learner_of("tree")
    learner.train(Train("public", [CrossEntropy()]), work_on(data), "start/0")
    right = learner.predict(data.public.x).argmax(-1) == data.public.y
    alone = learner_of("tree")
    alone.train(LEARN, work_on(data), "learn/0")
    without = alone.predict(data.public.x).argmax(-1) == data.public.y
    assert float(right.double().mean()) > float(without.double().mean())


def test_labels_cannot_be_absorbed(data, work_on) -> None:
    votes = {"public": Knowledge.rows("labels", torch.zeros(50, dtype=torch.int64))}
    with pytest.raises(ConfigError, match="cannot absorb labels"):
        learner_of().train(ABSORB, work_on(data, votes), "absorb/0")


# --- randomness and state ------------------------------------------------------------------


def test_the_random_state_has_a_name(data, work_on) -> None:
    def answers(**names) -> torch.Tensor:
        learner = learner_of()
        np.random.seed(len(names))
        learner.train(LEARN, work_on(data, **names), "learn/0")
        return learner.predict(data.common_test.x)

    assert torch.equal(answers(), answers())
    assert not torch.equal(answers(), answers(client=2))
    assert not torch.equal(answers(), answers(seed=8))


def test_state_and_back(data, work_on, tmp_path) -> None:
    from fedkt import snapshot

    learner, again = learner_of(), learner_of()
    learner.train(LEARN, work_on(data), "learn/0")
    learner.train(ABSORB, work_on(data, targets(data)), "absorb/0")
    snapshot.save(tmp_path / "s", learner.state())
    again.load_state(snapshot.load(tmp_path / "s"))
    assert torch.equal(again.predict(data.test.x), learner.predict(data.test.x))
    for one in (learner, again):
        work = work_on(replace(data, train=data.train.select(torch.arange(20))), targets(data))
        one.train(ABSORB, work, "absorb/0")
    assert torch.equal(again.predict(data.test.x), learner.predict(data.test.x))


def test_reset_forgets_everything(data, work_on) -> None:
    learner = learner_of("tree")
    learner.train(ABSORB, work_on(data, targets(data)), "absorb/0")
    learner.reset(0, 0)
    learner.train(LEARN, work_on(data), "learn/0")
    fresh = learner_of("tree")
    fresh.train(LEARN, work_on(data), "learn/0")
    assert torch.equal(learner.predict(data.test.x), fresh.predict(data.test.x))


# --- refusals ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        (FedAvg().recipe(), "has no weights to exchange"),
        (Recipe(learn=[Load()], share=[Weights()]), "has no weights to exchange"),
        (
            Recipe(share=[Weights("w")], learn=[Train("private", [Proximal(1, "w")])]),
            "has no weights to exchange",
        ),
    ],
)
def test_recipes_it_refuses(recipe, reason) -> None:
    answer = learner_of().refuses(recipe)
    assert reason in answer
    assert "forest" in answer
    assert "\n" not in answer


@dataclass(frozen=True)
class Entropy:
    """A term that a classifier cannot follow."""

    part: ClassVar[str] = "objectives"

    def needs(self) -> tuple[str, ...]:
        return ()

    def __call__(self, outputs, batch, knowledge) -> torch.Tensor:
        return outputs.logits.sum()


@pytest.mark.parametrize("phase", ["start", "learn", "absorb"])
def test_terms_it_refuses(phase: str) -> None:
    recipe = Recipe(**{phase: [Train("private", [CrossEntropy(), Weighted(0.1, Entropy())])]})
    assert learner_of().refuses(recipe) == "a scikit-learn model (forest) cannot train on 'entropy'"


@pytest.mark.parametrize("strategy", [KnFu(), FedMD(transfer_epochs=1)])
def test_recipes_it_follows(strategy) -> None:
    assert learner_of().refuses(strategy.recipe()) is None


def test_it_has_no_weights() -> None:
    with pytest.raises(ConfigError, match="no weights to share"):
        learner_of().weights()
    with pytest.raises(ConfigError, match="cannot load weights"):
        learner_of().load_weights(Knowledge("weights", {}))


@pytest.mark.parametrize("build", [RidgeClassifier, SVC])
def test_classifiers_without_probabilities_are_refused(build) -> None:
    assert SklearnLearner.takes(build())
    with pytest.raises(ConfigError, match=r"no predict_proba: .* gives no probabilities"):
        SklearnLearner(build, 10, "other")


# --- temperature ---------------------------------------------------------------------------


def answers_at(temperature: float) -> tuple[torch.Tensor, dict[str, Knowledge]]:
    """Return logits and what a share with that temperature makes of them."""
    logits = 3 * torch.randn(50, 10, generator=torch.Generator().manual_seed(3))
    softened = torch.softmax(logits / temperature, -1)
    return logits, {"public": Knowledge.rows("probabilities", softened)}


@pytest.mark.parametrize("name", list(BUILDS))
@pytest.mark.parametrize("temperature", [0.5, 3.0, 20.0, 300.0])
def test_softened_targets_are_refitted_unsoftened(data, work_on, name, temperature) -> None:
    """A network's answer at T = 1 is fitted too, where its answer at T meets the target."""
    logits, softened = answers_at(temperature)
    learner, plain = learner_of(name), learner_of(name)
    step = Train("public", [Distil(KL(temperature))])
    learner.train(step, work_on(data, softened), "absorb/0")
    targets = learner.state()["absorbed"]["targets"]
    # Float32 probabilities near 1 / C carry T times less of the logits.
    assert torch.allclose(targets, logits.softmax(-1), atol=1e-6 * max(temperature, 1))
    unsoftened = {"public": Knowledge.rows("probabilities", targets)}
    plain.train(ABSORB, work_on(data, unsoftened), "absorb/0")
    assert torch.equal(plain.predict(data.common_test.x), learner.predict(data.common_test.x))


def test_targets_at_temperature_one_are_taken_bit_for_bit(data, work_on) -> None:
    learner, fused = learner_of(), targets(data)
    learner.train(ABSORB, work_on(data, fused), "absorb/0")
    assert torch.equal(learner.state()["absorbed"]["targets"], fused["public"].values)


@pytest.mark.parametrize("zeros", [1, 9])
def test_certain_targets_stay_certain(data, work_on, zeros: int) -> None:
    sure = torch.full((50, 10), 1 / (10 - zeros))
    sure[:, :zeros] = 0
    learner = learner_of()
    step = Train("public", [Distil(KL(50.0))])
    fused = {"public": Knowledge.rows("probabilities", sure)}
    learner.train(step, work_on(data, fused), "absorb/0")
    assert torch.allclose(learner.state()["absorbed"]["targets"], sure, atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_logits_are_read_at_temperature_one(data, work_on, temperature: float) -> None:
    logits, _ = answers_at(1.0)
    learner = learner_of("tree")
    step = Train("public", [Distil(KL(temperature))])
    work = work_on(data, {"public": Knowledge.rows("logits", logits)})
    learner.train(step, work, "absorb/0")
    assert torch.equal(learner.state()["absorbed"]["targets"], logits.softmax(-1))


# --- labels with gaps ----------------------------------------------------------------------


class Strict(GaussianNB):
    """Refuses labels that are not 0, ..., k - 1, as the classifiers of some libraries do."""

    def fit(self, x, y, sample_weight=None):
        classes = np.unique(y)
        if not np.array_equal(classes, np.arange(len(classes))):
            raise ValueError(f"Invalid classes inferred from unique values of y: {classes}")
        return super().fit(x, y, sample_weight)


def holding(data, *classes: int):
    """Return the data of a client that holds these classes only."""
    kept = torch.isin(data.train.y, torch.tensor(classes))
    return replace(data, train=data.train.select(kept.nonzero()[:, 0]))


def two_classes(data) -> list[int]:
    """Return the client's two commonest classes, of which 0 is none."""
    counts = torch.bincount(data.train.y, minlength=10)
    counts[0] = 0
    return sorted(counts.topk(2).indices.tolist())


@pytest.mark.parametrize("kind", ["probabilities", "logits"])
def test_a_strict_classifier_takes_clients_that_lack_classes(data, work_on, kind) -> None:
    first, second = two_classes(data)
    some = holding(data, first, second)
    learner = SklearnLearner(Strict, 10, "strict")
    learner.train(LEARN, work_on(some), "learn/0")
    assert learner.predict(data.common_test.x).argmax(-1).unique().tolist() == [first, second]
    plain = GaussianNB().fit(some.train.x.flatten(1).numpy(), some.train.y.numpy())
    by_hand = plain.predict_proba(data.common_test.x.flatten(1).numpy())
    by_hand = np.maximum(by_hand, FLOOR) / np.maximum(by_hand, FLOOR).sum(1, keepdims=True)
    answers = learner.predict(data.common_test.x).exp()[:, [first, second]]
    assert np.allclose(answers / answers.sum(1, keepdims=True), by_hand, atol=1e-5)
    learner.train(ABSORB, work_on(some, targets(data, kind=kind)), "absorb/0")
    assert len(learner.predict(data.common_test.x).argmax(-1).unique()) > 2


def test_the_classes_are_part_of_the_state(data, work_on) -> None:
    some = holding(data, *two_classes(data))
    learner, other = SklearnLearner(Strict, 10, "strict"), SklearnLearner(Strict, 10, "strict")
    learner.train(LEARN, work_on(some), "learn/0")
    other.load_state(learner.state())
    assert torch.equal(other.predict(data.test.x), learner.predict(data.test.x))


def test_what_a_term_teaches_is_asked_of_the_term() -> None:
    @dataclass(frozen=True)
    class Distant(Distil):
        """A term of a user's own."""

        name: ClassVar[str] = "distant"

    def recipe(term: Term) -> Recipe:
        return Recipe(share=[Predict(), Predict(name="votes")], absorb=[Train("public", [term])])

    learner = learner_of()
    assert target_of(Distant(KL(3.0))) == Target("public", temperature=3.0)
    assert learner.refuses(recipe(Distant())) is None
    assert "cannot train on 'supported'" in str(learner.refuses(recipe(Supported())))
