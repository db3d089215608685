"""Networks are asked what they do, not what they are called."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fedkt.clients import TorchLearner
from fedkt.clients.learners.probe import Nature, examine
from fedkt.errors import ConfigError
from fedkt.models import build_model

from . import odd_networks as odd

X = torch.randn(12, 64, generator=torch.Generator().manual_seed(0))
RANDOM = "it draws random numbers, which come from one stream for all"
BESIDE = "its answers depend on the rows beside them, in evaluation too"


def nature(build: type[nn.Module], x: torch.Tensor = X) -> Nature:
    return examine(build, x, 10, build.__name__)


@pytest.mark.parametrize("build", [odd.Network, odd.GroupNormed, odd.Looking, odd.Cached])
def test_row_by_row(build) -> None:
    assert nature(build) == Nature()


@pytest.mark.parametrize("build", [odd.Reassigned, odd.InPlace, odd.Silent, odd.Centred])
def test_batches_count_as_a_whole(build) -> None:
    assert nature(build) == Nature(coupled=True)


@pytest.mark.parametrize(
    ("build", "refusal"), [(odd.FunctionalDropout, RANDOM), (odd.AlwaysCentred, BESIDE)]
)
def test_not_for_cohorts(build, refusal: str) -> None:
    assert nature(build).refusal == refusal


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet8", "resnet8-bn", "fedka-cnn"])
def test_the_reference_networks(name: str) -> None:
    shape = (1, 16, 16)
    x = torch.randn(5, *shape, generator=torch.Generator().manual_seed(0))
    found = examine(lambda: build_model(name, shape, 10), x, 10, name)
    assert found.coupled == (name in ("resnet8-bn", "fedka-cnn"))
    assert (found.refusal == RANDOM) == (name == "fedka-cnn")
    assert not found.open_ended


def test_what_follows_the_feature_layer() -> None:
    assert nature(odd.Scaled) == Nature(open_ended=True)


def test_one_sample_shows_nothing_so_every_row_counts() -> None:
    assert nature(odd.Network, X[:1]) == Nature(coupled=True)


@pytest.mark.parametrize(
    ("build", "kept"),
    [
        (odd.MovingMean, "'mean'"),
        (odd.NotPersistent, "'mean'"),
        (odd.Counting, "'steps'"),
        (odd.InAList, "'kept'"),
        (odd.OwnGenerator, "'noise'"),
    ],
)
def test_state_outside_the_state_dict_is_refused(build, kept: str) -> None:
    with pytest.raises(ConfigError, match=rf"keeps {kept} outside its state_dict.*register_buffer"):
        nature(build)


def test_state_in_the_world_is_refused() -> None:
    with pytest.raises(ConfigError, match="answers differently after other samples"):
        nature(odd.Worldwide)


def test_random_answers_are_refused() -> None:
    with pytest.raises(ConfigError, match="draws random numbers in evaluation"):
        nature(odd.AlwaysDropping)


def test_answers_in_training_are_logits_too() -> None:
    with pytest.raises(ConfigError, match=r"gives tuple in training.*logits \[4, 10\]"):
        nature(odd.Auxiliary)


def test_what_cannot_be_trained_is_one_line() -> None:
    with pytest.raises(ConfigError) as caught:
        nature(odd.OutOfInk)
    assert str(caught.value) == (
        "model 'OutOfInk' cannot be trained on samples of shape [64]: RuntimeError: out of ink"
    )


def test_a_learner_refuses_before_it_trains(data, work_on) -> None:
    from fedkt.objectives import CrossEntropy
    from fedkt.recipe import Train

    learner = TorchLearner(odd.MovingMean, 10, "moving")
    learner.reset(0, 0)
    before = learner.state()["model"]
    with pytest.raises(ConfigError, match="outside its state_dict"):
        learner.train(Train("private", [CrossEntropy()]), work_on(data), "learn/0")
    assert all(torch.equal(before[n], t) for n, t in learner.state()["model"].items())
