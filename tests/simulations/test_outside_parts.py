"""A part of each kind in one file of the user's: it works without an edit of the packages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedkt.errors import ConfigError, RunFailedError
from fedkt.simulations.experiment.config import parse
from fedkt.simulations.results.rounds import SUMMARY, read_rounds
from fedkt.simulations.runs.plan import Plan, prepare
from fedkt.simulations.runs.run import execute

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


NEAR = '''
from dataclasses import dataclass
import torch
from fedkt import register
from fedkt.fusion import TrustRule

@register
@dataclass(frozen=True)
class NearMedian(TrustRule):
    """Trust whoever is at most k times as far from the median answer as the typical client."""

    k: float = 3.0

    def trust(self, stack, round):
        far = (stack.values - stack.values.quantile(0.5, dim=0)).flatten(1).norm(dim=1)
        round.memory["k"] = self.k
        return (far <= self.k * far.median()).float()

@register
@dataclass(frozen=True)
class Doubtful(TrustRule):
    """Trust nobody in particular, and in no number."""

    def trust(self, stack, round):
        return torch.full((len(stack),), float("nan"))
'''


def test_a_trust_rule(tmp_path: Path) -> None:
    rule = f"{written(tmp_path, NEAR)}:NearMedian(k=0.99)"
    for form in ("logits", "probabilities"):
        strategy = {"name": "fedmd", "trust": rule, "form": form}
        plan = planned({"strategy": strategy})
        assert not plan.recipe.share[0].partial, "it compares clients on the same rows"
        (first, *_) = rounds(tmp_path / form, {"strategy": strategy})
        assert set(first["strategy"]["trust"]) <= {0.0, 1.0}
        assert min(first["strategy"]["trust"]) == 0.0
    planned({"strategy": {"name": "knfu", "trust": rule}})
    with pytest.raises(ConfigError, match=r"option of trust rule .*NearMedian"):
        planned({"strategy": {"name": "fedpf", "trust": rule.replace("k=", "j=")}})
    strategy = {"name": "fedmd", "trust": f"{tmp_path / 'mine.py'}:Doubtful"}
    with pytest.raises(RunFailedError, match=r"'doubtful' must give 3 numbers in \[0, 1\]"):
        rounds(tmp_path / "doubtful", {"strategy": strategy})


BACKWARDS = '''
from fedkt import register
from fedkt.clients import FileStore
from fedkt.simulations.engines.engine import EngineKind
from fedkt.simulations.engines.grid import InProcessGrid

class Reversed(InProcessGrid):
    def _handle(self, messages, timeout):
        return super()._handle(messages[::-1], timeout)[::-1]

@register
class Backwards(EngineKind):
    """The last client first."""

    one_by_one = True

    def start(self, run, population, folder):
        return Reversed(population.app(), population.federation.num_clients)
'''


def test_an_engine(tmp_path: Path) -> None:
    run = {"grid": f"{written(tmp_path, BACKWARDS)}:Backwards"}
    mine = rounds(tmp_path / "mine", {"run": run})
    assert mine == rounds(tmp_path / "usual", {})
    assert planned({"run": {**run, "executor": "auto"}}).experiment.run.plan == {"mlp": "loop"}
    with pytest.raises(ConfigError, match=r"run\.grid: Unknown engine in .*Did you mean 'Back"):
        planned({"run": {"grid": run["grid"].replace("wards", "ward")}})


DATA = '''
import numpy as np
from fedkt import register
from fedkt.data import Dataset

def blobs(seed):
    """Two clouds of points."""
    rng = np.random.default_rng(seed)
    y = rng.integers(2, size=400)
    x = (rng.normal(size=(400, 3)) + 3 * y[:, None]).astype(np.float32)
    return Dataset("blobs", x[:200], y[:200], x[200:], y[200:])

def halves(labels, argument, clients, seed, samples_per_client):
    """The first half of the rows for client 0, the rest for the others."""
    rows = np.array_split(np.arange(len(labels)), 2)
    return [rows[0], *np.array_split(rows[1], clients - 1)]
'''


def test_a_data_source_and_a_partition(tmp_path: Path) -> None:
    file = written(tmp_path, DATA)
    data = {
        "dataset": f"{file}:blobs",
        "partition": f"{file}:halves",
        "samples_per_client": 0,
        "public_samples": 20,
    }
    execute(planned({"data": data}), tmp_path / "run", label="outside")
    sizes = planned({"data": data}).federation.label_counts().sum(1)
    assert sizes[0] > 1.5 * sizes[1]


CENTROIDS = '''
import torch
import torch.nn.functional as F
from fedkt import Learner, register
from fedkt.recipe import trainings, weighted

class Centroids:
    """A model: the mean of each class; it has neither gradients nor scikit-learn's interface."""

def centroids(input_shape, num_classes):
    return Centroids()

