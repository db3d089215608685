"""A read-out in a file of a user's: brings its share, has it fused, keeps, answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedkt.errors import ConfigError
from fedkt.registry import file_digest
from fedkt.simulations.experiment.config import parse
from fedkt.simulations.results import checkpoints
from fedkt.simulations.results.rounds import read_rounds
from fedkt.simulations.runs.plan import prepare
from fedkt.simulations.runs.run import execute

FILE = '''
from dataclasses import dataclass
from typing import ClassVar

import torch

from fedkt import Expected, Knowledge, KnowledgeStrategy, ReadOut, Recipe, Share, Train, register
from fedkt.objectives import CrossEntropy


@register(name="most-answered")
@dataclass(frozen=True)
class MostAnswered(Share):
    """Share how often the client's own samples are answered with each class."""

    name: str = "answers"
    kind: ClassVar[str] = "statistics"

    def make(self, model, work):
        logits = model.predict(work.data.train.x)
        counts = torch.bincount(logits.argmax(1), minlength=logits.shape[1])
        return Knowledge("statistics", {"n": counts.float()})

    def expected(self, asked):
        return Expected("statistics", None, {"n": (asked.num_classes,)})


@register(name="majority")
@dataclass(frozen=True)
class Majority(ReadOut):
    """Answer with the class that the federation answers most, whatever the sample."""

    shift: int = 0

    def shares(self):
        return (MostAnswered(),)

    def fuse(self, stack):
        return Knowledge("statistics", {"n": stack.tensors["n"].sum(0)})

    def settle(self, learner, work):
        fused = work.knowledge.get("answers")
        work.keep("majority.class", None if fused is None else int(fused.tensors["n"].argmax()))

    def answer(self, x, ask, own, log_prior):
        logits, label = ask(None, x).logits, own.get("majority.class")
        if label is None:
            return logits
        answer = torch.zeros_like(logits)
        answer[:, (label + self.shift) % 10] = 1
        return answer


@register(name="by-features")
@dataclass(frozen=True)
class ByFeatures(ReadOut):
    needs_features: ClassVar[bool] = True

    def answer(self, x, ask, own, log_prior):
        return ask(None, x).features[:, :10]


@register
class Alone(KnowledgeStrategy):
    """Training alone, with a read-out."""

    name = "alone"

    def __init__(self, readout: str = "majority"):
        self.readout = readout

    def recipe(self):
        return Recipe(learn=[Train("private", [CrossEntropy()])], readout=self.readout)
'''


CLIENTS, CLASSES = 4, 10


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(FILE, encoding="utf-8")
    return path


def experiment(file: Path, name: str, readout: str, models: Any, seed: int = 0, **run: Any) -> Any:
    return parse({
        "seed": seed,
        "rounds": 2,
        "models": models,
        "strategy": {"name": name, "readout": readout},
        "data": {"clients": CLIENTS, "samples_per_client": 24, "test_samples": 50},
        "run": {"grid": "in-process", "workers": 1, **run},
    })  # fmt: skip


def run(
    folder: Path, file: Path, readout: str = "majority", models: Any = ("mlp", "forest"), **run: Any
) -> tuple[list[dict[str, Any]], dict[int, Any]]:
    """Run the strategy of the file; return its rounds and the clients' last states."""
    plan = prepare(experiment(file, f"{file}:Alone", readout, models, **run))
    execute(plan, folder, label="alone")
    saved = checkpoints.newest(folder / "checkpoints", at_most=2)
    assert saved is not None
    rounds = [{k: v for k, v in row.items() if k != "seconds"} for row in read_rounds(folder)]
    return rounds, saved[1]["clients"]


@pytest.mark.parametrize("executor", ["loop", "cohort"])
def test_it_answers_for_networks_and_forests(file: Path, tmp_path: Path, executor: str) -> None:
    rounds, clients = run(tmp_path / "run", file, executor=executor)
    assert [row["failures"] for row in rounds] == [[], []]
    each_way = 4 * CLASSES * CLIENTS  # float32
    assert rounds[0]["traffic"] == {"up": each_way, "down_unicast": 0, "down_broadcast": each_way}
    assert all(state["settled"] for state in clients.values())
    (label,) = {state["own"]["majority.class"] for state in clients.values()}
    plan = prepare(experiment(file, f"{file}:Alone", "majority", ("mlp", "forest")))
    for client, measured in enumerate(rounds[-1]["personalised_accuracy"]["per_client"]):
        y = plan.federation.client(client).test.y
        assert measured == pytest.approx(float((y == label).double().mean()))


def test_who_sits_out_answers_as_settled_before(file: Path, tmp_path: Path) -> None:
    rounds, clients = run(tmp_path / "run", file, participation=0.5, seed=10)
    (first, _), (second, _) = (row["participants"] for row in rounds)
    plan = prepare(experiment(file, f"{file}:Alone", "majority", ("mlp", "forest"), seed=10))
    label = clients[first]["own"]["majority.class"]
    assert label != clients[second]["own"]["majority.class"], "or the seed must be another"
    y = plan.federation.client(first).test.y
    measured = rounds[1]["personalised_accuracy"]["per_client"][first]
    assert measured == pytest.approx(float((y == label).double().mean()))


@pytest.mark.ray
def test_workers_find_it_by_its_file(file: Path, tmp_path: Path) -> None:
    here, _ = run(tmp_path / "here", file)
    there, _ = run(tmp_path / "there", file, grid="ray")
    assert there == here


def test_a_built_in_method_takes_it_from_the_file(file: Path, tmp_path: Path) -> None:
    readout = f"{file}:Majority(shift=1)"
    plan = prepare(experiment(file, "fedpf", readout, ("mlp",)))
    assert plan.recipe.personal.shift == 1
    assert [share.name for share in plan.recipe.share] == ["public", "answers"]
    assert plan.files == plan.content["files"] == {str(file): file_digest(file)}
    execute(plan, tmp_path / "run", label="fedpf")
    assert [row["failures"] for row in read_rounds(tmp_path / "run")] == [[], []]


def test_models_without_features_are_refused_before_the_run(file: Path, tmp_path: Path) -> None:
    run(tmp_path / "run", file, "by-features", ("mlp",))
    words = "scikit-learn model \\(forest\\) has no features for the read-out 'mine@.*by-features'"
    with pytest.raises(ConfigError, match=words):
        run(tmp_path / "no", file, "by-features")


def test_unknown_names_and_options_are_told(file: Path) -> None:
    for readout, words in (("majorty", "read-out 'majorty'"), ("majority(x=1)", "'x'")):
        with pytest.raises(ConfigError, match=words):
            prepare(experiment(file, f"{file}:Alone", readout, ("mlp",)))
