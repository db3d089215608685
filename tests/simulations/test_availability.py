"""Clients that drop out or are late, and the seconds that a round would take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedkt.errors import ConfigError
from fedkt.shares import Predict
from fedkt.simulations.experiment.config import parse
from fedkt.simulations.results.rounds import read_rounds
from fedkt.simulations.runs.plan import availability_of, prepare
from fedkt.simulations.runs.run import execute

DATA = {
    "dataset": "digits",
    "clients": 4,
    "samples_per_client": 16,
    "public_samples": 20,
    "test_samples": 20,
}


def rounds(folder: Path, section: dict[str, Any], **values: Any) -> list[dict[str, Any]]:
    """Run an experiment of four clients; return its rounds without the times."""
    base: dict[str, Any] = {
        "rounds": 3,
        "models": ["mlp"],
        "strategy": {"name": "fedmd", "distil_steps": 0},
        "data": DATA,
        "run": {"grid": "in-process", "workers": 1},
        "availability": section,
    }
    plan = prepare(parse({**base, **values}))
    execute(plan, folder, label="run")
    return [{k: v for k, v in row.items() if k != "seconds"} for row in read_rounds(folder)]


def test_clients_drop_out_at_random(tmp_path: Path) -> None:
    rows = rounds(tmp_path / "run", {"dropout": 0.3})
    failures = [f for row in rows for f in row["failures"]]
    assert 0 < len(failures) < 12
    assert {f["reason"] for f in failures} == {"dropped out (availability.dropout)"}
    for row in rows:
        gone = {f["client"] for f in row["failures"]}
        assert set(row["participants"]) == set(range(4)) - gone
    assert rows == rounds(tmp_path / "again", {"dropout": 0.3})


def test_late_answers_are_dropped_and_counted(tmp_path: Path) -> None:
    slow = {"spread": 1.0, "flops_per_second": 1e6}
    free = rounds(tmp_path / "free", slow)
    seconds = free[0]["simulated_seconds"]
    assert seconds > 0
    assert not free[0]["failures"]
    strict = rounds(tmp_path / "strict", {**slow, "deadline": seconds / 3})
    late = {f["client"] for f in strict[0]["failures"]}
    assert late
    assert len(late) < 4
    assert all("s, and availability.deadline is" in f["reason"] for f in strict[0]["failures"])
    assert strict[0]["simulated_seconds"] < seconds


def test_seconds_are_flops_by_speed_and_bytes_by_bandwidth(tmp_path: Path) -> None:
    """With no spread all clients take the same time, and each term halves with its rate."""
    fast = {"flops_per_second": 1e30}
    of_bytes = rounds(tmp_path / "a", {**fast, "bytes_per_second": 1e3})[0]["simulated_seconds"]
    halved = rounds(tmp_path / "b", {**fast, "bytes_per_second": 2e3})[0]["simulated_seconds"]
    assert of_bytes == pytest.approx(2 * halved)
    row = rounds(tmp_path / "c", {**fast, "bytes_per_second": 1e3})[0]
    assert of_bytes == pytest.approx((row["bytes_up"] + row["bytes_down"]) / 1e3, rel=0.05)


def test_training_alone_misses_the_same_rounds_and_waits_for_nobody(tmp_path: Path) -> None:
    section = {"dropout": 0.3, "flops_per_second": 1.0, "deadline": 1e30}
    rows = rounds(tmp_path / "fedmd", section)
    alone = rounds(tmp_path / "alone", {**section, "deadline": 1e-9}, strategy={"name": "local"})
    assert any(row["failures"] for row in rows)
    for one, other in zip(rows, alone, strict=True):
        assert one["participants"] == other["participants"]
        assert one["failures"] == other["failures"], "nobody is late who shares nothing"
        assert "simulated_seconds" not in other


def test_what_is_not_delivered_is_not_metered(tmp_path: Path) -> None:
    """First weights go to those that take part, and in later rounds only what they lack."""
    strategy = {"name": "fedavg", "local_epochs": 1}
    rows = rounds(tmp_path / "run", {"dropout": 0.3}, strategy=strategy)
    assert any(row["failures"] for row in rows)
    parameters = 64 * 64 + 64 + 64 * 10 + 10
    holders: set[int] = set()
    for row in rows:
        there = set(row["participants"])
        # Before learning those who have not the last version, and after it all who learnt.
        due = len(there - holders) + len(there)
        assert row["traffic"]["down_broadcast"] == 4 * parameters * due
        holders = there


def test_the_late_have_trained_and_the_absent_were_never_asked(tmp_path: Path) -> None:
    slow = {"spread": 1.0, "flops_per_second": 1e6}
    seconds = rounds(tmp_path / "free", slow)[0]["simulated_seconds"]
    for row in rounds(tmp_path / "strict", {**slow, "deadline": seconds / 3}):
        assert row["failures"]
        assert row["untrained"] == []
        assert None not in row["personalised_accuracy"]["per_client"]
    gone = rounds(tmp_path / "gone", {"dropout": 0.3})[1]
    assert gone["failures"]
    assert gone["untrained"] == []
    assert None not in gone["personalised_accuracy"]["per_client"]


def test_a_model_of_unknown_flops_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="availability: the FLOPs of model 'forest' are not"):
        rounds(tmp_path, {}, models=["forest"])


def test_a_share_that_asks_by_what_only_the_run_knows_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Predict, "questions", lambda self, work: [work.knowledge["public"]])
    with pytest.raises(ConfigError, match="what Predict asks the model is not known before the"):
        rounds(tmp_path, {})


def test_clients_that_only_measure_do_not_cost_the_time_of_absorbing(tmp_path: Path) -> None:
    """The slowest of the participants counts, not the slowest of all clients."""
    section = {"spread": 1.5, "flops_per_second": 1e6, "bytes_per_second": 1e30}
    run = {"grid": "in-process", "workers": 1, "participation": 0.5}
    rows = rounds(tmp_path / "run", section, run=run)
    values = {
        "models": ["mlp"],
        "strategy": {"name": "fedmd", "distil_steps": 0},
        "availability": section,
    }
    plan = prepare(parse({**values, "data": DATA}))
    availability = availability_of(plan)
    assert availability is not None
    for row in rows:
        before, after = (
            max(availability.seconds(client, phase, 0) for client in row["participants"])
            for phase in ("train", "evaluate")
        )
        assert row["simulated_seconds"] == pytest.approx(before + after)
