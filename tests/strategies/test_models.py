"""Models at the server, as strategies use them; the context of a round; what is at the server."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord
from torch import nn

from fedkt import registry
from fedkt.context import Round, ServerNet
from fedkt.errors import ConfigError, NotFiniteError
from fedkt.fusion import mean
from fedkt.knowledge import Fused, Uploads
from fedkt.objectives import CrossEntropy, Distil
from fedkt.recipe import Predict, Recipe, Train
from fedkt.simulations.experiment.config import parse
from fedkt.simulations.runs.plan import prepare
from fedkt.strategies import KnowledgeStrategy, ServerOptions
from fedkt.training import TrainingOptions


class Noise(nn.Module):
    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.out = nn.Linear(3, classes)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.out(z)
        return out


class Two(KnowledgeStrategy):
    """A student of the clients' mean answers, and a generator of logits like theirs."""

    serves: str | None = "student"

    def recipe(self) -> Recipe:
        return Recipe(
            learn=[Train(on="private", terms=[CrossEntropy()])],
            share=[Predict(form="probabilities")],
            absorb=[Train(on="public", terms=[Distil()])],
        )

    def models(self) -> dict[str, ServerNet]:
        self.calls = getattr(self, "calls", 0) + 1
        options = TrainingOptions("sgd", 0.1, 0.5)
        return {"student": ServerNet("mlp"), "generator": ServerNet(Noise, options)}

    def fuse(self, uploads: Uploads) -> Fused:
        fused = mean(uploads["public"])
        goal = fused.shared["public"].values.mean(0)
        generator = self.model["generator"]

        def loss() -> torch.Tensor:
            return (generator.ask(None, torch.randn(8, 3)).logits - goal).square().mean()

        step = Train(on="public", terms=[Distil()], epochs=2)
        self.model["student"].train(step, fused.shared, "student")
        told = generator.minimise(loss, 5, "generator")
        return fused.with_diagnostics(told=told)


def figures(run: Any) -> list[Any]:
    return [(r.diagnostics, r.metrics, r.server_accuracy) for r in run.reports]


def test_the_models_are_declared_once_and_one_is_evaluated(world, with_options, federation) -> None:
    run, strategy = world(), with_options(Two())
    told: list[int] = []
    strategy.observers = [run.watch]
    strategy.start(run.grid, num_rounds=2, evaluate_fn=lambda number, arrays: told.append(number))
    assert strategy.calls == 1
    assert told == [1, 2]
    weights = strategy.server_weights().tensors
    mine = strategy.model["student"].weights().tensors
    assert all(torch.equal(t, mine[n]) for n, t in weights.items())


def test_a_run_goes_on_where_it_stopped(world, with_options) -> None:
    straight, begun, resumed = world(), world(), world()
    straight.start(with_options(Two()), 3)
    first = with_options(Two())
    begun.start(first, 1)
    second = with_options(Two())
    second.load_state_dict(first.state_dict())
    resumed.grid.restore(begun.grid.snapshot())
    assert second.state_dict()["models"].keys() == {"student", "generator"}
    resumed.start(second, 3)
    assert figures(resumed) == figures(straight)[1:]


def test_a_fusion_that_is_tried_again_starts_from_the_same_models(world, with_options) -> None:
    class Fragile(Two):
        def fuse(self, uploads: Uploads) -> Fused:
            fused, self.seen = super().fuse(uploads), uploads
            if len(uploads) == 4:
                raise NotFiniteError("too large")
            return fused

    run, strategy, plain = world(), with_options(Fragile()), with_options(Two())
    run.start(strategy, 1)
    assert len(run.reports[0].participants) == 3
    other = world()
    plain.exchange.meet(other.grid, ArrayRecord())
    plain.exchange.begin(1)
    plain.fuse(strategy.seen)
    for name, model in plain.model.items():
        mine = strategy.model[name].weights().tensors
        assert all(torch.equal(t, mine[n]) for n, t in model.weights().tensors.items())


def test_an_unknown_model_cannot_be_served(world, with_options) -> None:
    strategy = with_options(Two())
    strategy.serves = "teacher"
    with pytest.raises(ConfigError, match="serves 'teacher'; its models at the server: student"):
        world().start(strategy, 1)


