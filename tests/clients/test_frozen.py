"""A frozen backbone with a head: what travels, what is stored, and that every executor agrees."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import Tensor, nn

from fedkt.clients.cohorts import trial
from fedkt.clients.learners.base import Work
from fedkt.clients.learners.torch import TorchLearner
from fedkt.data.samples import ClientData, Samples
from fedkt.models.builder import builder_of
from fedkt.objectives import CrossEntropy, Proximal, weighted_mean
from fedkt.objectives.heads import Net
from fedkt.objectives.term import Batch, Outputs, Term
from fedkt.recipe import Load, Recipe, Train, Weights
from fedkt.rng import global_torch_stream
from fedkt.simulations.runs.costs import forward_flops, passes
from fedkt.training import TrainingOptions

SHAPE, CLASSES = (3, 8, 8), 4
X = torch.randn(24, *SHAPE, generator=torch.Generator().manual_seed(0))
Y = torch.arange(24) % CLASSES


class Finetuned(nn.Module):
    """A backbone with batch normalisation that stays in evaluation mode, and a head."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, width, 3),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.backbone.requires_grad_(False)
        self.head = nn.Linear(width, CLASSES)

    def train(self, mode: bool = True) -> Finetuned:
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, x: Tensor) -> Any:
        return (self.head(self.backbone(x)),)


def learner_of(thing: Any = Finetuned, name: str = "finetuned") -> TorchLearner:
    return TorchLearner(builder_of(thing, name, SHAPE, CLASSES), CLASSES, name)


def work(client: int = 0, known: Mapping[str, Any] | None = None) -> Work:
    data = Samples(X, Y, torch.arange(24))
    hand = ClientData(data, data.select(Y[:0]), data.select(Y[:0]), None, None, CLASSES, SHAPE)
    return Work(hand, known or {}, TrainingOptions(batch_size=5), 0, 1, client, rounds=2)


def test_frozen_parameters_neither_travel_nor_are_in_a_client_s_state() -> None:
    learner = learner_of()
    learner.follow(Recipe())
    learner.reset(0, 1)
    frozen = {n for n, p in learner.model.named_parameters() if not p.requires_grad}
    whole = learner.model.state_dict()

    assert frozen == {n for n in whole if n.startswith("backbone.") and "running" not in n} - {
        "backbone.1.num_batches_tracked"
    }
    assert not frozen & learner.weights().tensors.keys()
    assert not frozen & learner.state()["model"].keys()
    assert {"head.weight", "head.bias"} <= learner.weights().tensors.keys()


def test_the_sizes_of_weights_and_states_are_those_of_the_head() -> None:
    model = Finetuned(128)
    learner = learner_of(model)
    learner.follow(Recipe())
    kept = learner.state()["model"]
    before, after = len(save(model.state_dict())), len(save(kept))

    assert before > 600_000
    assert after < 5_000
    assert sum(t.numel() for t in learner.weights().tensors.values()) == 129 * CLASSES + 2 * 128


def test_frozen_parameters_are_the_same_for_all_clients() -> None:
    learner = learner_of()
    learner.follow(Recipe())
    answers = []
    for client in (1, 2):
        learner.reset(0, client)
        answers.append(learner.features(X))
        learner.train(Train("private", [CrossEntropy()]), work(client), "learn/0")
        answers.append(learner.features(X))
    assert all(torch.equal(answer, answers[0]) for answer in answers)


def test_clients_come_back_from_their_states() -> None:
    learner = learner_of()
    learner.follow(Recipe())
    learner.reset(0, 1)
    learner.train(Train("private", [CrossEntropy()]), work(1), "learn/0")
    state, logits = copy.deepcopy(learner.state()), learner.predict(X)
    learner.reset(0, 2)
    assert not torch.equal(learner.predict(X), logits)
    learner.load_state(state)
    assert torch.equal(learner.predict(X), logits)
    fresh = learner_of()
    fresh.load_state(state)
    assert torch.equal(fresh.predict(X), logits), "another process has the same backbone"


