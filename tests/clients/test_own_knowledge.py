"""What a client keeps for itself: by the step Remember, and by work.keep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from fedkt.clients import TrainingOptions, Work
from fedkt.clients.cohorts import cohort, trial
from fedkt.clients.cohorts.cohort import Row
from fedkt.clients.learners.making import make_learner
from fedkt.clients.phases import refuses, run_step
from fedkt.data import ClientData, Samples
from fedkt.errors import ConfigError, KnowledgeError
from fedkt.knowledge import Knowledge
from fedkt.objectives import MSE, Batch, CrossEntropy, Distil, Outputs, Proximal
from fedkt.recipe import Load, Predict, Recipe, Remember, Step, Train, Weights
from fedkt.recipe.budget import alone
from fedkt.registry import register
from fedkt.training import Trained

BEFORE = Predict(on="private", form="logits", name="before")
CONSISTENT = Train("private", [CrossEntropy(), Distil(MSE(), source="before")], epochs=2)


def parties(learner_of, *sizes: int) -> tuple[Any, list[Any], list[Work]]:
    """A learner, and the states and work of clients of some sizes."""
    learner, states, works = learner_of("mlp"), [], []
    for client, size in enumerate(sizes):
        generator = torch.Generator().manual_seed(client)
        x = torch.randn(size, 1, 8, 8, generator=generator)
        y = torch.randint(10, (size,), generator=generator)
        samples = Samples(x, y, 1000 * client + 3 * torch.arange(size).flip(0))
        none = samples.select(torch.arange(0))
        data = ClientData(samples, none, none, None, None, 10, (1, 8, 8))
        works.append(Work(data, {}, TrainingOptions("sgd", 0.05, 0.0, batch_size=8), 7, 1, client))
        learner.reset(7, client)
        states.append(learner.state())
    return learner, states, works


def test_answers_for_private_samples_belong_to_their_ids(learner_of) -> None:
    learner, _, (work,) = parties(learner_of, 11)
    assert Remember(BEFORE).run(learner, work, "learn/0") is None
    kept, samples = work.knowledge["before"], work.data.train
    assert kept.kind == "logits"
    assert torch.equal(kept.at(samples.ids), learner.predict(samples.x))
    assert work.own == {"before": kept}


def test_a_sample_that_is_held_twice_has_one_row(learner_of) -> None:
    learner, _, (work,) = parties(learner_of, 6)
    twice = work.data.train.select(torch.tensor([4, 1, 4, 0]))
    work = replace(work, data=replace(work.data, train=twice))
    Remember(BEFORE).run(learner, work, "learn/0")
    kept = work.knowledge["before"]
    assert len(kept.values) == 3
    assert torch.equal(kept.at(twice.ids), learner.predict(twice.x))


def test_the_executors_agree_on_private_rows_of_different_number(learner_of) -> None:
    learner, states, works = parties(learner_of, 20, 13, 8)
    loop, rows = [], []
    for state, work in zip(states, works, strict=True):
        learner.load_state(state)
        Remember(BEFORE).run(learner, work, "learn/0")
        learner.train(CONSISTENT, work, "learn/1")
        loop.append(learner.state()["model"])
        rows.append(Row(state, replace(work, done=[])))
    cohort.train(learner, CONSISTENT, rows, "learn/1")
    for model, row, work in zip(loop, rows, works, strict=True):
        for name, tensor in model.items():
            assert torch.allclose(tensor, row.state["model"][name], atol=1e-5), name
        assert row.work.done == work.done


def test_private_rows_of_different_number_are_stacked(learner_of) -> None:
    learner, _, works = parties(learner_of, 20, 13)
    for work in works:
        Remember(BEFORE).run(learner, work, "learn/0")
    tasks = [cohort._task(CONSISTENT, work, "learn/1", False, {}) for work in works]
    assert tasks[0] is not None
    assert tasks[1] is not None
    assert tasks[0].kind == tasks[1].kind


def test_a_trial_keeps_what_a_client_keeps(learner_of) -> None:
    learner, _, (work,) = parties(learner_of, 17)
    terms = [CrossEntropy(), Proximal(0.1, "old"), Distil(MSE(), source="before")]
    recipe = Recipe(learn=[Train("private", terms), Remember(BEFORE), Remember(Weights("old"))])
    assert recipe.needs("learn") == ()
    (tried, *_) = trial._works(learner, recipe, work.data.train, None, (7,), torch.float64, {})
    assert set(tried.own) == {"before", "old"}
    assert trial.refuses(learner, recipe, work.data.train, None) is None


def test_another_name(learner_of) -> None:
    learner, _, (work,) = parties(learner_of, 5)
    step = Remember(Weights(), name="old")
    assert step.keeps() == ("old",)
    step.run(learner, work, "learn/0")
    assert list(work.own) == ["old"]
    assert Recipe.from_json(Recipe(learn=[step]).to_json()).learn == (step,)


def test_the_server_does_not_owe_what_a_client_keeps() -> None:
    near = Train("private", [CrossEntropy(), Proximal(0.1, "old")])
    recipe = Recipe(
        learn=[Load("weights"), near, Remember(Weights("old"))],
        share=[Weights()],
        absorb=[Load("weights")],
    )
    assert (recipe.needs("learn"), recipe.keeps) == (("weights",), ("old",))
    with pytest.raises(ConfigError, match="reads knowledge 'old' but shares none"):
        Recipe(learn=[near])


# --- work.keep ------------------------------------------------------------------------------


def test_what_is_kept_is_a_copy_in_one_layout(learner_of) -> None:
    _, _, (work,) = parties(learner_of, 5)
    image = torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    work.keep("image", {"x": image, "n": (1, "two")})
    before = image.clone()
    image.zero_()
    kept = work.knowledge["image"]
    assert torch.equal(kept["x"], before)
    assert kept["x"].is_contiguous()
    assert kept["n"] == [1, "two"]  # as it comes back from a file
    with pytest.raises(ConfigError, match="cannot save a set"):
        work.keep("bad", {1})


def test_a_term_reads_knowledge_only(learner_of) -> None:
    learner, _, (work,) = parties(learner_of, 5)
    work.keep("before", 3)
    with pytest.raises(KnowledgeError, match="reads 'before', which is kept as int"):
        learner.train(CONSISTENT, work, "learn/0")


def test_trained(learner_of) -> None:
    """Steps, samples and learning rates of the last training, equal in both executors."""
    learner, states, works = parties(learner_of, 20, 13)
    step = Train("private", [CrossEntropy()], epochs=2, rate=0.5)
    assert works[0].trained is None
    for state, work in zip(states, works, strict=True):
        learner.load_state(state)
        learner.train(replace(step, epochs=1), work, "learn/0")
        learner.train(step, work, "learn/1")
    assert works[0].trained == Trained(6, 40, pytest.approx(6 * 0.025))
    assert works[1].trained == Trained(4, 26, pytest.approx(4 * 0.025))
    rows = [Row(s, replace(w, done=[])) for s, w in zip(states, works, strict=True)]
    cohort.train(learner, step, rows, "learn/1")
    assert [row.work.trained for row in rows] == [work.trained for work in works]
    learner.train(Train("public", [Distil()]), works[0], "absorb/0")
    assert works[0].trained == Trained()


# --- scikit-learn ------------------------------------------------------------------------------


def test_a_forest_keeps_answers_and_no_weights(learner_of) -> None:
    _, _, (work,) = parties(learner_of, 30)
    forest = make_learner("forest", (1, 8, 8), 10)
    forest.reset(7, 0)
    forest.train(Train("private", [CrossEntropy()]), work, "learn/0")
    keeping = Recipe(learn=[Train("private", [CrossEntropy()]), Remember(BEFORE)])
    assert refuses(keeping, forest, work.data) is None
    Remember(BEFORE).run(forest, work, "learn/1")
    assert work.knowledge["before"].values.shape == (30, 10)
    refusal = refuses(Recipe(learn=[Remember(Weights("old"))]), forest, work.data)
    assert refusal == "a scikit-learn model (forest) has no weights to remember"


# --- the equal budget ----------------------------------------------------------------------------


@register
@dataclass(frozen=True)
class Counting:
    """A term that counts the samples that it sees."""

    part: ClassVar[str] = "objectives"
    name: ClassVar[str] = "test-counting"

    def needs(self) -> tuple[str, ...]:
        return ()

    def __call__(
        self, outputs: Outputs, batch: Batch, knowledge: Mapping[str, Knowledge]
    ) -> Tensor:
        SEEN.append(len(batch.x))
        return outputs.logits.sum() * 0.0


SEEN: list[int] = []


@pytest.mark.parametrize(
    "step",
    [
        Train("private", [Counting()], epochs=3),
        Train("private", [Counting()], samples=9, epochs=2),
        Train("private", [Counting()], samples=99),
        Train("private", [Counting()], epochs=4, pace="public"),
        Train("public", [CrossEntropy()], rehearse=[Counting()], epochs=3, samples=25),
        Train("public", [CrossEntropy()], rehearse=[Counting()], epochs=4, batch_size=7),
        Train("public", [CrossEntropy()], epochs=3),
        Remember(Predict(name="kept")),
    ],
)
def test_a_step_says_its_private_budget(learner_of, step: Any) -> None:
    learner, _, (work, other) = parties(learner_of, 21, 40)
    public = Samples(other.data.train.x, other.data.train.y, torch.arange(40))
    work = replace(work, data=replace(work.data, public=public))
    sizes = work.options
    SEEN.clear()
    step.run(learner, work, "learn/0")
    assert step.budget(21, 40, sizes) == sum(SEEN)
    plain = alone(Recipe(learn=[step])).learn
    assert sum(s.budget(21, 40, sizes) for s in plain) == step.budget(21, 40, sizes)


@dataclass(frozen=True)
class Secretly(Step):
    """A step that trains and does not say so."""

    def run(self, learner, work, stream):
        return learner.train(Train("private", [CrossEntropy()]), work, stream)


def test_a_step_that_trains_says_so(learner_of) -> None:
    learner, _, (work,) = parties(learner_of, 16)
    learner.reset(0, 0)
    with pytest.raises(ConfigError, match="the step Secretly trains and its as_train"):
        run_step(learner, Secretly(), work, "learn/0")
