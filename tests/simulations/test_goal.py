"""Accuracy goals and rounds selected by a metric: runs, their files and their pages."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedkt.simulations.results.rounds import read_rounds


def test_a_comparison_with_a_goal_and_a_metric_that_selects(
    here: Path, fedkt: Callable[..., Any], write_toml: Callable[..., Path]
) -> None:
    settings = {"run": {"accuracy_goal": 0.35, "metrics": ["log-loss"], "select_by": "log-loss"}}
    file = write_toml(here, rounds=3, **settings)
    answer = fedkt("compare", file, "--strategies", "local,fedmd", "--seeds", 2, "--out", "out")
    assert answer.code == 0, answer.err
    with (here / "out" / "comparison.csv").open(encoding="utf-8", newline="") as table:
        lines = list(csv.DictReader(table))
    for line in lines:
        folder = here / "out" / "runs" / f"{line['strategy']}-seed{line['seed']}"
        rows = read_rounds(folder)
        reached = [r["round"] for r in rows if r["personalised_accuracy"]["mean"] >= 0.35]
        until = rows[: reached[0] if reached else 0]
        assert line["rounds_to_goal"] == (str(reached[0]) if reached else "")
        sent = sum(r["bytes_up"] + r["bytes_down"] for r in until)
        assert line["bytes_to_goal"] == (str(sent) if reached else "")
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        losses = [r["validation_log_loss"]["mean"] for r in rows]
        assert summary["validation_selected"]["round"] == 1 + losses.index(min(losses))
    page = (here / "out" / "report.html").read_text(encoding="utf-8")
    assert "the round with the best log loss on the clients" in page
    assert "<dt>Accuracy goal</dt><dd>35.00 %</dd>" in page
    run = here / "out" / "runs" / "fedmd-seed0"
    assert fedkt("report", run).code == 0
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Mean personalised accuracy of 35.00 % was " in page


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("run.accuracy_goal=1", "a finite number in (0, 1)"),
        ("run.select_by=log-los", "Allowed: accuracy, or a metric of run.metrics, which has none"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    here: Path,
    fedkt: Callable[..., Any],
    write_toml: Callable[..., Path],
    option: str,
    message: str,
) -> None:
    answer = fedkt("simulate", write_toml(here), "--out", "out", "--set", option)
    assert answer.code == 2
    assert message in answer.err
    assert len(answer.err.strip().splitlines()) == 1
