"""Cohorts are used only where they give what the loop gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedkt.clients import TorchLearner, TrainingOptions, Work
from fedkt.clients.cohorts import cohort, trial
from fedkt.clients.cohorts.cohort import Row
from fedkt.data import ClientData, Samples
from fedkt.knowledge import Knowledge
from fedkt.objectives import KL, CrossEntropy, Distil, Proximal
from fedkt.objectives.heads import Head
from fedkt.objectives.term import Batch, Outputs
from fedkt.recipe import ClassLogits, Predict, Prototypes, Recipe, Share, Step, Train, Weights
from fedkt.registry import register
from fedkt.shares import Asked as AskedOf
from fedkt.strategies.answers.compose import Compose
from fedkt.strategies.domains.fedka_free import FedKAFree
from fedkt.upload_check import Expected

from . import odd_networks as odd


def some(seed: int, n: int) -> Samples:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 64, generator=generator)
    return Samples(x, torch.randint(10, (n,), generator=generator), torch.arange(n))


SAMPLES, PUBLIC = some(0, 20), some(1, 30)
DISTILLING = Recipe(
    learn=[Train("private", [CrossEntropy()], epochs=2)],
    share=[Predict()],
    absorb=[Train("public", [Distil(KL(2.0))], rehearse=[CrossEntropy()])],
)
AVERAGING = Recipe.sharing_weights(Train("private", [CrossEntropy(), Proximal(0.1)]))


class Plain:
    """What the terms below have in common."""

    part: ClassVar[str] = "objectives"

    def needs(self) -> tuple[str, ...]:
        return ()


@register
@dataclass(frozen=True)
class UnweightedMean(Plain):
    """A mean that counts padding."""

    name: ClassVar[str] = "test-unweighted-mean"

    def __call__(self, outputs: Outputs, batch: Batch, knowledge: Mapping[str, Knowledge]) -> Any:
        return F.cross_entropy(outputs.logits, batch.y)


@register
@dataclass(frozen=True)
class Reclassified(Plain):
    """What the last layer makes of detached features."""

    name: ClassVar[str] = "test-reclassified"
    needs_features: ClassVar[bool] = True

    def __call__(self, outputs: Outputs, batch: Batch, knowledge: Mapping[str, Knowledge]) -> Any:
        assert outputs.classify is not None
        assert outputs.features is not None
        losses = F.cross_entropy(
            outputs.classify(outputs.features.detach()), batch.y, reduction="none"
        )
        return (losses * batch.weight).sum() / batch.weight.sum().clamp_min(1e-12)


@register
@dataclass(frozen=True)
class Noisy(Plain):
    """A term that draws random numbers."""

    name: ClassVar[str] = "test-noisy"

    def __call__(self, outputs: Outputs, batch: Batch, knowledge: Mapping[str, Knowledge]) -> Any:
        noise = torch.rand_like(outputs.logits[:, 0])
        return (noise * batch.weight * outputs.logits.square().sum(1)).mean()


def refuses(build: Any, recipe: Recipe = DISTILLING) -> str | None:
    return trial.refuses(TorchLearner(build, 10, "own"), recipe, SAMPLES, PUBLIC)


@pytest.mark.parametrize("recipe", [DISTILLING, AVERAGING])
@pytest.mark.parametrize(
    "build", [odd.Network, odd.GroupNormed, odd.InPlace, odd.Centred, odd.Cached, odd.Silent]
)
def test_networks_that_do_the_same_both_ways(build, recipe: Recipe) -> None:
    assert refuses(build, recipe) is None


def test_a_buffer_that_is_set_anew_is_lost_in_a_cohort() -> None:
    assert (
        refuses(odd.Reassigned) == "in step learn/0 a cohort changes mean differently from the loop"
    )


@pytest.mark.parametrize(
    ("build", "says"),
    [(odd.FunctionalDropout, "draws random numbers"), (odd.AlwaysCentred, "beside them")],
)
def test_what_trying_the_network_has_shown(build, says: str) -> None:
    assert says in str(refuses(build))


def test_a_mean_that_counts_padding() -> None:
    recipe = Recipe(learn=[Train("private", [UnweightedMean()])])
    assert "differently from the loop" in str(refuses(odd.Network, recipe))
    # Where no batch is padded it counts none.
    assert refuses(odd.InPlace, recipe) is None


def test_random_terms() -> None:
    recipe = Recipe(learn=[Train("private", [Noisy()])])
    assert "random" in str(refuses(odd.Network, recipe))


def test_too_few_samples_are_dealt_twice() -> None:
    learner = TorchLearner(odd.Network, 10, "own")
    assert trial.refuses(learner, DISTILLING, some(0, 2), PUBLIC) is None
    assert trial.refuses(TorchLearner(odd.Network, 10, "own"), DISTILLING, SAMPLES, None) is None


# --- classify -----------------------------------------------------------------------------------


class InAHead(odd.Network):
    """Features lie before a part with batch normalisation."""

    feature_layer = "tail"

    def begin(self) -> None:
        self.tail = nn.Sequential(nn.Linear(12, 12), nn.BatchNorm1d(12), nn.Linear(12, 10))

    def forward(self, x: Tensor) -> Any:
        return self.tail(torch.tanh(self.body(x.flatten(1))))


def federation(sizes: tuple[int, ...]) -> list[Work]:
    options, none = TrainingOptions("sgd", 0.05, 0.0, batch_size=8), some(0, 0)
    data = [ClientData(some(k, n), none, none, None, None, 10, (64,)) for k, n in enumerate(sizes)]
    return [Work(d, {}, options, 0, 1, k) for k, d in enumerate(data)]


@pytest.mark.parametrize("build", [odd.Network, odd.GroupNormed, InAHead])
def test_classify_is_the_client_s_own_layer(build) -> None:
    """Only the last layer learns, from each client's own features, in both executors."""
    learner = TorchLearner(build, 10, "own")
    learner.follow(Recipe(heads=[Head("domain", (5, 2))]))
    step = Train("private", [Reclassified()], epochs=3)
    loop, begins, rows = [], [], []
    for work in federation((16, 16, 16)):
        learner.reset(0, work.client)
        begins.append(learner.state())
        rows.append(Row(learner.state(), work))
        learner.train(step, work, "learn/0")
        loop.append(learner.state())
    cohort.train(learner, step, rows, "learn/0")
    last = "tail." if build is InAHead else "head."
    for begin, one, row in zip(begins, loop, rows, strict=True):
        for name, tensor in one["model"].items():
            theirs = row.state["model"][name]
            assert torch.allclose(tensor, theirs, atol=1e-5), name
            if name.startswith(last) and name.endswith("weight"):
                assert float((tensor - begin["model"][name]).abs().max()) > 1e-3, name


