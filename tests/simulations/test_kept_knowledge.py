"""What clients keep for themselves is the same in memory, on disk and on Flower's engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fedkt.clients.cohorts import cohort
from fedkt.errors import ConfigError
from fedkt.simulations.experiment.config import parse
from fedkt.simulations.experiment.references import read_strategy
from fedkt.simulations.results import checkpoints
from fedkt.simulations.runs.plan import prepare
from fedkt.simulations.runs.run import execute

STEADY = """
from fedkt import KnowledgeStrategy, Predict, Recipe, Remember, Train, register
from fedkt.objectives import MSE, CrossEntropy, Distil


@register
class Steady(KnowledgeStrategy):
    \"""Local training that stays near its answers of the round before.\"""

    name = "steady"

    def recipe(self):
        before = Remember(Predict("private", form="logits", name="before"))
        train = Train("private", [CrossEntropy(), Distil(MSE(), source="before")])
        return Recipe(start=[before], learn=[train, before])
"""


def states(folder: Path, strategy: str = "moon", model: str = "cnn", **run: Any) -> dict[int, Any]:
    """Return the clients' states after two rounds; MOON with images and convolutions."""
    plan = prepare(parse({
        "rounds": 2,
        "models": (model,),
        "strategy": read_strategy(strategy),
        "data": {"clients": 2, "samples_per_client": 16, "test_samples": 20, "public_samples": 10},
        "training": {"batch_size": 8},
        "run": {"grid": "in-process", "workers": 1, "executor": "loop", **run},
    }))  # fmt: skip
    execute(plan, folder, label="moon")
    saved = checkpoints.newest(folder / "checkpoints", at_most=2)
    assert saved is not None
    return saved[1]["clients"]


@pytest.mark.parametrize(
    "run",
    [{"state": "disk"}, pytest.param({"grid": "flower"}, marks=pytest.mark.flower)],
    ids=["disk", "flower"],
)
def test_every_engine_keeps_the_same(run: dict[str, Any], tmp_path: Path) -> None:
    plain = states(tmp_path / "memory")
    other = states(tmp_path / "other", **run)
    for client, state in plain.items():
        kept = state["own"]["previous"].tensors
        assert all(tensor.is_contiguous() for tensor in kept.values())
        for name, tensor in kept.items():
            assert torch.equal(tensor, other[client]["own"]["previous"].tensors[name]), name
        for name, tensor in state["learner"]["model"].items():
            assert torch.equal(tensor, other[client]["learner"]["model"][name]), name


def test_a_cohort_keeps_answers_as_the_loop_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All clients are asked at once, and none alone."""
    file = tmp_path / "steady.py"
    file.write_text(STEADY, encoding="utf-8")
    loop = states(tmp_path / "loop", f"{file}:Steady", "mlp")
    asked: list[int] = []
    answer = cohort.answer

    def counted(learner: Any, clients: Any, *rest: Any) -> Any:
        asked.append(len(clients))
        return answer(learner, clients, *rest)

    monkeypatch.setattr(cohort, "answer", counted)
    together = states(tmp_path / "cohort", f"{file}:Steady", "mlp", executor="cohort")
    assert asked.count(2) >= 3  # before the first round, and in each of both
    for client, state in loop.items():
        kept, other = state["own"]["before"], together[client]["own"]["before"]
        assert torch.equal(kept.ids, other.ids)
        assert torch.allclose(kept.values, other.values, atol=1e-4)


def test_a_forest_refuses_to_distil_on_private_data(tmp_path: Path) -> None:
    file = tmp_path / "steady.py"
    file.write_text(STEADY, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"forest. cannot distil on private data"):
        states(tmp_path / "run", f"{file}:Steady", "forest")
