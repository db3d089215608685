"""What is to know of the data stands on the console, in the run and in the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

GAPS = """
from dataclasses import replace
from fedkt.data import load_dataset

def gaps(factor=3):
    digits = load_dataset("digits")
    return replace(digits, name="gaps", classes=(), y_train=factor * digits.y_train,
                   y_test=factor * digits.y_test)

def fives():
    return gaps(5)
"""
NOTE = "18 of 28 classes have no samples at all: classes 1, 2, 4,"
ALL = {"data__samples_per_client": 200}  # enough that clients train on every class
OTHER = "36 of 46 classes have no samples at all: classes 1, 2, 3,"


@pytest.fixture
def sets(here: Path) -> Path:
    (here / "sets.py").write_text(GAPS, encoding="utf-8")
    return here / "sets.py"


def test_a_run_says_what_is_to_know(here: Path, sets: Path, fedkt: Any, write_toml: Any) -> None:
    toml = write_toml(here, rounds=1, models=["linear"], data__dataset=f"{sets}:gaps", **ALL)
    answer = fedkt("simulate", toml, "--out", "run")
    assert answer.code == 0, answer.err
    (line,) = [line for line in answer.out.splitlines() if line.startswith("Note: ")]
    assert line.startswith(f"Note: {NOTE}")
    summary = json.loads((here / "run" / "summary.json").read_text(encoding="utf-8"))
    assert line == f"Note: {summary['notes'][0]}."
    assert NOTE in (here / "run" / "report.html").read_text(encoding="utf-8")


def test_a_comparison_says_it_once_and_of_which_cell(
    here: Path, sets: Path, fedkt: Any, write_toml: Any, no_report: None
) -> None:
    names = {"one": "gaps", "two": "fives", "three": "gaps"}
    base = {"rounds": 1, "models": ["linear"], "compare__strategies": ["local", "fedmd"]}
    toml = write_toml(here, **base, **ALL, strategy={"local_epochs": 1}, compare__seeds=1)
    toml.write_text(
        toml.read_text(encoding="utf-8")
        + "".join(
            f'\n[[compare.cells]]\nname = "{name}"\ndata.dataset = "{sets}:{function}"\n'
            for name, function in names.items()
        ),
        encoding="utf-8",
    )
    answer = fedkt("compare", toml, "--out", "runs")
    assert answer.code == 0, answer.err
    lines = [line for line in answer.out.splitlines() if line.startswith("Note: ")]
    assert [line for line in lines if NOTE in line and line.endswith("(one, three).")]
    assert [line for line in lines if OTHER in line and line.endswith("(two).")]
    assert len(lines) == 2