@register
class CentroidLearner(Learner):
    """Learns the mean of each class from hard or soft labels."""

    @staticmethod
    def takes(model):
        return isinstance(model, Centroids)

    def __init__(self, build, num_classes, name, device="cpu"):
        self.num_classes, self.architecture = num_classes, name + "#centroids"

    def refuses(self, recipe):
        steps = trainings((*recipe.learn, *recipe.absorb))
        terms = [term for step in steps for _, term in weighted(step.terms)]
        hard = [t for t in terms if not hasattr(t, "as_target")]
        return f"it cannot follow {type(hard[0]).__name__}" if hard else None

    def follow(self, recipe):
        pass

    def reset(self, seed, client):
        self.sums = None

    def train(self, step, work, stream):
        data = work.data.train if step.on == "private" else work.data.public
        if step.on == "private":
            soft = F.one_hot(data.y, self.num_classes).float()
        else:
            knowledge = work.knowledge[step.needs()[0]]
            data, soft = data.at_ids(knowledge.ids), knowledge.values.softmax(-1)
        sums = soft.T @ data.x.flatten(1), soft.sum(0)
        self.sums = sums if self.sums is None else tuple(a + b for a, b in zip(self.sums, sums))

    def predict(self, x):
        if self.sums is None:
            return torch.zeros(len(x), self.num_classes)
        means = self.sums[0] / self.sums[1].clamp_min(1e-6)[:, None]
        return -torch.cdist(x.flatten(1), means).square() / 10

    def adapt_norms(self, x):
        pass

    def state(self):
        return {"sums": None if self.sums is None else list(self.sums)}

    def load_state(self, state):
        self.sums = None if state["sums"] is None else tuple(state["sums"])
'''


def test_a_learner_of_another_framework_beside_a_network(tmp_path: Path) -> None:
    models = [f"{written(tmp_path, CENTROIDS)}:centroids", "mlp"]
    section = {"name": "fedmd", "form": "logits"}
    data = {"samples_per_client": 60}
    rows = rounds(tmp_path / "run", {"models": models, "strategy": section, "data": data})
    assert accuracies(rows)[0] > 0.4
    with pytest.raises(ConfigError, match="needs a network as model"):
        planned({"models": models[:1], "strategy": {"name": "fedavg"}})
    bare = written(tmp_path, "def text(input_shape, num_classes):\n    return 'tree'\n", "bare.py")
    with pytest.raises(ConfigError, match=r"is a str, neither a torch module nor .* takes it"):
        planned({"models": [f"{bare}:text"]})


KAPPA = '''
from dataclasses import dataclass

import torch
from fedkt import Metric, register

@register
@dataclass(frozen=True)
class Kappa(Metric):
    """Agreement of predictions and labels beyond chance (Cohen, 1960)."""

    title = "Cohen's kappa"
    short = "kappa"
    bounds = (-1.0, 1.0)

    def __call__(self, logits, labels, weight):
        C = logits.shape[-1]
        cells = torch.bincount(labels * C + logits.argmax(-1), weight, C * C).view(C, C)
        cells = cells / cells.sum()
        chance = float(cells.sum(0) @ cells.sum(1))
        return None if chance == 1 else (float(cells.trace()) - chance) / (1 - chance)
'''


@pytest.mark.parametrize("personalised", ["split", "matched"])
def test_a_metric(tmp_path: Path, personalised: str) -> None:
    names = ["macro-f1", f"{written(tmp_path, KAPPA)}:Kappa"]
    base = {"personalised": personalised}
    plain = rounds(tmp_path / "plain", {"run": base})
    runs = {
        executor: rounds(
            tmp_path / executor, {"run": {**base, "metrics": names, "executor": executor}}
        )
        for executor in ("loop", "cohort")
    }
    keys = {f"{on}_{name}" for on in ("personalised", "global", "validation")
            for name in ("macro_f1", "kappa")}  # fmt: skip
    for row, before in zip(runs["loop"], plain, strict=True):
        assert {k: v for k, v in row.items() if k not in keys} == before, "nothing else changes"
        assert all(None not in row[key]["per_client"] for key in keys)
        assert abs(row["global_kappa"]["mean"]) < row["global_accuracy"]["mean"] + 0.2
    for key in keys:
        assert runs["cohort"][-1][key]["mean"] == pytest.approx(runs["loop"][-1][key]["mean"])
    last = json.loads((tmp_path / "loop" / SUMMARY).read_text(encoding="utf-8"))["last"]
    assert last["personalised_kappa"] == runs["loop"][-1]["personalised_kappa"]["mean"]
    assert "personalised_kappa" not in (tmp_path / "plain" / SUMMARY).read_text(encoding="utf-8")


def test_a_metric_that_cannot_be_measured_is_refused_before_the_run(tmp_path: Path) -> None:
    for text, reason in [
        (KAPPA.replace("(-1.0, 1.0)", "(-2.0, -1.0)"), "metric kappa is .* its bounds are -2 and"),
        (KAPPA.replace("cells.trace()", "cells.track()"), "metric kappa: AttributeError"),
    ]:
        with pytest.raises(ConfigError, match=reason):
            planned({"run": {"metrics": [f"{written(tmp_path, text)}:Kappa"]}})
