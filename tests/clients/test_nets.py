"""Networks beside the model: built by the recipe, trained with it, asked by terms and measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedkt import registry
from fedkt.clients import SklearnLearner, TorchLearner, TrainingOptions, Work
from fedkt.clients.cohorts import cohort
from fedkt.clients.cohorts.cohort import Row
from fedkt.clients.cohorts.learner import CohortLearner
from fedkt.clients.learners.making import first_weights, make_learner
from fedkt.clients.phases import evaluate, refuses
from fedkt.data import ClientData, Samples
from fedkt.errors import ConfigError
from fedkt.knowledge import Knowledge
from fedkt.objectives import Batch, CrossEntropy, Outputs, weighted_mean
from fedkt.objectives.heads import Head, HeadPart, Net, Place
from fedkt.recipe import Load, Recipe, Train, Weights
from fedkt.registry import register

SHAPE, CLASSES = (1, 4, 4), 3
OPTIONS = TrainingOptions("adam", 0.01, batch_size=8)


@register
@dataclass(frozen=True)
class Both:
    """The cross-entropy of the model and of a net beside it."""

    net: Net
    part: ClassVar[str] = "objectives"
    name: ClassVar[str] = "test-both"

    def needs(self) -> tuple[str, ...]:
        return ()

    def __call__(self, outputs: Outputs, batch: Batch, knowledge: Mapping[str, Knowledge]) -> Any:
        assert batch.y is not None
        answers = self.net(outputs.parameters, batch.x)
        assert answers.features is not None
        assert set(answers.parameters) == {n for n in outputs.parameters if n.startswith("heads.")}
        losses = F.cross_entropy(outputs.logits, batch.y, reduction="none")
        losses = losses + F.cross_entropy(answers.logits, batch.y, reduction="none")
        return weighted_mean(losses, batch.weight)


def recipe_with(net: Net, **more: Any) -> Recipe:
    step = Train("private", [Both(net)], epochs=2)
    return Recipe(learn=[step], heads=[net], **more)


def data_of(client: int, rows: int = 20) -> ClientData:
    generator = torch.Generator().manual_seed(client)
    x = torch.randn(rows, *SHAPE, generator=generator)
    y = torch.randint(CLASSES, (rows,), generator=generator)
    samples, empty = Samples(x, y, torch.arange(rows)), Samples(x[:0], y[:0], torch.arange(0))
    return ClientData(samples, empty, samples, None, samples, CLASSES, SHAPE)


def work_of(client: int, rows: int = 20, **knowledge: Knowledge) -> Work:
    return Work(data_of(client, rows), knowledge, OPTIONS, 0, 1, client)


def learner_of(model: str, recipe: Recipe) -> TorchLearner:
    learner = make_learner(model, SHAPE, CLASSES)
    assert isinstance(learner, TorchLearner)
    assert learner.refuses(recipe) is None
    learner.reset(0, 0)
    return learner


@pytest.mark.parametrize(("model", "net"), [("cnn", "mlp"), ("mlp", "own"), ("cnn", "own")])
def test_a_net_is_trained_beside_the_model_alike_in_either_executor(model: str, net: str) -> None:
    recipe = recipe_with(Net("n", model=net))
    learner = learner_of(model, recipe)
    works, rows, looped = [work_of(0), work_of(1, 13)], [], []
    for work in works:
        learner.reset(0, work.client)
        rows.append(Row(learner.state(), work))
        learner.train(recipe.learn[0], work, "learn/0")
        looped.append(learner.state())
    begin = rows[0].state["model"]
    cohort.train(learner, recipe.learn[0], rows, "learn/0")
    for row, state in zip(rows, looped, strict=True):
        for name, tensor in state["model"].items():
            assert torch.allclose(row.state["model"][name], tensor, atol=1e-5), name
    moved = [n for n, t in looped[0]["model"].items() if not torch.equal(t, begin[n])]
    assert {n.startswith("heads.n.") for n in moved} == {True, False}
    names = set(make_learner(net if net != "own" else model, SHAPE, CLASSES).weights().tensors)
    assert {n.removeprefix("heads.n.") for n in begin if n.startswith("heads.")} == names


def test_a_net_learns_what_it_would_alone() -> None:
    recipe = recipe_with(Net("n", model="mlp"))
    beside, alone = learner_of("cnn", recipe), learner_of("mlp", Recipe())
    begin = beside.weights(of="heads.n.").tensors
    alone.load_weights(
        Knowledge("weights", {n.removeprefix("heads.n."): t for n, t in begin.items()})
    )
    beside.train(recipe.learn[0], work_of(0), "learn/0")
    alone.train(Train("private", [CrossEntropy()], epochs=2), work_of(0), "learn/0")
    for name, tensor in alone.weights().tensors.items():
        other = beside.weights(of="heads.n.").tensors[f"heads.n.{name}"]
        assert torch.allclose(tensor, other, atol=1e-6), name


def test_the_world_s_answers_are_global_and_the_model_s_personal() -> None:
    recipe = recipe_with(Net("n"), world="heads.n")
    learner, data = learner_of("cnn", recipe), data_of(0)
    with torch.no_grad():  # a net that always answers 0, a model that always answers 1
        for module, label in ((learner.heads["n"], 0), (learner.model, 1)):
            last = [m for m in module.modules() if isinstance(m, nn.Linear)][-1]
            last.weight.zero_()
            last.bias.copy_(F.one_hot(torch.tensor(label), CLASSES))
    assert data.train.y is not None
    share = [float((data.train.y == label).float().mean()) for label in (0, 1)]
    measured = evaluate(learner, data, world=recipe.world)
    assert measured["global-accuracy"] == pytest.approx(share[0])
    assert measured["personalised-accuracy"] == pytest.approx(share[1])
    member = CohortLearner(learner)
    member.take(learner.state())
    assert evaluate(member, data, world=recipe.world) == measured
    assert evaluate(learner, data, "matched", world="heads.n")["global-accuracy"] == pytest.approx(
        share[0]
    )


def test_the_server_makes_the_first_weights_of_a_net_with_any_model() -> None:
    recipe = recipe_with(Net("n"), share=[Weights("net", of="heads.n.")])
    weights = first_weights(learner_of("cnn", recipe), recipe, 0, -1)
    own = learner_of("mlp", recipe).weights(of="heads.n.")
    assert {n: t.shape for n, t in weights.tensors.items()} == {
        n: t.shape for n, t in own.tensors.items()
    }


def test_nets_travel_as_registered_parts() -> None:
    recipe = recipe_with(Net("n", model="own"), world="heads.n")
    text = recipe.to_json()
    assert '{"@heads": "net", "name": "n", "model": "own"}' in text
    assert Recipe.from_json(text) == recipe
    headed = Recipe(heads=[Head("d", (2,), norm=True)])
    assert '"@heads": "head"' in headed.to_json()
    assert Recipe.from_json(headed.to_json()) == headed


@register(name="test-half-fixed")
@dataclass(frozen=True)
class HalfFixed(HeadPart):
    """A fixed projection before a trained one."""

    name: str = "part"

    def build(self, place: Place) -> nn.Module:
        module = nn.Module()
        module.fixed = nn.Parameter(torch.randn(place.classes, 5), requires_grad=False)
        module.free = nn.Parameter(torch.randn(5, place.classes))
        return module


@register
@dataclass(frozen=True)
class OnHalf:
    """The cross-entropy of that head on the logits."""

    part: ClassVar[str] = "objectives"
    name: ClassVar[str] = "test-on-half"

    def needs(self) -> tuple[str, ...]:
        return ()

    def __call__(self, outputs: Outputs, batch: Batch, knowledge: Mapping[str, Knowledge]) -> Any:
        assert batch.y is not None
        weights = outputs.parameters
        logits = outputs.logits @ weights["heads.part.fixed"] @ weights["heads.part.free"]
        return weighted_mean(F.cross_entropy(logits, batch.y, reduction="none"), batch.weight)


def test_fixed_parameters_of_a_head_are_fixed_in_both_executors() -> None:
    step = Train("private", [OnHalf()], epochs=2)
    learner = learner_of("mlp", Recipe(learn=[step], heads=[HalfFixed()]))
    learner.follow(Recipe(learn=[step], heads=[HalfFixed()]))
    learner.reset(0, 0)
    begin, work = learner.state(), work_of(0)
    row = Row(begin, work_of(0))
    learner.train(step, work, "learn/0")
    loop = learner.state()
    cohort.train(learner, step, [row], "learn/0")
    fixed = "heads.part.fixed"
    assert torch.equal(row.state["model"][fixed], begin["model"][fixed])
    for name, tensor in loop["model"].items():
        assert torch.allclose(tensor, row.state["model"][name], atol=1e-4), name
    assert set(row.state["optimiser"]) == set(loop["optimiser"])


OWN_HEAD = """
from dataclasses import dataclass
from torch import nn
from fedkt import HeadPart, register