@register
@dataclass(frozen=True)
class Asked(Plain):
    """Notes what classify answers with other weights, and what it leaves behind."""

    name: ClassVar[str] = "test-asked"
    needs_features: ClassVar[bool] = True

    def __call__(self, outputs: Outputs, batch: Batch, knowledge: Mapping[str, Knowledge]) -> Any:
        assert outputs.classify is not None
        assert outputs.features is not None
        zero = {n: torch.zeros_like(t) for n, t in outputs.parameters.items()}
        bias = {**zero, "head.bias": torch.arange(10.0), "stranger": torch.zeros(3)}
        NOTED.append(outputs.classify(outputs.features, bias))
        NOTED.append((outputs.classify(outputs.features) - outputs.logits).detach())
        return outputs.logits.sum() * 0.0


NOTED: list[Tensor] = []


def test_classify_with_other_weights() -> None:
    learner = TorchLearner(odd.Network, 10, "own")
    learner.reset(0, 0)
    NOTED.clear()
    learner.train(Train("private", [Asked()]), federation((8,))[0], "learn/0")
    assert torch.equal(NOTED[0], torch.arange(10.0).expand(8, 10))
    assert float(NOTED[1].abs().max()) < 1e-5


def test_classify_leaves_running_statistics_alone() -> None:
    ends = []
    for terms in ([CrossEntropy()], [CrossEntropy(), Asked()]):
        learner = TorchLearner(InAHead, 10, "own")
        learner.reset(0, 0)
        learner.train(Train("private", terms), federation((16,))[0], "learn/0")
        ends.append(learner.state()["model"])
    assert int(ends[0]["tail.1.num_batches_tracked"]) == 2
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_classify_needs_the_layer_to_be_the_last() -> None:
    from fedkt.errors import ConfigError

    learner = TorchLearner(odd.Scaled, 10, "own")
    learner.reset(0, 0)
    with pytest.raises(ConfigError, match="Scaled goes on behind the layer"):
        learner.train(Train("private", [Reclassified()]), federation((8,))[0], "learn/0")
    assert refuses(odd.Scaled, Recipe(learn=[Train("private", [CrossEntropy()])])) is None


def test_weights_are_made_up_for_terms_that_read_them() -> None:
    assert any(isinstance(share, Weights) for share in AVERAGING.share)
    learner = TorchLearner(odd.Network, 10, "own")
    how: Any = torch.float64, {}
    (work, *_) = trial._works(learner, AVERAGING, SAMPLES, None, (7,), *how)
    assert set(work.knowledge) == {"weights"}


