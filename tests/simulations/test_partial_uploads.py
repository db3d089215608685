"""Clients that answer some public samples only: a sample that nobody answers is not learnt from."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from fedkt.errors import RunFailedError
from fedkt.simulations.experiment.references import read_strategy
from fedkt.simulations.results import checkpoints
from fedkt.simulations.results.rounds import read_rounds
from fedkt.simulations.runs.plan import prepare
from fedkt.simulations.runs.run import execute

FILE = '''
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from fedkt import Knowledge, Predict, register
from fedkt.objectives import Distil
from fedkt.strategies.answers.compose import Compose


@register(name="some")
@dataclass(frozen=True)
class Some(Predict):
    """Answers on some samples, of which nobody has every fourth.

    Rows that a client lacks are left out, or sent with a count of 0.
    """

    counted: bool = False
    partial: bool = True

    def make(self, model, work):
        whole = super().make(model, work)
        has = (whole.ids % 4 != 0) & ((whole.ids + work.client) % 3 != 0)
        if self.counted:
            return Knowledge(whole.kind, whole.tensors, whole.ids, has.long())
        return Knowledge.rows(whole.kind, whole.values[has], whole.ids[has])


@register(name="watched")
@dataclass(frozen=True)
class Watched(Distil):
    """Distillation that fails on samples that nobody has answered, where it can see them."""

    name: ClassVar[str] = "watched"

    def __call__(self, outputs, batch, knowledge):
        ids = knowledge[self.source].ids
        if not torch._C._functorch.is_batchedtensor(ids) and len(ids) <= int(ids.max()):
            assert bool((ids % 4 != 0).all()), "where all are there, they are made up"
            assert bool(torch.isin(batch.ids, ids).all())
        return super().__call__(outputs, batch, knowledge)


class Partly(Compose):
    """A combination whose clients answer some samples."""

    def __init__(self, fusion="mean", form="probabilities", counted=False, **more):
        super().__init__(Watched(), fusion, form=form, local_epochs=1, distil_epochs=2)
        self.counted = counted

    def recipe(self):
        share = Some(form=self.form, counted=self.counted)
        return replace(super().recipe(), share=[share])
'''
FUSIONS = (
    "mean",
    "mean-by-examples",
    "mean-by-counts",
    "median",
    "trimmed-mean(trim=0.3)",
    "sample-weighted-mean",
    "personalised-mean",
    "knowledge-vote(gate=0.2)",
    "trusted-mean(choice=off, weighting=entropy)",
    "vote",
)


def run(folder: Path, tiny: Any, **changes: Any) -> tuple[list[dict[str, Any]], dict[int, Any]]:
    """Run the strategy of the file for two rounds; return the rounds and the clients' states."""
    (folder / "partly.py").write_text(FILE, encoding="utf-8")
    reference = f"{folder / 'partly.py'}:Partly({changes.pop('options')})"
    plan = prepare(tiny(rounds=2, strategy=read_strategy(reference), data__clients=6, **changes))
    out = folder / str(changes.get("run__executor", "auto"))
    execute(plan, out, label="partly")
    saved = checkpoints.newest(out / "checkpoints", at_most=2)
    assert saved is not None
    return list(read_rounds(out)), saved[1]["clients"]


@pytest.mark.parametrize(("fusion", "counted"), zip(FUSIONS, itertools.cycle([False, True])))
def test_the_executors_agree(fusion: str, counted: bool, tmp_path: Path, tiny: Any) -> None:
    options = f"fusion={fusion}, counted={str(counted).lower()}"
    states = {}
    for executor in ("loop", "cohort"):
        rounds, states[executor] = run(
            tmp_path,
            tiny,
            options=options,
            models=("mlp",),
            run__executor=executor,
            training__optimiser="sgd",
            training__learning_rate=0.05,
        )
        assert [row["failures"] for row in rounds] == [[], []]
    for client, state in states["loop"].items():
        for name, tensor in state["learner"]["model"].items():
            other = states["cohort"][client]["learner"]["model"][name]
            assert torch.allclose(tensor, other, atol=1e-5), f"client {client}: {name}"


@pytest.mark.parametrize("fusion", ["mean", "personalised-mean", "vote"])
def test_so_do_models_without_gradients(fusion: str, tmp_path: Path, tiny: Any) -> None:
    rounds, _ = run(
        tmp_path, tiny, options=f"fusion={fusion}, counted=true", models=("mlp", "forest")
    )
    assert [row["failures"] for row in rounds] == [[], []]


@pytest.mark.parametrize("fusion", ["trusted-mean", "semantic-neighbours"])
def test_what_needs_all_rows_says_so(fusion: str, tmp_path: Path, tiny: Any) -> None:
    said = r"^partly, round 1: .* needs all rows of every client, and client \d lacks some$"
    with pytest.raises(RunFailedError, match=said):
        run(tmp_path, tiny, options=f"fusion={fusion}", models=("mlp",))
