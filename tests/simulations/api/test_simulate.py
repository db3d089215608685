"""fedkt.simulate and fedkt.compare: as the command line, and with objects on every grid."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from torch import Tensor, nn

import fedkt
from fedkt import Knowledge, KnowledgeStrategy, Predict, Recipe, Term, Train, Uploads, register
from fedkt.errors import ConfigError, RunFailedError
from fedkt.fusion import mean
from fedkt.objectives import KL, CrossEntropy, Distil, weighted_mean
from fedkt.simulations.results.run_folder import read_content

TINY: dict[str, Any] = {
    "clients": 3,
    "rounds": 2,
    "samples_per_client": 30,
    "public_samples": 40,
    "test_samples": 40,
    "grid": "in-process",
}
FLAGS = ["--clients", "3", "--rounds", "2", "--grid", "in-process"]
SET = ["data.samples_per_client=30", "data.public_samples=40", "data.test_samples=40"]
WIDTH = 6


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw nothing where the report is not read: it takes most of a tiny run's time."""
    for module in ("cli.commands", "api.simulating", "api.comparing"):
        for name in ("write_run_report", "write_comparison_report", "write_cells_report"):
            monkeypatch.setattr(f"fedkt.simulations.{module}.{name}", Path, raising=False)


# --- what a user writes in a script, a cell or a test ----------------------------------------


@register
@dataclass(frozen=True)
class Shrink(Term):
    """The mean square of the logits."""

    factor: float

    def __call__(self, outputs: Any, batch: Any, knowledge: Any) -> Tensor:
        return self.factor * weighted_mean(squared(outputs.logits), batch.weight)


def squared(x: Tensor) -> Tensor:
    return (x**2).mean(1)


class Mine(KnowledgeStrategy):
    """Averaged answers, with small logits."""

    def __init__(self, factor: float = 0.01) -> None:
        super().__init__()
        self.factor = factor

    def recipe(self) -> Recipe:
        return Recipe(
            learn=[Train(on="private", terms=[CrossEntropy(), Shrink(self.factor)])],
            share=[Predict(on="public", form="probabilities")],
            absorb=[Train(on="public", terms=[Distil(KL(1.0))])],
        )

    def fuse(self, uploads: Uploads) -> fedkt.Fused:
        return mean(uploads["public"])


class Named(Mine):
    """The same, with a name of its own."""

    name: ClassVar[str] = "gentle-answers"


