"""What a run writes as it goes: rounds, summary, checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fedkt.errors import ConfigError
from fedkt.simulations.results.checkpoints import newest
from fedkt.simulations.results.rounds import read_rounds
from fedkt.simulations.runs import checkpoint
from fedkt.simulations.runs.plan import prepare
from fedkt.simulations.runs.progress import Silent
from fedkt.simulations.runs.recorder import Recorder, round_row, summarise
from fedkt.simulations.runs.run import execute
from fedkt.strategies import Failure, RoundReport


def report(round_: int = 1, *accuracies: float | None) -> RoundReport:
    one = RoundReport(round_, tuple(range(len(accuracies))))
    one.metrics = {
        c: {"personalised-accuracy": a} for c, a in enumerate(accuracies) if a is not None
    }
    return one


def row(round_: int, validation: float | None, personalised: float | None = 0.5) -> dict[str, Any]:
    return {
        "round": round_,
        "personalised_accuracy": {"mean": personalised, "std": 0.1, "per_client": []},
        "global_accuracy": {"mean": 0.4, "std": 0.1, "per_client": []},
        "validation_accuracy": {"mean": validation, "std": 0.1, "per_client": []},
        "server_accuracy": None,
        "negative_transfer": None,
        "negative_transfer_loss": None,
        "bytes_up": 10.0,
        "bytes_down": 20.0,
        "seconds": 0.5,
        "failures": [{"client": 0, "phase": "learn", "reason": "x"}] if round_ == 2 else [],
    }


# --- rounds ----------------------------------------------------------------------------------


def test_negative_transfer_counts_clients_worse_than_alone() -> None:
    alone = {"personalised_accuracy": {"per_client": [0.5, 0.5, 0.5, None, 0.5]}}
    written = round_row(report(1, 0.6, 0.5, 0.3, 0.1, None), alone)
    assert written["negative_transfer"] == pytest.approx(1 / 3), "of the three that are known"
    assert written["negative_transfer_loss"] == pytest.approx(0.2)
    assert round_row(report(1, 0.6), None)["negative_transfer"] is None
    better = round_row(report(1, 0.6), {"personalised_accuracy": {"per_client": [0.5]}})
    assert (better["negative_transfer"], better["negative_transfer_loss"]) == (0.0, 0.0)


def test_bytes_are_per_client_and_kinds_told_apart() -> None:
    one = report(3, 0.5, None)
    one.traffic.up, one.traffic.down_unicast, one.traffic.down_broadcast = 10, 4, 6
    one.failures.append(Failure(1, "share", "bad rows"))
    one.diagnostics = {"weights": torch.eye(2), "by": {3: (1, 2)}}
    written = json.loads(json.dumps(round_row(one, None)))
    assert (written["bytes_up"], written["bytes_down"]) == (5.0, 5.0)
    assert written["traffic"] == {"up": 10, "down_unicast": 4, "down_broadcast": 6}
    assert written["failures"] == [{"client": 1, "phase": "share", "reason": "bad rows"}]
    assert written["strategy"] == {"weights": [[1.0, 0.0], [0.0, 1.0]], "by": {"3": [1, 2]}}
    assert written["personalised_accuracy"]["per_client"] == [0.5, None]


def test_diagnostics_that_are_no_numbers_leave_valid_json() -> None:
    one = report(1, 0.5)
    one.diagnostics = {"loss": float("nan"), "norms": torch.tensor([1.0, float("inf")])}
    text = json.dumps(round_row(one, None))

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    read = json.loads(text, parse_constant=refuse)
    assert read["strategy"] == {"loss": None, "norms": [1.0, None]}


@pytest.mark.parametrize("tail", ['{"round": 3, "pers', '{"round": 3}\x00', "{"])
def test_a_torn_last_line_is_left_out(tmp_path: Path, tail: str) -> None:
    (tmp_path / "rounds.jsonl").write_text('{"round": 1}\n{"round": 2}\n' + tail, encoding="utf-8")
    assert [r["round"] for r in read_rounds(tmp_path)] == [1, 2]


def test_no_rounds_yet(tmp_path: Path) -> None:
    assert read_rounds(tmp_path) == []
    (tmp_path / "rounds.jsonl").write_text("", encoding="utf-8")
    assert read_rounds(tmp_path) == []


def test_recorder_drops_rounds_without_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "rounds.jsonl").write_text('{"round": 1}\n{"round": 2}\n{"rou', encoding="utf-8")
    Recorder(tmp_path, 1, {}, Silent())
    assert (tmp_path / "rounds.jsonl").read_text(encoding="utf-8") == '{"round": 1}\n'
    assert [p.name for p in tmp_path.iterdir()] == ["rounds.jsonl"]


# --- summary ---------------------------------------------------------------------------------


def test_the_first_of_equally_validated_rounds_is_selected() -> None:
    summary = summarise([row(1, 0.3), row(2, 0.7, 0.2), row(3, 0.7, 0.9), row(4, 0.6, 0.4)])
    assert summary["validation_selected"]["round"] == 2
    assert summary["validation_selected"]["personalised_accuracy"] == 0.2, "not the best test"
    assert summary["last"]["round"] == 4
    assert (summary["bytes_up"], summary["bytes_down"], summary["seconds"]) == (40, 80, 2)
    assert summary["failures"] == 1


def test_rounds_without_validation_cannot_be_selected() -> None:
    summary = summarise([row(1, None), row(2, 0.0), row(3, None)])
    assert summary["validation_selected"]["round"] == 2
    assert summarise([row(1, None)])["validation_selected"] is None


def test_the_oracle_only_if_asked() -> None:
    rows = [row(1, 0.9, 0.1), row(2, 0.5, 0.8), row(3, 0.1, 0.3), row(4, 0.1, None)]
    assert "oracle" not in summarise(rows)
    assert summarise(rows, oracle=True)["oracle"]["round"] == 2
    assert "oracle" not in summarise([row(1, 0.5, None)], oracle=True)


# --- checkpoints -----------------------------------------------------------------------------


def test_checkpoints_keep_the_last_two(tmp_path: Path) -> None:
    for round_ in range(1, 12):
        checkpoint.save(tmp_path, round_, {"strategy": {}, "clients": {3: {"n": round_}}})
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["round-00010.safetensors", "round-00011.safetensors"]
    assert newest(tmp_path, 99) == (11, {"strategy": {}, "clients": {3: {"n": 11}}})
    assert newest(tmp_path, 10) == (10, {"strategy": {}, "clients": {3: {"n": 10}}})
    assert newest(tmp_path, 9) is None
    assert newest(tmp_path / "none", 9) is None


@pytest.mark.parametrize("keep", [0, 7, 40, -1])
def test_a_torn_newest_checkpoint_falls_back(tmp_path: Path, keep: int) -> None:
    for round_ in (1, 2):
        checkpoint.save(tmp_path, round_, {"strategy": {}, "clients": {0: torch.ones(9)}})
    torn = tmp_path / "round-00002.safetensors"
    torn.write_bytes(torn.read_bytes()[:keep])
    saved = newest(tmp_path, 99)
    assert saved is not None
    assert saved[0] == 1


def test_a_strategy_may_keep_only_what_can_be_saved(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot save a set"):
        checkpoint.save(tmp_path, 1, {"strategy": {"memory": {1, 2}}})
    assert list(tmp_path.iterdir()) == []


# --- a whole run -----------------------------------------------------------------------------


def test_the_baseline_has_the_same_budget_and_clients(tmp_path: Path, tiny: Any) -> None:
    """Negative transfer of local training against itself is nil in every round."""
    plan = prepare(tiny(strategy={"name": "local", "local_epochs": 1}))
    execute(plan, tmp_path / "alone", label="local")
    execute(plan, tmp_path / "again", label="local", baseline=tmp_path / "alone")
    rows = read_rounds(tmp_path / "again")
    assert [r["negative_transfer"] for r in rows] == [0.0, 0.0]
    assert [r["negative_transfer_loss"] for r in rows] == [0.0, 0.0]
    assert (
        json.loads((tmp_path / "again" / "summary.json").read_text(encoding="utf-8"))["baseline"]
        == "../alone"
    )


def test_a_baseline_on_other_data_is_not_compared(tmp_path: Path, tiny: Any) -> None:
    plan = prepare(tiny(strategy={"name": "local", "local_epochs": 1}))
    execute(plan, tmp_path / "alone", label="local")
    other = prepare(tiny(strategy={"name": "local", "local_epochs": 1}, data__clients=4))
    with pytest.raises(ConfigError, match="alone was run on other data"):
        execute(other, tmp_path / "other", label="local", baseline=tmp_path / "alone")