def test_another_backbone_is_another_architecture() -> None:
    with global_torch_stream(1, "a"):
        one = Finetuned()
    with global_torch_stream(2, "b"):
        two = Finetuned()
    assert learner_of(one).architecture == learner_of(copy.deepcopy(one)).architecture
    assert learner_of(one).architecture != learner_of(two).architecture


@pytest.mark.parametrize("terms", [[CrossEntropy()], [CrossEntropy(), Proximal(0.1)]])
def test_loop_and_cohort_agree(terms: list[Any]) -> None:
    learner = learner_of()
    recipe = Recipe(
        learn=[Load("weights"), Train("private", terms)],
        share=[Weights()],
    )
    samples = Samples(X, Y, torch.arange(24))
    assert trial.refuses(learner, recipe, samples, None) is None


class Projected(nn.Module):
    """A frozen projection without buffers, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(3 * 64, 32).requires_grad_(False)
        self.head = nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x.flatten(1)).relu())


@dataclass(frozen=True)
class Mutual(Term):
    """Deep mutual learning with a net beside the model."""

    net: Net = field(default_factory=lambda: Net("twin", "own"))

    def __call__(self, outputs: Outputs, batch: Batch, knowledge: Any) -> Tensor:
        logits = self.net(outputs.parameters, batch.x).logits
        own = nn.functional.cross_entropy(logits, batch.y, reduction="none")
        apart = (logits.log_softmax(-1) - outputs.logits.log_softmax(-1)).square().mean(-1)
        return weighted_mean(own + apart, batch.weight)


def mutual() -> Recipe:
    return Recipe(
        learn=[Load("twin"), Train("private", [CrossEntropy(), Mutual()])],
        share=[Weights("twin", of="heads.twin.")],
        heads=[Net("twin", "own")],
        world="heads.twin",
    )


def test_the_frozen_parameters_of_a_net_like_the_model_are_the_model_s() -> None:
    learner = learner_of(Projected, "projected")
    assert learner.refuses(mutual()) is None
    learner.reset(0, 1)
    twin = learner.heads["twin"]
    assert twin.backbone.weight.data_ptr() == learner.model.backbone.weight.data_ptr()
    names = {"head.weight", "head.bias"}
    assert learner.state()["model"].keys() == names | {f"heads.twin.{n}" for n in names}
    assert learner.weights(of="heads.twin.").tensors.keys() == {f"heads.twin.{n}" for n in names}

    before = copy.deepcopy(twin)
    learner.train(mutual().learn[1], work(1), "learn/0")
    assert torch.equal(twin.backbone.weight, before.backbone.weight)
    assert not torch.equal(twin.head.weight, before.head.weight)
    again = learner_of(Projected, "projected")
    again.follow(mutual())
    again.load_state(learner.state())
    assert torch.equal(again.predict(X, "heads.twin"), learner.predict(X, "heads.twin"))
    learner.follow(Recipe())
    assert learner.constants.keys() == {"backbone.weight", "backbone.bias"}


def test_loop_and_cohort_agree_on_a_net_with_frozen_parameters() -> None:
    samples = Samples(X, Y, torch.arange(24))
    learner = learner_of(Projected, "projected")
    assert trial.refuses(learner, mutual(), samples, None) is None


def test_a_backbone_in_evaluation_mode_stays_in_it() -> None:
    learner = learner_of()
    learner.follow(Recipe())
    learner.reset(0, 1)
    before = learner.model.backbone[1].running_mean.clone()
    learner.train(Train("private", [CrossEntropy()]), work(1), "learn/0")
    assert torch.equal(learner.model.backbone[1].running_mean, before)
    assert not learner.nature(X).coupled


def test_no_gradients_are_counted_in_front_of_the_head() -> None:
    model = builder_of(Finetuned, "finetuned", SHAPE, CLASSES)()
    head = 2 * 16 * CLASSES
    assert passes(model, SHAPE) == pytest.approx(1 + head / forward_flops(model, SHAPE))
    assert passes(model.requires_grad_(True), SHAPE) == 3
