"""What terms may ask: the network with other weights, and random numbers of the batch."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedkt.clients import TorchLearner, TrainingOptions, Work
from fedkt.clients.cohorts import cohort
from fedkt.clients.cohorts.cohort import Row
from fedkt.data import ClientData, Samples
from fedkt.errors import ConfigError, KnowledgeError
from fedkt.knowledge import Knowledge
from fedkt.objectives import Batch, CrossEntropy, Outputs, weighted_mean
from fedkt.objectives.heads import Head, apply_head
from fedkt.recipe import Recipe, Train
from fedkt.registry import register

SIZES = (20, 13, 16)


class Normed(nn.Module):
    """Batch normalisation before the features, dropout where it is wanted."""

    dropout = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.body, self.norm = nn.Linear(6, 8), nn.BatchNorm1d(8)
        self.drop, self.head = nn.Dropout(self.dropout), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Any:
        return self.head(torch.tanh(self.drop(self.norm(self.body(x)))))


class Dropped(Normed):
    dropout = 0.5


class Plain(Normed):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.Identity()


@dataclass(frozen=True)
class Watching:
    """A term that notes what it sees and adds nothing."""

    part: ClassVar[str] = "objectives"
    needs_features: ClassVar[bool] = True

    def needs(self) -> tuple[str, ...]:
        return ()

    def see(self, outputs: Outputs, batch: Batch) -> None: ...

    def __call__(self, outputs: Outputs, batch: Batch, knowledge: Mapping[str, Knowledge]) -> Any:
        self.see(outputs, batch)
        return outputs.logits.sum() * 0.0


@register
@dataclass(frozen=True)
class Teacher(Watching):
    """Distils the network that the weights ``global`` make, the client's own, and a mixture."""

    name: ClassVar[str] = "test-teacher"

    def needs(self) -> tuple[str, ...]:
        return ("global",)

    def __call__(self, outputs: Outputs, batch: Batch, knowledge: Mapping[str, Knowledge]) -> Any:
        assert outputs.ask is not None
        assert outputs.features is not None
        noise = 0.1 * batch.noise("x", batch.x.shape)
        near = outputs.ask({}, batch.x + noise)
        told = outputs.ask(knowledge["global"], batch.x)
        mixed = outputs.ask({"head.weight": knowledge["global"].tensors["head.weight"]}, batch.x)
        assert told.features is not None
        losses = F.mse_loss(outputs.features, told.features, reduction="none").mean(1)
        losses = losses + F.cross_entropy(outputs.logits, told.logits.softmax(1), reduction="none")
        losses = losses + (near.logits - mixed.logits).square().mean(1)
        return weighted_mean(losses, batch.weight)


def works(dtype: torch.dtype = torch.float64, **options: Any) -> list[Work]:
    """The work of clients with few samples."""
    known = {"global": Knowledge("weights", fresh(Normed)[0]["model"])}
    found = []
    for k, size in enumerate(SIZES):
        generator = torch.Generator().manual_seed(k)
        x = torch.randn(size, 6, generator=generator, dtype=dtype)
        samples = Samples(x, torch.randint(4, (size,), generator=generator), torch.arange(size))
        none = samples.select(torch.arange(0))
        data = ClientData(samples, none, none, None, None, 4, (6,))
        settings = TrainingOptions("sgd", 0.05, 0.0, batch_size=8, **options)
        found.append(Work(data, known, settings, 3, 2, k, rounds=3))
    return found


def fresh(build: Any, heads: tuple[Head, ...] = ()) -> tuple[Any, TorchLearner]:
    learner = TorchLearner(build, 4, build.__name__)
    learner.follow(Recipe(heads=heads))
    learner.reset(5, 9)
    return learner.state(), learner


def noted(build: Any, term: Watching, heads: tuple[Head, ...] = ()) -> TorchLearner:
    """Train by a term; return the learner."""
    _, learner = fresh(build, heads)
    learner.train(Train("private", [CrossEntropy(), term]), works(torch.float32)[0], "learn/0")
    return learner


def watching(see: Any) -> Watching:
    """A term that calls a function with outputs and batch."""
    term = Watching()
    object.__setattr__(term, "see", see)
    return term