@register
@dataclass(frozen=True)
class Scale(HeadPart):
    name: str
    start: float = 1.0

    def build(self, place):
        module = nn.Module()
        module.scale = nn.Parameter(nn.init.constant_(nn.Parameter(place.width() * [0.0] and
            __import__("torch").zeros(place.width())), self.start))
        return module
"""


def test_a_head_of_one_s_own_is_one_file(tmp_path) -> None:
    file = tmp_path / "scale.py"
    file.write_text(OWN_HEAD, encoding="utf-8")
    head = registry.lookup("heads", f"{file}:Scale")("s", 2.0)
    recipe = Recipe(heads=[head])
    assert Recipe.from_json(recipe.to_json()) == recipe
    scale = learner_of("mlp", recipe).weights(of="heads.").tensors["heads.s.scale"]
    assert torch.equal(scale, torch.full((64,), 2.0))


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm2d(1), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(x).flatten(1))
        return logits


def test_heads_that_cannot_be_are_refused_in_one_line(tmp_path) -> None:
    normed = TorchLearner(Normed, CLASSES, "normed")
    reason = normed.refuses(recipe_with(Net("n", model="own")))
    assert reason is not None
    assert "head 'n' has buffers (norm.running_mean), as batch normalisation has" in reason
    assert "made without input_shape" in str(normed.refuses(recipe_with(Net("n"))))
    assert normed.refuses(Recipe()) is None  # nothing of the refused recipe is left
    assert not len(normed.heads)
    network = make_learner("mlp", SHAPE, CLASSES)
    assert "Unknown model 'mpl'" in str(network.refuses(recipe_with(Net("n", model="mpl"))))
    file = tmp_path / "net.py"
    file.write_text("raise SystemExit", encoding="utf-8")
    assert "Unknown model" in str(network.refuses(recipe_with(Net("n", model=f"{file}:net"))))
    forest = make_learner("forest", SHAPE, CLASSES)
    assert isinstance(forest, SklearnLearner)
    assert forest.refuses(Recipe(heads=[Net("n")])) == (
        "a scikit-learn model (forest) has no networks beside it"
    )
    with pytest.raises(ConfigError, match=r"Two heads have one name: n, n\."):
        Recipe(heads=[Net("n"), Head("n", (2,))])
    with pytest.raises(ConfigError, match=r"world must be one of model, heads\.n, not 'heads\.d'"):
        Recipe(heads=[Net("n"), Head("d", (2,))], world="heads.d")


def test_a_net_that_nobody_declares_is_named() -> None:
    learner = learner_of("mlp", Recipe())
    with pytest.raises(ConfigError, match="Net 'n' is asked, and the recipe's heads do not list"):
        learner.train(recipe_with(Net("n")).learn[0], work_of(0), "learn/0")
    with pytest.raises(ConfigError, match=r"no network .heads\.n. that answers"):
        learner.predict(torch.zeros(1, *SHAPE), "heads.n")


def test_a_net_answers_with_fused_weights_too() -> None:
    net = Net("n")
    recipe = recipe_with(net, share=[Weights("net", of="heads.n.")])
    fused = first_weights(learner_of("mlp", recipe), recipe, 5, -1)

    @dataclass(frozen=True)
    class Near:
        part: ClassVar[str] = "objectives"

        def needs(self) -> tuple[str, ...]:
            return ("net",)

        def __call__(self, outputs: Outputs, batch: Batch, knowledge: Any) -> Tensor:
            teacher = net(knowledge["net"].tensors, batch.x)
            short = dict(list(knowledge["net"].tensors.items())[1:])
            with pytest.raises(ConfigError, match=r"asked without its heads\.n\.1\.weight"):
                net(short, batch.x)
            seen.append((batch.x, teacher.logits))
            return (net(outputs.parameters, batch.x).logits - teacher.logits).square().mean()

    seen: list[tuple[Tensor, Tensor]] = []
    learner = learner_of("mlp", recipe)
    learner.train(Train("private", [Near()]), work_of(0, net=fused), "learn/0")
    plain = make_learner("mlp", SHAPE, CLASSES)
    own = {n.removeprefix("heads.n."): t for n, t in fused.tensors.items()}
    plain.load_weights(Knowledge("weights", own))
    assert torch.allclose(plain.predict(seen[0][0]), seen[0][1], atol=1e-6)


def test_loading_a_net_leaves_the_model_s_moments() -> None:
    recipe = recipe_with(Net("n"), share=[Weights("net", of="heads.n.")], absorb=[Load("net")])
    learner, data = learner_of("mlp", recipe), data_of(0)
    assert refuses(recipe, learner, data) is None
    learner.train(recipe.learn[0], work_of(0), "learn/0")
    before, weights = learner.state(), first_weights(learner_of("mlp", recipe), recipe, 3, -1)
    member = CohortLearner(learner)
    member.take(learner.state())
    for one in (learner, member):
        one.load_weights(weights)
        after = one.state()
        count = len(learner.trained) // 2
        assert list(after["optimiser"]) == list(range(count))
        for i in range(count):
            for name, moment in before["optimiser"][i].items():
                assert torch.equal(after["optimiser"][i][name], moment)
        for name, tensor in after["model"].items():
            other = weights.tensors.get(name, before["model"][name])
            assert torch.equal(tensor, other), name
