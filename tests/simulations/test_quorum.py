"""Simulations need all clients unless the experiment says how many are enough."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedkt.simulations.engines.population import Population
from fedkt.simulations.results.rounds import read_rounds

REASON = "OSError: no such disk"


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let client 1 of every federation fail whenever it is spoken to."""
    connect = Population.connect

    def fails(self: Population, context: Any) -> Any:
        client = connect(self, context)
        if client.id == 1:
            raise OSError("no such disk")
        return client

    monkeypatch.setattr(Population, "connect", fails)


def test_strict_is_the_default(
    here: Path, fedkt: Any, write_toml: Any, no_report: None, broken: None
) -> None:
    answer = fedkt("simulate", write_toml(here), "--out", "run")
    assert answer.code == 1
    assert f"cannot run on node 3: {REASON}" in answer.err


@pytest.mark.parametrize("quorum", [2, "majority"])
def test_a_run_goes_on_without_a_client_and_says_so(
    here: Path, fedkt: Any, write_toml: Any, no_report: None, broken: None, quorum: Any, caplog: Any
) -> None:
    toml = write_toml(here, run__quorum=quorum, data__clients=4)
    answer = fedkt("simulate", toml, "--out", "run")
    assert answer.code == 0, answer.err
    rows = read_rounds(here / "run")
    note = f"left out of the run: node 3: {REASON}"
    assert [row["notes"] for row in rows] == [[note], []]
    summary = json.loads((here / "run" / "summary.json").read_text(encoding="utf-8"))
    assert f"round 1: {note}" in summary["notes"]
    assert f"left out of knfu: node 3: {REASON}" in caplog.text
    for row in rows:
        each = row["personalised_accuracy"]["per_client"]
        assert [value is None for value in each] == [False, True, False, False]
        known = [value for value in each if value is not None]
        assert row["personalised_accuracy"]["mean"] == pytest.approx(sum(known) / 3)
        assert row["transfer"]["per_client"][1] is None, "places are those of the baseline"
        assert row["leakage"]["correlation"]["per_client"][1] is None
        assert row["bytes_up"] == row["traffic"]["up"] / 4
        assert row["participants"] == [0, 2, 3]


def test_a_quorum_of_more_than_there_are(
    here: Path, fedkt: Any, write_toml: Any, no_report: None
) -> None:
    answer = fedkt("simulate", write_toml(here, run__quorum=9), "--out", "run")
    assert answer.code == 1
    assert "cannot start; 3 of 3 clients are left and 9 are needed" in answer.err


def test_a_quorum_that_is_none(here: Path, fedkt: Any, write_toml: Any) -> None:
    answer = fedkt("simulate", write_toml(here, run__quorum="most"), "--out", "run")
    assert answer.code == 2
    words = "run.quorum = 'most': must be one of strict, majority or a whole number of at least 1"
    assert words in answer.err