@pytest.mark.parametrize("build", [Normed, Dropped])
def test_the_network_with_other_weights(build: Any) -> None:
    """In evaluation mode, as a copy that loads them would answer; features and head too."""
    others = {n: t + 0.1 for n, t in fresh(build)[0]["model"].items() if t.is_floating_point()}
    other = fresh(build)[1].model
    other.load_state_dict(others, strict=False)
    other.eval()

    def see(outputs: Outputs, batch: Batch) -> None:
        assert outputs.ask is not None
        for given in (others, Knowledge("weights", others)):
            asked = outputs.ask(given, batch.x)
            assert torch.allclose(asked.logits, other(batch.x), atol=1e-6)
            assert asked.classify is not None
            assert torch.allclose(asked.classify(asked.features), asked.logits, atol=1e-6)
            assert asked.ask is not None
            assert torch.equal(asked.ask({}, batch.x).logits, asked.logits)
            assert torch.equal(asked.parameters["body.bias"], others["body.bias"])
            assert not asked.logits.requires_grad

    noted(build, watching(see))


def test_missing_weights_are_the_client_s_own() -> None:
    seen = []

    def see(outputs: Outputs, batch: Batch) -> None:
        assert outputs.ask is not None
        bias = torch.arange(4.0)
        own = {n: p.detach().clone() for n, p in outputs.parameters.items()}
        asked = outputs.ask({"head.bias": bias}, batch.x)
        gap = asked.logits - outputs.ask({}, batch.x).logits - (bias - own["head.bias"])
        seen.append(float(gap.detach().abs().max()))

    noted(Normed, watching(see))
    assert len(seen) == 3
    assert max(seen) < 1e-5


def test_heads_are_asked_with_the_weights() -> None:
    def see(outputs: Outputs, batch: Batch) -> None:
        assert outputs.ask is not None
        zero = {n: torch.zeros_like(p) for n, p in outputs.parameters.items()}
        asked = outputs.ask(zero, batch.x)
        assert asked.features is not None
        assert not apply_head(asked.parameters, "domain", asked.features).any()

    noted(Normed, watching(see), (Head("domain", (5, 2)),))


def test_gradients_through_inputs_and_weights() -> None:
    def see(outputs: Outputs, batch: Batch) -> None:
        assert outputs.ask is not None
        x = batch.x.clone().requires_grad_()
        weights = {n: p.detach().clone().requires_grad_() for n, p in outputs.parameters.items()}
        loss = outputs.ask(weights, x).logits.square().sum()
        for gradient in torch.autograd.grad(loss, [x, *weights.values()]):
            assert gradient.abs().sum() > 0
        own = outputs.ask({}, batch.x).logits.square().sum()
        assert torch.autograd.grad(own, [outputs.parameters["body.weight"]])[0].abs().sum() > 0

    noted(Normed, watching(see))


@pytest.mark.parametrize("build", [Normed, Dropped])
def test_asking_changes_nothing(build: Any) -> None:
    """Neither modes nor running statistics nor random numbers."""

    def see(outputs: Outputs, batch: Batch) -> None:
        assert outputs.ask is not None
        outputs.ask({}, 7 + batch.x)
        batch.noise("more", batch.x.shape)

    plain = noted(build, watching(lambda *_: None)).state()["model"]
    asked = noted(build, watching(see)).state()["model"]
    assert all(torch.equal(plain[name], asked[name]) for name in plain)


