"""Clients that fail are said where figures are read; who never trained has no part in them."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from fedkt.simulations.report.tables import plain_table
from fedkt.simulations.results.comparison_folder import load_comparison
from fedkt.simulations.results.rounds import read_rounds
from fedkt.simulations.results.run_folder import load_run

# Clients that hold fewer than five classes fail in every round, or in the second only.
MODELS = '''
import numpy as np
from sklearn.naive_bayes import GaussianNB

class Picky(GaussianNB):
    def fit(self, x, y, sample_weight=None):
        if len(np.unique(y)) < 5:
            raise ValueError("too few classes")
        return super().fit(x, y, sample_weight)

def picky(input_shape, num_classes):
    """A classifier that asks for five classes."""
    return Picky()
'''
DATA = {"data__clients": 4, "data__partition": "dirichlet:0.3", "data__samples_per_client": 40}
NEVER, ALWAYS = [2, 3], [0, 1]  # of seed 0


@pytest.fixture
def picky(tmp_path: Path) -> dict[str, Any]:
    """Return the changes to the tiny experiment that let clients 2 and 3 fail."""
    file = tmp_path / "picky.py"
    file.write_text(MODELS, encoding="utf-8")
    return {**DATA, "models": [f"{file}:picky"], "strategy": {"name": "fedmd"}}


@pytest.mark.parametrize("strategy", ["fedmd", "knfu", "fedpf"])
def test_who_never_trained_is_in_no_mean(
    here: Path, fedkt: Any, write_toml: Any, no_report: None, picky: dict[str, Any], strategy: str
) -> None:
    toml = write_toml(here, **{**picky, "strategy": {"name": strategy}})
    answer = fedkt("simulate", toml, "--out", "run")
    assert answer.code == 0, answer.err
    for folder in ("run", "run/baseline"):
        for row in read_rounds(here / folder):
            assert row["untrained"] == NEVER
            assert {f["client"] for f in row["failures"]} == set(NEVER)
            for name in ("personalised_accuracy", "global_accuracy", "validation_accuracy"):
                each = row[name]["per_client"]
                assert [each[c] for c in NEVER] == [None, None]
                known = [each[c] for c in ALWAYS]
                assert row[name]["mean"] == pytest.approx(sum(known) / 2)
    row = read_rounds(here / "run")[-1]
    gains = row["transfer"]["per_client"]
    assert [gains[c] for c in NEVER] == [None, None]
    assert row["negative_transfer"] == sum(gains[c] < 0 for c in ALWAYS) / 2


def test_the_last_line_says_so(
    here: Path, fedkt: Any, write_toml: Any, picky: dict[str, Any]
) -> None:
    answer = fedkt("simulate", write_toml(here, **picky), "--out", "run")
    (line,) = [line for line in answer.out.splitlines() if line.startswith("fedmd, round 2: ")]
    said = "4 failures (clients 2, 3); clients 2, 3 never trained and are left out"
    assert f"; {said}; accuracies over 2 of 4 clients; local training: {said}" in line
    summary = load_run(here / "run").summary
    assert (summary["failures"], summary["failing"], summary["untrained"]) == (4, NEVER, NEVER)
    assert summary["notes"][-2:] == [
        f"client {client} never trained and is left out of all means and of negative transfer: "
        "ValueError: too few classes"
        for client in NEVER
    ]
    page = (here / "run" / "report.html").read_text(encoding="utf-8")
    assert f"fedmd: {said}; accuracies over 2 of 4 clients." in page
    assert f"local: {said}" in page
    assert "client 2 never trained and is left out" in page


def test_tables_say_so(here: Path, fedkt: Any, write_toml: Any, picky: dict[str, Any]) -> None:
    toml = write_toml(here, **picky)
    answer = fedkt("compare", toml, "--strategies", "local,fedmd", "--seeds", "1", "--out", "c")
    assert answer.code == 0, answer.err
    table = plain_table(load_comparison(here / "c"))
    header, _, *body = [line.strip("| ").split(" | ") for line in table.splitlines()[:4]]
    assert [line[header.index("Failures")] for line in body] == ["4", "4"]
    said = (
        "fedmd: 4 failures in 1 of 1 runs; 2 clients never trained, failing in every round, and "
        "are left out of means and negative transfer."
    )
    assert said in table.splitlines()
    assert said in (here / "c" / "report.html").read_text(encoding="utf-8")
    assert "Fail." in answer.out
    assert said in re.sub(r"\s+", " ", answer.out)
    with (here / "c" / "comparison.csv").open(encoding="utf-8") as file:
        assert {row["strategy"] for row in csv.DictReader(file)} == {"local", "fedmd"}


@pytest.mark.usefixtures("no_report")
def test_without_failures_nothing_is_said(
    here: Path, fedkt: Any, write_toml: Any, tiny: Any
) -> None:
    answer = fedkt("simulate", write_toml(here), "--out", "run")
    assert "failure" not in answer.out
    summary = json.loads((here / "run" / "summary.json").read_text(encoding="utf-8"))
    assert (summary["failures"], summary["failing"], summary["untrained"]) == (0, [], [])
    toml = write_toml(here)
    answer = fedkt("compare", toml, "--strategies", "local,fedmd", "--seeds", "1", "--out", "c")
    assert "ailures" not in plain_table(load_comparison(here / "c"))
    assert "Fail." not in answer.out
