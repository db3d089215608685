"""A share in a file of a user's: made, sent, checked, fused and read like the built-in ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fedkt.errors import ConfigError, RunFailedError
from fedkt.simulations.experiment.config import parse
from fedkt.simulations.results import checkpoints
from fedkt.simulations.results.rounds import read_rounds
from fedkt.simulations.runs.plan import prepare
from fedkt.simulations.runs.run import execute

FILE = '''
from dataclasses import dataclass
from typing import ClassVar

import torch

from fedkt import Expected, Fused, Knowledge, KnowledgeStrategy, Recipe, Share, Train, register
from fedkt.objectives import weighted_mean


@register(name="own-label-counts")
@dataclass(frozen=True)
class ClassCounts(Share):
    """Share how many training samples of each class a client holds."""

    name: str = "counts"
    kind: ClassVar[str] = "statistics"
    wrong: bool = False

    def about(self, model, data):
        return {"number of layers": str(len(list(model.model.parameters())))}

    def refuses(self, model, data):
        return "a refusal of its own" if self.name == "refused" else None

    def make(self, model, work):
        counts = work.data.class_counts.float()
        return Knowledge("statistics", {"counts": counts[1:] if self.wrong else counts})

    def expected(self, asked):
        return Expected("statistics", None, {"counts": (asked.num_classes,)})


@register
@dataclass(frozen=True)
class Balanced:
    """Cross-entropy adjusted by what classes there are in the federation."""

    part: ClassVar[str] = "objectives"
    name: ClassVar[str] = "balanced"
    source: str = "counts"

    def needs(self):
        return (self.source,)

    def __call__(self, outputs, batch, knowledge):
        prior = (knowledge[self.source].tensors["counts"] + 1).log()
        adjusted = (outputs.logits + prior).log_softmax(-1)
        losses = -adjusted.gather(-1, batch.y[:, None]).squeeze(-1)
        return weighted_mean(losses, batch.weight)


class Counting(KnowledgeStrategy):
    """Everybody learns with the class counts of all."""

    def __init__(self, share: str = "counts", wrong: bool = False) -> None:
        self.share, self.wrong = share, wrong

    def recipe(self):
        return Recipe(
            share=[ClassCounts(self.share, self.wrong)],
            absorb=[Train("private", [Balanced(self.share)], epochs=2)],
        )

    def fuse(self, uploads):
        counts = uploads[self.share].tensors["counts"].sum(0)
        return Fused(shared={self.share: Knowledge("statistics", {"counts": counts})})
'''
CLIENTS, CLASSES = 4, 10


def run(folder: Path, file: Path, **run: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Run the strategy of the file; return its rounds and its last checkpoint."""
    plan = prepare(experiment(file, **run))
    execute(plan, folder, label="counting")
    saved = checkpoints.newest(folder / "checkpoints", at_most=2)
    assert saved is not None
    rounds = [{k: v for k, v in row.items() if k != "seconds"} for row in read_rounds(folder)]
    return rounds, saved[1]["clients"]


def experiment(file: Path, options: dict[str, Any] | None = None, **run: Any) -> Any:
    return parse({
        "rounds": 2,
        "models": ("mlp",),
        "strategy": {"name": f"{file}:Counting", **(options or {})},
        "data": {"clients": CLIENTS, "samples_per_client": 20, "test_samples": 50},
        "run": {"grid": "in-process", "workers": 1, **run},
    })  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(FILE, encoding="utf-8")
    return path


def test_it_is_uploaded_fused_and_learnt_from(file: Path, tmp_path: Path) -> None:
    rounds, clients = run(tmp_path / "loop", file, executor="loop")
    assert [row["failures"] for row in rounds] == [[], []]
    one = 4 * CLASSES * CLIENTS  # float32
    assert rounds[0]["traffic"] == {"up": one, "down_unicast": 0, "down_broadcast": one}
    _, together = run(tmp_path / "cohort", file, executor="cohort")
    for client in range(CLIENTS):
        ours, theirs = (c[client]["learner"]["model"] for c in (together, clients))
        for name, tensor in ours.items():
            assert torch.allclose(tensor, theirs[name], atol=1e-5), "cohorts learn from it too"


@pytest.mark.ray
def test_workers_find_it_by_its_file(file: Path, tmp_path: Path) -> None:
    here, _ = run(tmp_path / "here", file)
    there, _ = run(tmp_path / "there", file, grid="ray")
    assert there == here


def test_the_server_checks_what_arrives_against_it(file: Path, tmp_path: Path) -> None:
    plan = prepare(experiment(file, {"wrong": True}))
    with pytest.raises(RunFailedError, match=r"client 0: counts has shape \[9\], not \[10\]"):
        execute(plan, tmp_path / "run", label="counting")


def test_a_refusal_is_heard_before_anything_runs(file: Path) -> None:
    with pytest.raises(ConfigError, match="a refusal of its own"):
        prepare(experiment(file, {"share": "refused"}))


def test_what_its_clients_must_agree_on(file: Path, tmp_path: Path) -> None:
    """Two architectures differ in what the share tells, unless it tells of an architecture."""
    mixed = {"models": ("mlp", "linear")}
    reason = (
        "client 1: number of layers is '2' where the others have '4' "
        r"\(the method needs one number of layers\)"
    )
    with pytest.raises(ConfigError, match=reason):
        execute(prepare(experiment(file).with_values(**mixed)), tmp_path / "run", label="counting")
    source = FILE.replace(
        "    wrong: bool", '    group: ClassVar[str] = "architecture"\n    wrong: bool'
    )
    file.write_text(source, encoding="utf-8")
    execute(prepare(experiment(file).with_values(**mixed)), tmp_path / "grouped", label="counting")
    assert [row["failures"] for row in read_rounds(tmp_path / "grouped")] == [[], []]


def test_an_unknown_share_is_refused_before_anything_trains(file: Path) -> None:
    unknown = FILE.replace('@register(name="own-label-counts")\n', "")
    file.write_text(unknown, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"ClassCounts is not registered\. Write @register"):
        prepare(experiment(file))
