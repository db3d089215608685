from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

import fedkt
from fedkt.clients import Policy
from fedkt.deploy import model, strategy_of
from fedkt.deploy.rehearsal import read_app, values_of
from fedkt.errors import ConfigError, RunFailedError
from fedkt.simulations.api.study import Experiment
from fedkt.simulations.experiment import config as config_
from fedkt.simulations.results.rounds import read_rounds

from .federating import figures, grid_of, new_app, served


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return new_app(tmp_path / "hospitals")


def rehearsed(app: Path, **values: object) -> list[dict[str, object]]:
    experiment = config_.parse({**values_of(read_app(app)), **values})
    out = app.parent / "rehearsal"
    fedkt.simulate(
        experiment.with_values(run={**experiment.run.model_dump(), "grid": "in-process"}), out=out
    )
    return read_rounds(out)


def test_a_served_run_has_the_figures_of_its_rehearsal(app: Path) -> None:
    rows = served(app, run_dir="run", num_server_rounds=2)
    simulated = rehearsed(app, rounds=2)
    assert figures(rows) == figures(simulated)
    assert rows[0]["personalised_accuracy"]["mean"] > 0.5
    assert rows[0]["leakage"] is None
    assert simulated[0]["leakage"] is not None
