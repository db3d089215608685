"""Runs in which something is not finite: a failure or null with its reason, never an accuracy."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedkt.data import ClientData, Federation
from fedkt.fusion import mean_by_examples
from fedkt.knowledge import Fused, Uploads
from fedkt.simulations.experiment.config import parse
from fedkt.simulations.runs.plan import prepare
from fedkt.simulations.runs.recorder import read_rounds
from fedkt.simulations.runs.run import execute
from fedkt.strategies.weights.fedavg import FedAvg

HUGE = 1e30
ODD = 1


class Overflowing(Federation):
    """Client 1's training inputs are so large that its training diverges."""

    def client(self, client: int) -> ClientData:
        data = super().client(client)
        if client != ODD:
            return data
        return replace(data, train=replace(data.train, x=data.train.x * HUGE))


def run(
    folder: Path,
    strategy: dict[str, Any],
    *,
    spoil: bool = True,
    rounds: int = 2,
    executor: str = "loop",
    **settings: Any,
) -> list[dict[str, Any]]:
    """Run three clients, of whom one is spoilt, and return the rows."""
    plan = prepare(parse({
        "rounds": rounds,
        "models": ["mlp"],
        "strategy": strategy,
        "data": {"clients": 3, "samples_per_client": 30, "public_samples": 40, "test_samples": 60},
        "training": {"batch_size": 8, "optimiser": "sgd"},
        "run": {"grid": "in-process", "executor": executor, **settings},
    }))  # fmt: skip
    if spoil:
        held = {f.name: getattr(plan.federation, f.name) for f in fields(plan.federation)}
        plan = replace(plan, federation=Overflowing(**held))
    execute(plan, folder, label="run")
    return read_rounds(folder)


@pytest.mark.parametrize("executor", ["loop", "cohort"])
@pytest.mark.parametrize("name", ["local", "fedavg", "fedmd", "fedpf"])
def test_training_that_diverges_is_a_failure_with_its_reason(
    tmp_path: Path, name: str, executor: str
) -> None:
    rows = run(tmp_path, {"name": name, "local_epochs": 2}, executor=executor)
    for row in rows:
        (failure,) = row["failures"]
        assert (failure["client"], failure["phase"]) == (ODD, "learn")
        expected = f"NotFiniteError: client {ODD}, learn: training has diverged"
        assert failure["reason"].startswith(expected)
        assert row["participants"] == [0, 2]


def exploding(self: FedAvg, uploads: Uploads) -> Fused:
    """Send back weights that are finite and overflow in the very next product."""
    (weights,) = mean_by_examples(uploads["weights"]).shared.values()
    large = {n: torch.full_like(t, HUGE) for n, t in weights.tensors.items()}
    return Fused({"weights": weights.with_tensors(large)})


def test_the_servers_figure_is_null_with_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FedAvg, "fuse", exploding)
    rows = run(tmp_path, {"name": "fedavg"}, spoil=False, rounds=1, participation=0.67)
    first = rows[0]
    assert first["server_accuracy"] is None
    (note,) = first["notes"]
    assert note.startswith("the server's model is not measured: 60 of 60 answers hold NaN")
    said = {f["client"]: (f["phase"], f["reason"]) for f in first["failures"]}
    assert len(said) == 2, "both that took part; the third was not asked to take the weights"
    for client, (phase, reason) in said.items():
        assert phase == "evaluate"
        assert reason.startswith(f"NotFiniteError: client {client}, evaluate: ")
        assert first["personalised_accuracy"]["per_client"][client] is None


@pytest.mark.parametrize("executor", ["loop", "cohort"])
def test_the_group_effect_is_null_and_training_goes_on(
    tmp_path: Path, executor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measuring changes no model: who cannot be measured takes part all the same."""
    test = Federation.client

    def client(self: Federation, number: int) -> ClientData:
        data = test(self, number)
        if number != ODD or data.common_test is None:
            return data
        return replace(data, common_test=replace(data.common_test, x=data.common_test.x * np.inf))

    monkeypatch.setattr(Federation, "client", client)
    section = {"name": "fedmd", "local_epochs": 1}
    options = {"spoil": False, "executor": executor}
    rows = run(tmp_path / "a", section, group_effect=True, **options)
    for row in rows:
        phases = [(f["client"], f["phase"]) for f in row["failures"]]
        assert phases == [(ODD, "group effect"), (ODD, "evaluate")]
        assert row["participants"] == [0, 1, 2]
        assert row["group_effect"] is not None


def test_the_others_train_as_if_nothing_had_been(tmp_path: Path) -> None:
    trained = run(tmp_path / "a", {"name": "local", "local_epochs": 1}, spoil=False)
    broken = run(tmp_path / "b", {"name": "local", "local_epochs": 1})
    for row, other in zip(broken, trained, strict=True):
        ours, theirs = (r["global_accuracy"]["per_client"] for r in (row, other))
        assert (ours[0], ours[2]) == (theirs[0], theirs[2])