def test_a_model_that_nothing_can_build_is_refused_before_the_first_round(
    world, with_options
) -> None:
    run, strategy = world(), with_options(Two())
    strategy.models = lambda: {"student": ServerNet("mpl")}
    strategy.serves = None
    with pytest.raises(ConfigError, match="Unknown model 'mpl'"):
        run.start(strategy, 1)
    assert not run.reports


def test_a_model_that_nothing_can_build_is_refused_before_a_simulation() -> None:
    class Missing(Two):
        def models(self) -> dict[str, ServerNet]:
            return {"student": ServerNet("mpl" if len(self.round.about) == 3 else "mlp")}

    registry.register_as(Missing, "strategies", "missing-model", replace=True)
    settings = {"strategy": {"name": "missing-model"}, "models": ("mlp",)}
    prepare(parse({**settings, "data": {"clients": 2}}))
    with pytest.raises(ConfigError, match=r"missing-model, model 'student' at the server: Unknown"):
        prepare(parse({**settings, "data": {"clients": 3}}))


def test_the_context_of_a_round(world, with_options) -> None:
    seen: list[Round] = []

    class Watching(Two):
        def fuse(self, uploads: Uploads) -> Fused:
            seen.append(self.round)
            return super().fuse(uploads)

    run = world(models=("linear", "mlp"))
    run.start(with_options(Watching(), participation=0.5), 2)
    assert [r.number for r in seen] == [1, 2]
    assert [r.progress for r in seen] == [0.0, 0.5]
    first = seen[0]
    assert (first.total, first.num_classes, first.public_size) == (2, 10, 50)
    assert (first.input_shape, first.seed) == ((1, 8, 8), 3)
    assert first.clients == tuple(run.reports[0].participants)
    assert len(first.clients) == 2
    names = [str(about["architecture"]).partition("#")[0] for about in first.about.values()]
    assert names == ["linear", "mlp", "linear", "mlp"]


def test_the_samples_at_the_server() -> None:
    nothing = ServerOptions().samples
    assert [len(s) for s in (nothing.public, nothing.labelled, nothing.validation)] == [0, 0, 0]
    x, y = torch.rand(4, 1, 8, 8), torch.tensor([1, -1, -1, 0])
    samples = ServerOptions(public=x, public_labels=y).samples
    assert samples.public.y is None
    assert torch.equal(samples.public.x, x)
    assert samples.labelled.ids.tolist() == [0, 3]
    assert samples.labelled.y.tolist() == [1, 0]
    with pytest.raises(ConfigError, match="4 public_labels for 3 public samples"):
        _ = ServerOptions(public=x[:3], public_labels=y).samples


def broken(*_: Any) -> Any:
    raise ValueError("no such thing")


@pytest.mark.parametrize(
    ("models", "line"),
    [
        (broken, r"two: models\(\) raised ValueError: no such thing"),
        (lambda: [ServerNet("mlp")], r"two: models\(\) must return {name: ServerNet\(…\)}"),
        (lambda: {"student": "mlp"}, r"two: models\(\) must return {name: ServerNet\(…\)}"),
        (
            lambda: {"student": ServerNet(broken)},
            "two, model 'student' at the server: its build raised ValueError: no such thing",
        ),
        (
            lambda: {"student": ServerNet(lambda shape, classes: 3)},
            "two, model 'student' at the server: its build raised AttributeError",
        ),
    ],
)
def test_models_that_cannot_be_built_are_one_line(world, with_options, models, line) -> None:
    strategy = with_options(Two())
    strategy.models = models
    with pytest.raises(ConfigError, match=line):
        world(models=("mlp",)).start(strategy, 1)


def test_a_model_that_nobody_declares_is_refused_before_anything_trains() -> None:
    supposed = Round(0, 0, (), 10, 20, (1, 8, 8), 0, {})
    strategy = Two()
    strategy.serves = "teacher"
    with pytest.raises(ConfigError, match="serves 'teacher'; its models at the server: student"):
        strategy.declared(supposed)
