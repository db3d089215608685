"""Shares whose knowledge belongs to an architecture: told, checked and stacked by themselves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from fedkt.clients import SklearnLearner
from fedkt.errors import ConfigError
from fedkt.fusion import mean_by_examples
from fedkt.knowledge import Fused, Knowledge, Upload, Uploads
from fedkt.objectives import CrossEntropy
from fedkt.recipe import Load, Recipe, Train, Weights
from fedkt.strategies import KnowledgeStrategy
from fedkt.strategies.server.forms import of_other_form


class Families(KnowledgeStrategy):
    """Federated averaging within each architecture."""

    def recipe(self) -> Recipe:
        return Recipe(
            learn=[Train("private", [CrossEntropy()])],
            share=[Weights(group="architecture")],
            absorb=[Load(group="architecture")],
        )

    def fuse(self, uploads: Uploads) -> Fused:
        self.groups = uploads.groups("weights")
        means = [(stack, mean_by_examples(stack).shared) for stack in self.groups.values()]
        return Fused(personal={c: mean for stack, mean in means for c in stack.clients})


def test_each_architecture_is_averaged_by_itself(world: Any, with_options: Any) -> None:
    run = world(models=("linear", "mlp"))
    strategy = with_options(Families())
    run.start(strategy, 2)
    assert [report.failures for report in run.reports] == [[], []]
    clients = {name.partition("#")[0]: s.clients for name, s in strategy.groups.items()}
    assert clients == {"linear": (0, 2), "mlp": (1, 3)}
    assert not run.reports[0].one_model
    snapshot = run.grid.snapshot()
    states = [snapshot[client]["learner"]["model"] for client in range(4)]
    for one, other in ((0, 2), (1, 3)):
        assert all(torch.equal(t, states[other][n]) for n, t in states[one].items())


def test_preprocessing_is_equal_within_an_architecture(world: Any, with_options: Any) -> None:
    def adapt(different: tuple[int, ...]) -> Any:
        def change(client: Any, message: Any) -> Any:
            done = {"age": "mean 50.0" if client.id in different else "mean 54.2"}
            return replace(client, data=replace(client.data, preprocessing=done))

        return change

    models = {"models": ("linear", "mlp")}
    world(**models, adapt=adapt((1, 3))).start(with_options(Families()), 1)  # all networks
    run = world(**models, adapt=adapt((2,)))
    reason = "client 2: preprocessing is 'age: mean 50.0' where the others have 'age: mean 54.2'"
    with pytest.raises(ConfigError, match=reason):
        run.start(with_options(Families()), 1)
    run.start(with_options(Families(), quorum=3), 1)
    assert run.reports[0].clients == (0, 1, 3)


def test_what_has_no_weights_is_refused(world: Any, with_options: Any) -> None:
    def forest(client: Any, message: Any) -> Any:
        from sklearn.ensemble import RandomForestClassifier

        learner = SklearnLearner(RandomForestClassifier, 10, "forest")
        return replace(client, learner=learner) if client.id == 2 else client

    with pytest.raises(ConfigError, match=r"client 2: .*\(forest\) has no weights to exchange"):
        world(adapt=forest).start(with_options(Families()), 1)


def test_shapes_are_compared_within_an_architecture() -> None:
    sizes = {0: ("a", 3), 1: ("b", 4), 2: ("a", 3), 3: ("b", 4), 4: ("b", 3)}
    uploads = [
        Upload(client, 1, {"w": Knowledge("weights", {"x": torch.ones(size)})}, architecture)
        for client, (architecture, size) in sizes.items()
    ]
    odd = of_other_form(uploads, {"w"})
    assert odd == {4: "'w': x of shape [3] where the others have [4]"}
    groups = Uploads(uploads[:4]).groups("w")
    assert {name: stack.clients for name, stack in groups.items()} == {"a": (0, 2), "b": (1, 3)}