class Sharper(Mine):
    """Averaged answers of which the k-th power is taken: a strategy that holds a function."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.change = change

    def fuse(self, uploads: Uploads) -> fedkt.Fused:
        fused = mean(uploads["public"])
        (knowledge,) = fused.shared.values()
        p = self.change(knowledge.tensors["values"])
        sharp = Knowledge(
            knowledge.kind, {"values": p / p.sum(1, keepdim=True)}, knowledge.ids, knowledge.counts
        )
        return fedkt.Fused({"public": sharp})


def build(shape: tuple[int, ...], classes: int) -> nn.Module:
    inputs = int(np.prod(shape))
    return nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, WIDTH), nn.ReLU(), nn.Linear(WIDTH, classes)
    )


def top_two(logits: Tensor, labels: Tensor, weight: Tensor) -> float:
    """Samples whose class is among the best two."""
    hits = (logits.topk(2).indices == labels[:, None]).any(1)
    return float((hits * weight).mean())


def deal(labels: Any, argument: str, clients: int, seed: int, samples_per_client: int) -> list[Any]:
    """Share samples out in turn, as many to each client as there are."""
    return [np.arange(client, len(labels), clients) for client in range(clients)]


def table(seed: int = 0) -> tuple[Any, Any]:
    """Return 240 rows of 5 columns, and labels."""
    x = np.random.default_rng(seed).normal(size=(240, 5)).astype(np.float32)
    return x, (x[:, 0] > 0).astype(int) + (x[:, 1] > 0)


def own(**changes: Any) -> fedkt.Experiment:
    """Return an experiment in which everything is an object of this module."""
    given: dict[str, Any] = {
        **TINY,
        "data": table(),
        "models": {"net": build},
        "partition": deal,
        "metrics": [top_two],
        "executor": "loop",
        "workers": 2,
        **changes,
    }
    return fedkt.Experiment(**given)


# --- the same as the command line ------------------------------------------------------------


def test_a_run_from_python_is_that_of_the_command_line(
    here: Path, fedkt: Any, figures: Any
) -> None:
    from fedkt import Experiment, simulate

    study = Experiment(data="digits", models=["mlp"], **TINY)
    run = simulate(study, "fedmd(distil_epochs=1)", out="python")
    flags = [*FLAGS, *(word for value in SET for word in ("--set", value)), "--models", "mlp"]
    assert (
        fedkt("simulate", *flags, "--strategy", "fedmd(distil_epochs=1)", "--out", "cli").code == 0
    )
    assert figures(here / "python") == figures(here / "cli")
    assert figures(here / "python/baseline") == figures(here / "cli/baseline")
    for name in ("config.toml", "federation.json"):
        assert (here / "python" / name).read_bytes() == (here / "cli" / name).read_bytes()
    assert (run.strategy, run.folder) == ("fedmd", Path("python"))


def test_a_comparison_from_python_is_that_of_the_command_line(
    here: Path, fedkt: Any, figures: Any
) -> None:
    from fedkt import Experiment, compare

    study = Experiment(data="digits", models=["mlp", "linear"], **TINY)
    both = compare(study, ["local", "hot = fedmd(distil_epochs=1)"], seeds=2, out="python")
    flags = [
        *FLAGS,
        *(word for value in SET for word in ("--set", value)),
        "--models",
        "mlp,linear",
    ]
    named = ["--strategies", "local,hot = fedmd(distil_epochs=1)", "--seeds", "2", "--out", "cli"]
    assert fedkt("compare", *flags, *named).code == 0
    runs = sorted(path.name for path in (here / "cli/runs").iterdir())
    assert runs == sorted(path.name for path in (here / "python/runs").iterdir())
    for run in runs:
        assert figures(here / "python/runs" / run) == figures(here / "cli/runs" / run)
    left, right = (timeless(here / name / "comparison.csv") for name in ("python", "cli"))
    assert left == right
    assert both.strategies == ["local", "hot"]
    assert both.test("hot", "local").n == 2


def timeless(file: Path) -> list[dict[str, str]]:
    rows = csv.DictReader(io.StringIO(file.read_text(encoding="utf-8")))
    return [{k: v for k, v in row.items() if "seconds" not in k} for row in rows]


def test_two_runs_in_one_second_have_folders_of_their_own(here: Path) -> None:
    study = fedkt.Experiment(data=table(), models=["linear"], **{**TINY, "rounds": 1})
    first, second = (fedkt.simulate(study, "local") for _ in range(2))
    assert first.folder != second.folder
    assert {path.name for path in (here / "runs").iterdir()} == {
        first.folder.name,
        second.folder.name,
    }


# --- objects ---------------------------------------------------------------------------------


def test_objects_are_the_same_on_every_grid(here: Path, figures: Any) -> None:
    run = fedkt.simulate(own(), Mine(0.02), out="in-process")
    assert run.strategy == "Mine"
    assert {"personalised_top_two", "personalised_accuracy"} <= set(run.figures())
    for grid in ("ray", "flower"):
        fedkt.simulate(own(grid=grid), Mine(0.02), out=grid)
        assert figures(here / grid) == figures(here / "in-process")


def test_objects_travel_to_the_processes_of_a_comparison(here: Path, figures: Any) -> None:
    strategies = ["local", Mine, Mine(0.5), Named(), {"sharp": Sharper(torch.square)}]
    labels = ["local", "Mine", "Mine(factor=0.5)", "gentle-answers"]
    *plain, sharp = strategies
    for out, processes in (("one", 1), ("two", 2)):
        study = own(processes=processes)
        result = fedkt.compare(study, [*plain, *sharp.values()], seeds=2, out=out)
        assert result.strategies == [*labels, "Sharper"]
    runs = sorted(path.name for path in (here / "one/runs").iterdir())
    assert {"Mine-seed1", "Sharper-seed0", "local-seed0"} <= set(runs)
    for run in runs:
        assert figures(here / "one/runs" / run) == figures(here / "two/runs" / run)


def test_estimators_and_networks_may_be_objects(here: Path) -> None:
    torch.manual_seed(3)
    models = {
        "forest": RandomForestClassifier(5, random_state=0),
        "net": nn.Linear(5, 3),
        "lazy": nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.LazyLinear(3)),
    }
    run = fedkt.simulate(own(models=models), "fedmd(distil_epochs=1)", out="run")
    assert [m.partition(":")[2] for m in run.record.federation["models"]] == [
        "forest",
        "net",
        "lazy",
    ]
    assert isinstance(run.client(0).model(), RandomForestClassifier)


def test_cells_may_hold_objects(here: Path) -> None:
    cells = [{"name": "dealt", "data": {"partition": deal}}, {"name": "wide", "models": [build]}]
    result = fedkt.compare(own(models=["linear"], cells=cells), ["local"], seeds=1, out="cells")
    assert set(result.cells) == {"dealt", "wide"}


def test_a_strategy_may_have_a_label(here: Path) -> None:
    study = fedkt.Experiment(data=table(), models=["linear"], **{**TINY, "rounds": 1})
    result = fedkt.compare(study, {"alone": "local", "mine": Mine()}, seeds=1, out="labels")
    assert result.strategies == ["alone", "mine"]


def test_an_object_of_a_strategy_is_the_text_with_its_options() -> None:
    from fedkt.strategies import FedMD

    study = fedkt.Experiment(strategy=FedMD(distil_epochs=2))
    assert study.strategy == {"name": "fedmd", "distil_epochs": 2}
    mine = fedkt.Experiment(strategy=Mine(0.5)).strategy
    assert {k: v for k, v in mine.items() if k != "name"} == {"factor": 0.5}


def test_what_a_strategy_was_changed_to_after_it_was_made_is_kept(here: Path) -> None:
    changed = Mine(0.5)
    changed.extra = 1  # type: ignore[attr-defined]  # added after it was made
    name = fedkt.Experiment(strategy=changed).strategy["name"]
    made = fedkt.registry.lookup("strategies", name)()
    assert (made.factor, made.extra, made is changed) == (0.5, 1, False)
    assert fedkt.Experiment(strategy=Mine(0.5)).strategy["name"] != name


# --- identity is content -----------------------------------------------------------------------


def test_other_data_under_the_same_name_are_another_run(here: Path, figures: Any) -> None:
    study = own(models=["linear"])
    first = fedkt.simulate(study, "local", out="first")
    other = own(models=["linear"], data=table(seed=1))
    assert study.data.dataset != other.data.dataset
    second = fedkt.simulate(other, "local", out="second")
    assert figures(first.folder) != figures(second.folder)
    assert first.record.federation["content"] != second.record.federation["content"]
    again = fedkt.simulate(own(models=["linear"]), "local", out="first", resume=True)
    assert figures(again.folder) == figures(first.folder)
    with pytest.raises(ConfigError, match=r"first was begun with another data"):
        fedkt.simulate(other, "local", out="first", resume=True)
    with pytest.raises(ConfigError, match=r"^first exists; resume it \(--resume, in Python resume"):
        fedkt.simulate(study, "local", out="first")


CELL = """
@register
@dataclass(frozen=True)
class OfCell(Term):
    '''A term of a cell.'''
    def __call__(self, outputs, batch, knowledge):
        return weighted_mean(outputs.logits.pow(2).mean(1), batch.weight) * {factor}