@pytest.mark.parametrize(
    ("weights", "line"),
    [
        ({"hed.bias": torch.zeros(4)}, r"'hed.bias' of shape \[4\] and the network has nothing"),
        ({"head.bias": torch.zeros(5)}, r"'head.bias' of shape \[5\] and the network has \[4\]"),
    ],
)
def test_weights_of_another_network(weights: Any, line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        noted(Normed, watching(lambda outputs, batch: outputs.ask(weights, batch.x)))


@pytest.mark.parametrize(("build", "count"), [(Plain, 3), (Normed, 2)])
def test_the_executors_agree(build: Any, count: int) -> None:
    """With padding, and without where rows are coupled by batch normalisation."""
    learner = fresh(build)[1]
    step = Train("private", [CrossEntropy(), Teacher()], epochs=2)
    rows, loop = [], []
    for work in works()[:count]:
        known = {"global": Knowledge("weights", fresh(build)[0]["model"])}
        learner.reset(5, work.client)
        learner.model.double()
        rows.append(Row(copy.deepcopy(learner.state()), replace(work, knowledge=known)))
        learner.train(step, rows[-1].work, "learn/0")
        loop.append(learner.state())
    begins = [row.state for row in rows]
    cohort.train(learner, step, rows, "learn/0")
    for begin, one, row in zip(begins, loop, rows, strict=True):
        for name, tensor in one["model"].items():
            assert torch.allclose(tensor.double(), row.state["model"][name].double(), atol=1e-9)
        moved = one["model"]["body.weight"] - begin["model"]["body.weight"]
        assert float(moved.abs().max()) > 1e-3


# --- noise --------------------------------------------------------------------------------------


def batch(key: int) -> Batch:
    return Batch(torch.zeros(2, 1), None, torch.arange(2), torch.ones(2), key=torch.tensor(key))


def test_noise_is_standard_normal() -> None:
    noise = batch(3).noise("z", (200_000,)).double()
    assert noise.mean().abs() < 0.01
    assert abs(float(noise.std()) - 1) < 0.01
    assert abs(float(noise.pow(3).mean())) < 0.03
    assert abs(float(noise.pow(4).mean()) - 3) < 0.06
    assert abs(float((noise[1:] * noise[:-1]).mean())) < 0.01
    inside = (noise.abs() < 1.959964).double().mean()
    assert abs(float(inside) - 0.95) < 0.003


def test_noise_is_the_hash_of_its_place() -> None:
    """SplitMix64 with the seed 1234567 begins 6457827717110365317, 3203168211198807973."""
    from fedkt import noise

    words = noise._mixed(torch.tensor(1234567) + torch.tensor([1, 2]) * noise._GAMMA)
    assert [int(w) % 2**64 for w in words] == [6457827717110365317, 3203168211198807973]


def test_noise_depends_on_key_and_name_and_first_rows_on_nothing_else() -> None:
    seen = [batch(k).noise(name, (4, 3)) for k in (1, 2) for name in ("z", "x")]
    assert len({float(t[0, 0]) for t in seen}) == 4
    assert torch.equal(batch(1).noise("z", (9, 3))[:4], seen[0])
    assert seen[0].dtype == torch.float32
    assert batch(1).noise("z", ()).shape == ()


def test_noise_needs_a_key() -> None:
    with pytest.raises(KnowledgeError, match=r"no key to draw noise from"):
        replace(batch(1), key=None).noise("z", (2,))


def test_every_batch_of_every_client_has_noise_of_its_own() -> None:
    seen: list[float] = []
    term = watching(lambda outputs, batch: seen.append(float(batch.noise("z", (1,)))))
    step = Train("private", [term], epochs=2)
    for work in works(torch.float32):
        for round_ in (1, 2):
            fresh(Plain)[1].train(step, replace(work, round=round_), "learn/0")
    assert len(set(seen)) == len(seen) == 2 * 14


@register
@dataclass(frozen=True)
class Noisy(Watching):
    """A loss whose gradient is the noise itself."""

    name: ClassVar[str] = "test-pushed-by-noise"

    def __call__(self, outputs: Outputs, batch: Batch, knowledge: Mapping[str, Knowledge]) -> Any:
        return (outputs.parameters["head.weight"] * batch.noise("w", (4, 8))).sum()


def test_the_executors_draw_the_same_noise() -> None:
    """In private training, and beside public samples that are common to all."""
    public = works(torch.float32)[0].data.train
    learner = fresh(Plain)[1]
    steps = {
        "learn/0": Train("private", [Noisy()], epochs=2),
        "absorb/0": Train("public", [Noisy()], rehearse=[Noisy()]),
    }
    for name, step in steps.items():
        rows, loop = [], []
        for work in works(torch.float32):
            learner.reset(5, work.client)
            member = replace(work, data=replace(work.data, public=public))
            rows.append(Row(copy.deepcopy(learner.state()), member))
            learner.train(step, member, name)
            loop.append(learner.state()["model"]["head.weight"])
        cohort.train(learner, step, rows, name)
        for one, row in zip(loop, rows, strict=True):
            assert torch.allclose(one, row.state["model"]["head.weight"], rtol=1e-6, atol=1e-7)
        assert not torch.allclose(loop[0], loop[1], atol=1e-3)
