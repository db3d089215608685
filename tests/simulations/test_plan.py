"""A plan is a value: its strategy and recipe are made once, and no run changes it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedkt.clients import LearnerModels
from fedkt.errors import ConfigError
from fedkt.simulations.results.rounds import read_rounds
from fedkt.simulations.runs.plan import prepare, strategy_of
from fedkt.simulations.runs.run import execute
from fedkt.strategies.domains.fedka import FedKA
from fedkt.strategies.weights.fedga import FedGA

DOMAINS = {
    "data__domains": ["digits-plain", "digits-inverted", "digits-rotated"],
    "data__target": "digits-rotated",
    "models": ["mlp"],
}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count what is made: strategies, recipes and models at the server."""
    counts: Counter[str] = Counter()

    def counted(owner: type, method: str, name: str) -> None:
        before: Callable[..., Any] = getattr(owner, method)

        def act(self: Any, *args: Any, **kwargs: Any) -> Any:
            counts[name] += 1
            return before(self, *args, **kwargs)

        monkeypatch.setattr(owner, method, act)

    init = FedKA.__init__

    def counting(self: Any, **options: Any) -> None:
        counts["strategy"] += 1
        init(self, **options)

    counting.__wrapped__ = init  # the options stand in its signature
    monkeypatch.setattr(FedKA, "__init__", counting)
    counted(FedKA, "recipe", "recipe")
    counted(LearnerModels, "__call__", "server model")
    return counts


def test_a_run_makes_one_of_each(tiny: Any, made: Counter[str], tmp_path: Path) -> None:
    experiment = tiny(strategy={"name": "fedka"}, rounds=1, **DOMAINS)
    execute(prepare(experiment), tmp_path, label="x")
    assert made == {"strategy": 1, "recipe": 1, "server model": 1}


def test_a_plan_runs_twice_alike(tiny: Any, tmp_path: Path) -> None:
    # Its memory holds gaps of clients: were they left in the plan, the second run would use them.
    plan = prepare(tiny(strategy={"name": "fedga", "local_epochs": 1}, models=["mlp"]))
    rows = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        execute(plan, folder, label="x")
        rows.append([{k: v for k, v in r.items() if k != "seconds"} for r in read_rounds(folder)])
    assert rows[0] == rows[1]
    assert plan.strategy.memory == {}


def test_what_cannot_be_copied_is_named(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = prepare(tiny(strategy={"name": "fedga"}, models=["mlp"]))
    monkeypatch.setattr(plan.strategy, "lock", threading.Lock(), raising=False)
    assert isinstance(plan.strategy, FedGA)
    with pytest.raises(ConfigError, match=r"fedga: what its __init__ keeps cannot be copied: Type"):
        strategy_of(plan)


TWO = '''
from torch import nn

from fedkt import KnowledgeStrategy, Load, Recipe, Train, Weights
from fedkt.fusion import mean
from fedkt.objectives import CrossEntropy


class Model(nn.Module):
    def __init__(self, *widths, classes):
        super().__init__()
        layers = [nn.Linear(a, b) for a, b in zip(widths, widths[1:])]
        self.body, self.out = nn.Sequential(nn.Flatten(), *layers), nn.Linear(widths[-1], classes)

    def forward(self, x):
        return self.out(self.body(x))


def one(shape, classes):
    return Model(64, 8, classes=classes)


def two(shape, classes):
    return Model(64, 16, 8, classes=classes)


class Shared(KnowledgeStrategy):
    """Average a part of the models."""

    def __init__(self, of: str = "@head"):
        self.of = of

    def recipe(self):
        train, load = Train("private", [CrossEntropy()]), Load("part")
        return Recipe(learn=[load, train], share=[Weights("part", of=self.of)], absorb=[load])

    def fuse(self, uploads):
        return mean(uploads["part"])
'''


def test_models_of_which_a_part_is_shared_may_differ_in_the_rest(tiny: Any, tmp_path: Path) -> None:
    file = tmp_path / "two.py"
    file.write_text(TWO, encoding="utf-8")
    models = [f"{file}:one", f"{file}:two"]
    fits, differs = (
        tiny(models=models, strategy={"name": f"{file}:Shared", "of": of})
        for of in ("@head", "@body")
    )
    execute(prepare(fits), tmp_path / "run", label="shared")
    assert [row["failures"] for row in read_rounds(tmp_path / "run")] == [[], []]
    with pytest.raises(ConfigError, match="exchanges weights and needs one architecture"):
        prepare(differs)
