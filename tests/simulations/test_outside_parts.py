"""A part of each kind in one file of the user's: it works without an edit of the packages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedkt.errors import ConfigError
from fedkt.simulations.experiment.config import parse
from fedkt.simulations.results.rounds import read_rounds
from fedkt.simulations.runs.run import Plan, execute, prepare

LION = '''
from dataclasses import dataclass
import torch
from fedkt import register
from fedkt.optimisers import Optimiser

@register
@dataclass(frozen=True)
class Lion(Optimiser):
    """Steps by the sign of a moving mean (Chen et al., 2023, arXiv:2302.06675)."""

    momentum: float = 0.9

    def moments(self):
        return ("mean",)

    def update(self, parameters, gradients, moments, steps, rate):
        for p, g, mean in zip(parameters, gradients, moments["mean"]):
            p.sub_(rate * torch.lerp(g, mean, self.momentum).sign())
            mean.lerp_(g, 0.01)
'''
RPROP = '''
from dataclasses import dataclass
import torch
from fedkt import register
from fedkt.optimisers import Optimiser

@register
@dataclass(frozen=True)
class Rprop(Optimiser):
    """Resilient propagation, of torch."""

    def build(self, parameters, rate):
        return torch.optim.Rprop(parameters, lr=rate)
'''


def planned(values: dict[str, Any]) -> Plan:
    """Return the plan of a small experiment with some other values."""
    base: dict[str, Any] = {
        "rounds": 2,
        "models": ["mlp"],
        "strategy": {"name": "fedmd"},
        "data": {
            "dataset": "digits",
            "clients": 3,
            "samples_per_client": 20,
            "public_samples": 24,
            "test_samples": 40,
        },
        "training": {},
        "run": {"grid": "in-process", "workers": 1, "executor": "loop"},
    }
    for section, value in values.items():
        base[section] = {**base[section], **value} if isinstance(value, dict) else value
    return prepare(parse(base))


def rounds(folder: Path, values: dict[str, Any]) -> list[dict[str, Any]]:
    """Run an experiment; return its rounds without the times."""
    execute(planned(values), folder, label="outside")
    return [{k: v for k, v in row.items() if k != "seconds"} for row in read_rounds(folder)]


def written(folder: Path, text: str, name: str = "mine.py") -> Path:
    """Return a new file with some text."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def accuracies(rows: list[dict[str, Any]]) -> list[float]:
    """Return the clients' accuracies after the last round."""
    return [float(a) for a in rows[-1]["personalised_accuracy"]["per_client"]]


def test_an_optimiser_by_its_elementwise_update(tmp_path: Path) -> None:
    training = {"optimiser": f"{written(tmp_path, LION)}:Lion", "learning_rate": 0.003}
    runs = {
        executor: rounds(tmp_path / executor, {"training": training, "run": {"executor": executor}})
        for executor in ("loop", "cohort")
    }
    assert accuracies(runs["loop"]) == accuracies(runs["cohort"])
    assert min(accuracies(runs["loop"])) > 0.2


def test_an_optimiser_of_torch_runs_in_the_loop(tmp_path: Path) -> None:
    training = {"optimiser": f"{written(tmp_path, RPROP)}:Rprop"}
    assert min(accuracies(rounds(tmp_path / "run", {"training": training}))) > 0.2
    assert planned({"training": training, "run": {"executor": "auto"}}).experiment.run.plan == {
        "mlp": "loop"
    }
    with pytest.raises(ConfigError, match=r"Rprop is stepped by torch\.optim, one model at a time"):
        planned({"training": training, "run": {"executor": "cohort"}})


def test_an_optimiser_must_say_how_it_steps(tmp_path: Path) -> None:
    file = written(tmp_path, RPROP.replace("def build", "def nothing"))
    with pytest.raises(ConfigError, match="optimiser Rprop must define update or build"):
        planned({"training": {"optimiser": f"{file}:Rprop"}})


SAWTOOTH = '''
from dataclasses import dataclass
from fedkt import KnowledgeStrategy, Recipe, Schedule, Train, register
from fedkt.objectives import CrossEntropy
from fedkt.recipe import Weighted

@register
@dataclass(frozen=True)
class Sawtooth(Schedule):
    """A fall from 1 to 0, again and again."""

    teeth: int = 2

    def value(self, progress):
        return 1 - self.teeth * progress % 1

class Mine(KnowledgeStrategy):
    """Training alone, now and then."""

    def recipe(self):
        terms = [Weighted(Sawtooth(3), CrossEntropy())]
        return Recipe(learn=[Train("private", terms, rate=Sawtooth())])
'''


def test_a_schedule_in_the_file_of_its_strategy(tmp_path: Path) -> None:
    strategy = {"name": f"{written(tmp_path, SAWTOOTH)}:Mine"}
    plan = planned({"strategy": strategy})
    assert plan.strategy.follows_progress
    assert "sawtooth" in plan.recipe.to_json()
    runs = [
        rounds(tmp_path / executor, {"strategy": strategy, "run": {"executor": executor}})
        for executor in ("loop", "cohort")
    ]
    assert accuracies(runs[0]) == accuracies(runs[1])
