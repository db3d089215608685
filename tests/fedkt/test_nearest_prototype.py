"""The read-out nearest-prototype: distances, absent classes, and what it falls back to."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fedkt.answers import is_finite
from fedkt.errors import ConfigError
from fedkt.knowledge import Knowledge, Upload, Uploads
from fedkt.readouts import NearestPrototype
from fedkt.readouts.nearest_prototype import KEPT
from fedkt.recipe import Prototypes, Recipe
from fedkt.simulations.experiment.config import parse
from fedkt.simulations.results.rounds import read_rounds
from fedkt.simulations.runs.plan import prepare
from fedkt.simulations.runs.run import execute

FEATURES = torch.tensor([[0.0, 0.0], [3.0, 4.0], [10.0, 0.0]])
LOGITS = torch.tensor([[1.0, 2.0, 3.0]]).expand(3, 3)


def prototypes(values: list[list[float]], ids: list[int], counts: list[int]) -> Knowledge:
    return Knowledge(
        "prototypes", {"values": torch.tensor(values)}, torch.tensor(ids), torch.tensor(counts)
    )


def answer(own: dict[str, Any]) -> torch.Tensor:
    def ask(state: Any, x: torch.Tensor) -> Any:
        return SimpleNamespace(logits=LOGITS, features=FEATURES)

    return NearestPrototype().answer(FEATURES, ask, own, torch.zeros(3))


def test_the_nearest_prototype_wins_and_absent_classes_never() -> None:
    rows = [[0.0, 1.0], [3.0, 4.0], [10.0, 0.0]]
    logits = answer({KEPT: prototypes(rows, [0, 1, 2], [2, 1, 0])})
    expected = -torch.tensor([[1.0, 25.0], [18.0, 0.0], [101.0, 65.0]])
    assert torch.allclose(logits[:, :2], expected, atol=1e-4)
    assert logits.argmax(-1).tolist() == [0, 1, 1], "class 2 has no prototype"
    assert is_finite(logits)
    assert is_finite(logits.log_softmax(-1)[:, :2])
    fewer = answer({KEPT: prototypes(rows[2:], [2], [5])})
    assert fewer.argmax(-1).tolist() == [2, 2, 2]


@pytest.mark.parametrize("own", [{}, {KEPT: None}, {KEPT: prototypes([[0.0, 0.0]], [1], [0])}])
def test_without_prototypes_it_is_raw(own: dict[str, Any]) -> None:
    assert torch.equal(answer(own), LOGITS)


def test_it_fuses_by_counts() -> None:
    told = [
        Upload(0, 9, {"p": prototypes([[1.0, 1.0], [2.0, 2.0]], [0, 1], [1, 4])}),
        Upload(1, 9, {"p": prototypes([[5.0, 1.0], [0.0, 0.0]], [0, 1], [3, 0])}),
    ]
    fused = NearestPrototype("p").fuse(Uploads(told)["p"])
    assert torch.allclose(fused.values, torch.tensor([[4.0, 1.0], [2.0, 2.0]]))


def test_a_method_s_own_prototypes_are_its_source() -> None:
    recipe = Recipe(share=[Prototypes()], readout="nearest-prototype")
    assert len(recipe.share) == 1
    assert recipe.needs("absorb") == ("prototypes",)
    other = Recipe(share=[Prototypes()], readout="nearest-prototype(source=mine)")
    assert [share.name for share in other.share] == ["prototypes", "mine"]


def experiment(models: Any, **run: Any) -> Any:
    return parse({
        "rounds": 2,
        "models": models,
        "strategy": {"name": "fedpf", "readout": "nearest-prototype", "local_epochs": 3},
        "data": {"clients": 4, "samples_per_client": 30, "test_samples": 60, "public_samples": 20},
        "training": {"learning_rate": 0.01},
        "run": {"grid": "in-process", "workers": 1, **run},
    })  # fmt: skip


def test_any_method_may_answer_with_it(tmp_path: Any) -> None:
    accuracies = {}
    for executor in ("loop", "cohort"):
        plan = prepare(experiment(("mlp",), executor=executor))
        execute(plan, tmp_path / executor, label="x")
        rounds = read_rounds(tmp_path / executor)
        assert [row["failures"] for row in rounds] == [[], []]
        accuracies[executor] = rounds[-1]["personalised_accuracy"]["mean"]
    assert accuracies["loop"] == pytest.approx(accuracies["cohort"], abs=0.05)
    assert accuracies["loop"] > 0.4


def test_models_without_features_are_refused() -> None:
    with pytest.raises(ConfigError, match="has no features"):
        prepare(experiment(("forest",)))