class OnCell(Mine):
    '''A strategy whose term is in another cell.'''
    def recipe(self):
        return Recipe(learn=[Train(on="private", terms=[CrossEntropy(), OfCell()])])
    def fuse(self, uploads):
        return Fused()
"""


def cell(factor: float) -> Any:
    """Run a cell, as if it had been edited; return its strategy."""
    space = {**globals(), "Fused": fedkt.Fused, "__name__": "__main__"}
    exec(compile(CELL.format(factor=factor), "<cell>", "exec", dont_inherit=True), space)
    return space["OnCell"]


def test_an_edited_cell_is_never_taken_for_the_old_one(here: Path) -> None:
    study = own(models={"net": build}, rounds=1)
    first = fedkt.simulate(study, cell(0.1), out="first")
    assert read_content(first.folder)["objects"].keys() >= {"objective of-cell", "strategy OnCell"}
    one = first.client(0).model().state_dict()["1.weight"]
    longer = study.with_values(rounds=2)
    fedkt.simulate(longer, cell(0.1), out="first", resume=True)
    with pytest.raises(ConfigError, match=r"first was begun with another strategy"):
        fedkt.simulate(longer, cell(9.0), out="first", resume=True)
    edited = fedkt.simulate(study, cell(9.0), out="edited")
    assert not torch.equal(edited.client(0).model().state_dict()["1.weight"], one)
    both = fedkt.compare(study, ["local", cell(0.1)], seeds=1, out="both")
    with pytest.raises(
        ConfigError, match=r"both was begun with another content of strategy OnCell"
    ):
        fedkt.compare(study, ["local", cell(9.0)], seeds=1, out="both", resume=True)
    assert both.strategies == ["local", "OnCell"]


def test_what_a_registered_name_stands_for_is_part_of_a_run(here: Path) -> None:
    study = own(models={"net": build})
    register(part="strategies", name="on-cell", replace=True)(cell(0.1))
    fedkt.simulate(study, "on-cell", out="first")
    register(part="strategies", name="on-cell", replace=True)(cell(9.0))
    with pytest.raises(ConfigError, match="another content of objective of-cell"):
        fedkt.simulate(study, "on-cell", out="first", resume=True)


def test_a_model_follows_the_names_that_it_uses(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = own(models={"net": build}).models
    monkeypatch.setitem(globals(), "WIDTH", 9)
    study = own(models={"net": build})
    assert study.models != first
    run = fedkt.simulate(study, "fedavg", out="wide")
    weights = run.client(0).model().state_dict()
    assert weights["1.weight"].shape == (9, 5)


# --- refusals ------------------------------------------------------------------------------------


def test_what_a_run_lacks_is_said_before_it_begins(here: Path) -> None:
    with pytest.raises(ConfigError, match=r"^strategy 'Mine' is an object of"):
        fedkt.simulate(own(), "python@0123456789ab:Mine", out="nothing")
    with pytest.raises(ConfigError, match=r"Unknown strategy 'fedmb'\. Did you mean 'fedmd'"):
        fedkt.compare(own(), ["local", "fedmb"], out="nothing")
    with pytest.raises(ConfigError, match=r"dict is no strategy"):
        fedkt.compare(own(), ["local", {"mine": Mine}], out="nothing")
    assert not Path("nothing").exists()


class Failing(Mine):
    """A strategy that fails in fusion."""

    def fuse(self, uploads: Uploads) -> fedkt.Fused:
        raise RuntimeError("no answer")


def test_runs_that_went_well_are_there_after_one_that_failed(here: Path) -> None:
    study = own(models=["linear"], rounds=1)
    with pytest.raises(RunFailedError, match=r"1 of 4 runs failed"):
        fedkt.compare(study, ["local", Mine, Failing], seeds=1, out="some")
    assert fedkt.load("some").strategies == ["local", "Mine"]
