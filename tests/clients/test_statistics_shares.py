"""What clients share of their private images and of how well models do on them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from fedkt.clients import phases
from fedkt.data import Samples
from fedkt.errors import KnowledgeError
from fedkt.knowledge import Knowledge
from fedkt.objectives import CrossEntropy
from fedkt.recipe import Load, Recipe, Styles, Train, Validation, Weights

LEARN = [Load(), Train("private", [CrossEntropy()])]


def shared(learner, work, share: Styles | Validation) -> Knowledge:
    recipe = Recipe(learn=LEARN, share=[Weights(), share])
    return phases.share(learner, recipe, work)[share.name]


def test_the_overall_style_is_that_of_all_pixels(data, work_on, learner_of) -> None:
    style = shared(learner_of(), work_on(data), Styles()).tensors
    assert style["mean"].shape == style["std"].shape == (1, 1)
    assert float(style["mean"]) == pytest.approx(float(data.train.x.mean()), abs=1e-6)
    assert float(style["std"]) == pytest.approx(float(data.train.x.std(correction=0)), abs=1e-6)


def test_each_channel_has_its_own(data, work_on, learner_of) -> None:
    x = torch.rand(20, 3, 4, 5)
    colour = replace(data, train=Samples(x, data.train.y[:20], data.train.ids[:20]))
    style = shared(learner_of(), work_on(colour), Styles()).tensors
    assert torch.allclose(style["mean"][0], x.mean((0, 2, 3)))
    assert torch.allclose(style["std"][0], x.transpose(0, 1).flatten(1).std(-1, correction=0))


def test_single_styles_are_those_of_images_drawn_once(data, work_on, learner_of) -> None:
    learner, step = learner_of(), Styles("single", 5)
    first = shared(learner, work_on(data), step).tensors
    own = [(float(i.mean()), float(i.std(correction=0))) for i in data.train.x]
    for mean, std in zip(first["mean"], first["std"], strict=True):
        gap = min(abs(m - float(mean)) + abs(s - float(std)) for m, s in own)
        assert gap < 1e-6
    later = shared(learner, work_on(data, round_=4), step).tensors
    assert torch.equal(first["mean"], later["mean"]), "the same every round"
    other = shared(learner, work_on(data, client=2), step).tensors
    assert not torch.equal(first["mean"], other["mean"])


def test_fewer_images_than_styles(data, work_on, learner_of) -> None:
    few = replace(data, train=data.train.select(torch.arange(2)))
    style = shared(learner_of(), work_on(few), Styles("single", 5)).tensors
    assert style["mean"].shape == (5, 1)
    assert len(torch.unique(style["mean"])) == 2


def test_no_images_no_style(data, work_on, learner_of, empty) -> None:
    with pytest.raises(KnowledgeError, match="no style to share"):
        shared(learner_of(), work_on(replace(data, train=empty)), Styles())


def test_feature_vectors_are_refused(data, learner_of) -> None:
    recipe, learner = Recipe(share=[Styles()]), learner_of()
    assert phases.refuses(recipe, learner, data) is None
    reason = phases.refuses(recipe, learner, replace(data, input_shape=(64,)))
    assert reason is not None
    assert r"images (C, H, W) and its samples have shape [64]" in reason
    assert phases.refuses(Recipe(learn=LEARN, share=[Weights()]), learner, data) is None


# --- validation ------------------------------------------------------------------------------


def figures(learner, samples: Samples) -> list[float]:
    logits = learner.predict(samples.x)
    right = (logits.argmax(-1) == samples.y).float().mean()
    return [float(F.cross_entropy(logits, samples.y)), float(right)]


@pytest.fixture
def held_out(data):
    rows = torch.arange(len(data.train))
    return replace(
        data, train=data.train.select(rows[10:]), validation=data.train.select(rows[:10])
    )


@pytest.mark.parametrize("validated", [True, False])
def test_both_models_are_measured(held_out, work_on, learner_of, empty, validated) -> None:
    data = held_out if validated else replace(held_out, validation=empty)
    learner, other = learner_of(), learner_of()
    other.reset(8, 2)
    work = work_on(data, {"weights": other.weights()})
    learner.train(LEARN[1], work, "learn/1")
    told = shared(learner, work, Validation()).tensors
    samples = data.validation if validated else data.train
    assert told["own"].tolist() == pytest.approx(figures(learner, samples))
    assert told["received"].tolist() == pytest.approx(figures(other, samples))


def test_measuring_leaves_the_client_as_it_was(held_out, work_on, learner_of) -> None:
    learner, other, again = learner_of(), learner_of(), learner_of()
    work = work_on(held_out, {"weights": other.weights()})
    for one in (learner, again):
        one.train(LEARN[1], work, "learn/1")
    shared(learner, work, Validation())
    for one in (learner, again):  # moments of the optimiser would show in one more step
        one.train(LEARN[1], work, "learn/2")
    for name, tensor in learner.state()["model"].items():
        assert torch.equal(tensor, again.state()["model"][name])