@register
@dataclass(frozen=True)
class UnweightedClasses(Plain):
    """A mean over rows of classes that counts padding."""

    name: ClassVar[str] = "test-unweighted-classes"

    def needs(self) -> tuple[str, ...]:
        return ("class-logits",)

    def __call__(self, outputs: Outputs, batch: Batch, knowledge: Mapping[str, Knowledge]) -> Any:
        teacher, known = knowledge["class-logits"].known_at(batch.y)
        return ((outputs.logits - teacher).square().mean(-1) * known).mean()


def test_terms_on_what_classes_share_are_tried() -> None:
    recipe = Recipe(learn=[Train("private", [UnweightedClasses()])], share=[ClassLogits()])
    learner = TorchLearner(odd.Network, 10, "own")
    reason = trial.refuses(learner, recipe, SAMPLES, PUBLIC)
    assert reason is not None
    assert "a cohort changes" in reason


@pytest.mark.parametrize(
    "strategy", [Compose(form="labels", fusion="vote"), FedKAFree(votes="majority")]
)
def test_what_a_vote_gives_is_tried(strategy: Any) -> None:
    """Labels are shared, and probabilities come back."""
    assert refuses(odd.Network, strategy.recipe()) is None


@register(name="test-moments")
@dataclass(frozen=True)
class Moments(Share):
    """A stranger's share: mean and variance of what the model says of each class."""

    name: str = "moments"
    kind: ClassVar[Any] = "statistics"

    def make(self, model: Any, work: Any) -> Knowledge:
        logits = model.predict(work.data.train.x)
        return Knowledge("statistics", {"mean": logits.mean(0), "variance": logits.var(0)})

    def expected(self, asked: AskedOf) -> Expected:
        return Expected("statistics", None, dict.fromkeys(("mean", "variance"), (10,)))


@register
@dataclass(frozen=True)
class ToMoments(Plain):
    """A stranger's term on it, whose mean counts padding or not."""

    name: ClassVar[str] = "test-to-moments"
    padding: bool = False

    def needs(self) -> tuple[str, ...]:
        return ("moments",)

    def __call__(self, outputs: Outputs, batch: Batch, knowledge: Mapping[str, Knowledge]) -> Any:
        if "moments" not in knowledge:
            return outputs.logits.sum() * 0.0
        moments = knowledge["moments"].tensors
        losses = ((outputs.logits - moments["mean"]).square() / (moments["variance"] + 1)).sum(-1)
        weight = torch.ones_like(batch.weight) if self.padding else batch.weight
        return (losses * weight).sum() / weight.sum().clamp_min(1e-12)


@pytest.mark.parametrize("padding", [False, True])
def test_a_stranger_s_share_is_made_up_for_a_stranger_s_term(padding: bool) -> None:
    recipe = Recipe(learn=[Train("private", [ToMoments(padding)])], share=[Moments()])
    assert (refuses(odd.Network, recipe) is not None) is padding


def test_made_up_knowledge_has_the_same_rows_for_all() -> None:
    shares = [ClassLogits(), Prototypes(), Predict(partial=True)]
    recipe, learner = Recipe(share=shares), TorchLearner(odd.Network, 10, "own")
    how: Any = torch.float64, {}
    works = list(trial._works(learner, recipe, SAMPLES, PUBLIC, (7, 6, 4), *how))
    for name, rows in (("class-logits", 10), ("prototypes", 10), ("public", 17)):
        assert [len(work.knowledge[name].values) for work in works] == [rows] * 3
    assert all(work.knowledge["prototypes"].absent > 2 for work in works)


@register(name="training-and-more")
@dataclass(frozen=True)
class AndMore(Step):
    """A training that does more than it says."""

    shrink: float = 1.0
    keeps_more: bool = False

    def as_train(self):
        return Train("private", [CrossEntropy()], epochs=2)

    def run(self, learner, work, stream):
        loss = learner.train(self.as_train(), work, stream)
        weights = learner.weights()
        shrunk = {name: self.shrink * tensor for name, tensor in weights.tensors.items()}
        if self.shrink != 1:
            learner.load_weights(weights.with_tensors(shrunk))
        if self.keeps_more:
            work.keep("more", 1.0)
        return loss


def test_a_step_that_does_more_than_its_training_is_left_to_the_loop() -> None:
    said = [
        refuses(odd.Network, Recipe(learn=[step]))
        for step in (AndMore(), AndMore(shrink=0.5), AndMore(keeps_more=True))
    ]
    assert said[0] is None
    assert "learn/0 a cohort changes" in str(said[1])
    assert said[2] == "in step learn/0 a cohort keeps nothing, and the loop does"


def test_least_steps_are_not_tried_in_full() -> None:
    recipe = Recipe(learn=[Train("private", [CrossEntropy()], epochs=0, least_steps=500)])
    ((_, step, training),) = trial._steps(recipe)
    assert step is training
    assert (training.epochs, training.least_steps) == (1, 0)
