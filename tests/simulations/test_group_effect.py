"""The group effect of whole runs: what it is where one knows it, and that it changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fedkt.data.federation import Federation
from fedkt.simulations.results.rounds import read_rounds
from fedkt.simulations.runs.plan import prepare
from fedkt.simulations.runs.recorder import round_row
from fedkt.simulations.runs.run import execute
from fedkt.strategies import RoundReport

FEDAVG = {"name": "fedavg", "local_epochs": 1}
DESTROYER = """
from fedkt.knowledge import Fused
from fedkt.strategies.weights.fedavg import FedAvg

class Destroyer(FedAvg):
    '''Sends back weights of which nothing is left.'''
    name = "destroyer"

    def fuse(self, uploads):
        (name, whole), = super().fuse(uploads).shared.items()
        nothing = {key: 0 * tensor for key, tensor in whole.tensors.items()}
        return Fused({name: whole.with_tensors(nothing)})
"""


def run(tiny: Any, folder: Path, name: str = "run", **changes: Any) -> list[dict[str, Any]]:
    plan = prepare(tiny(**{"run__group_effect": True, "models": ["mlp"], **changes}))
    execute(plan, folder / name, label=name)
    return read_rounds(folder / name)


def effects(rows: list[dict[str, Any]]) -> list[float | None]:
    return [row["group_effect"] for row in rows]


def test_without_the_option_it_is_null(tiny: Any, tmp_path: Path) -> None:
    assert effects(run(tiny, tmp_path, run__group_effect=False, strategy=FEDAVG)) == [None, None]


def test_clients_that_fuse_nothing_lose_nothing(tiny: Any, tmp_path: Path) -> None:
    local = {"name": "local", "local_epochs": 1}
    assert effects(run(tiny, tmp_path, strategy=local, models=["mlp", "linear"])) == [0.0, 0.0]


def test_identical_models_have_an_average_of_the_same_accuracy(tiny: Any, tmp_path: Path) -> None:
    """No epochs: every client still is the global model."""
    still = {**FEDAVG, "local_epochs": 0}
    assert effects(run(tiny, tmp_path, strategy=still)) == [0.0, 0.0]
    alone = run(tiny, tmp_path, "alone", strategy=FEDAVG, data__clients=1)
    assert effects(alone) == [0.0, 0.0], "the average of one model that did train"


def test_it_is_before_minus_after(tiny: Any, tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(DESTROYER, encoding="utf-8")
    broken = {"name": f"{mine}:Destroyer", "local_epochs": 8}
    rows = run(tiny, tmp_path, strategy=broken, rounds=1)
    assert 0.05 < effects(rows)[0] < 1, "fusing destroys: positive"
    whole = run(tiny, tmp_path, "whole", strategy={**FEDAVG, "local_epochs": 8}, rounds=1)
    learnt = effects(rows)[0] + rows[0]["server_accuracy"]
    assert effects(whole)[0] + whole[0]["server_accuracy"] == pytest.approx(learnt)


def test_clients_of_their_own_are_compared_with_themselves(tiny: Any, tmp_path: Path) -> None:
    rows = run(tiny, tmp_path, models=["mlp", "linear"], run__participation=0.67)
    assert all(-1 < value < 1 for value in effects(rows))
    assert all(row["server_accuracy"] is None for row in rows)


def test_liars_are_left_out() -> None:
    report = RoundReport(1, (0, 1, 2))
    report.learnt = {0: 0.9, 1: 0.5}
    report.metrics = {c: {"global-accuracy": a} for c, a in enumerate((0.1, 0.4, 0.3))}
    lying: Any = SimpleNamespace(clients=frozenset({0}), silent=frozenset())
    assert round_row(report, None)["group_effect"] == pytest.approx((0.8 + 0.1) / 2)
    assert round_row(report, None, lying)["group_effect"] == pytest.approx(0.1)
    report.server_accuracy, report.one_model = 0.7, True
    assert round_row(report, None, lying)["group_effect"] == pytest.approx(-0.2)


@pytest.mark.parametrize("strategy", ["fedavg", "knfu", "fedpf"])
def test_measuring_changes_no_bit(
    tiny: Any, tmp_path: Path, strategy: str, final_state: Any, figures: Any
) -> None:
    section = {"name": strategy, "local_epochs": 1}
    run(tiny, tmp_path, "with", strategy=section)
    run(tiny, tmp_path, "without", strategy=section, run__group_effect=False)
    assert final_state(tmp_path / "with") == final_state(tmp_path / "without")
    seen, plain = figures(tmp_path / "with"), figures(tmp_path / "without")
    assert [{**row, "group_effect": None} for row in seen] == plain


def test_every_client_s_transfer_is_written(tiny: Any, tmp_path: Path) -> None:
    plan = prepare(tiny())
    local = plan.experiment.with_values(strategy={"name": "local", "local_epochs": 1})
    execute(prepare(local), tmp_path / "alone", label="local")
    execute(plan, tmp_path / "knfu", label="knfu", baseline=tmp_path / "alone")
    alone, ours = read_rounds(tmp_path / "alone"), read_rounds(tmp_path / "knfu")
    assert [row["transfer"] for row in alone] == [None, None]
    for mine, theirs in zip(ours, alone, strict=True):
        pair = mine["personalised_accuracy"], theirs["personalised_accuracy"]
        own, base = (accuracy["per_client"] for accuracy in pair)
        expected = [a - b for a, b in zip(own, base, strict=True)]
        assert mine["transfer"]["per_client"] == pytest.approx(expected)
        assert mine["transfer"]["mean"] == pytest.approx(sum(expected) / len(expected))
    last = json.loads((tmp_path / "knfu" / "summary.json").read_text(encoding="utf-8"))["last"]
    assert last["target_accuracy"] is None, "a federation without a target"


@pytest.mark.parametrize("strategy", ["fedavg", "knfu"])
def test_a_federation_with_a_target_reports_its_accuracy(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    describe = Federation.describe
    monkeypatch.setattr(Federation, "describe", lambda self: {**describe(self), "target": "aim"})
    section = {"name": strategy, "local_epochs": 1}
    rows = run(tiny, tmp_path, strategy=section, rounds=3, run__oracle=True)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    served = [row["server_accuracy"] for row in rows]
    found = served if strategy == "fedavg" else [row["global_accuracy"]["mean"] for row in rows]
    assert summary["last"]["target_accuracy"] == found[-1]
    assert summary["oracle"]["target_accuracy"] == max(found)
    assert summary["oracle"]["round"] == 1 + found.index(max(found))
