"""The share of the gap between training alone and pooled training that a method closes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from fedkt.evaluation.figures import GLOBAL, PERSONALISED
from fedkt.simulations.report.cells_table import (
    cell_tables,
    tables_for_terminal,
    tables_markdown,
)
from fedkt.simulations.report.tables import plain_table
from fedkt.simulations.results import gap
from fedkt.simulations.results.aggregates import about_gap, aggregate
from fedkt.simulations.results.comparison_folder import Comparison
from fedkt.simulations.results.run_folder import Run

YARDSTICKS = {"local": "alone", "local(times=2)": "alone", "pooled": "pooled"}
GLOBALS = {"local": [0.3, 0.5], "pooled": [0.8, 0.9], "ours": [0.7, 0.95]}
PERSONALS = {"local": [0.800, 0.802], "pooled": [0.81, 0.82], "ours": [0.9, 0.9]}


def comparison(*labels: str) -> Comparison:
    groups = {}
    for label in labels:
        pairs = zip(
            PERSONALS[label.partition("(")[0]], GLOBALS[label.partition("(")[0]], strict=True
        )
        groups[label] = [
            Run(Path(), {}, [], {
                "label": label, "strategy": label.partition("(")[0], "seed": seed,
                "yardstick": YARDSTICKS.get(label),
                "last": {"round": 1, "personalised_accuracy": mine, "global_accuracy": common},
            }, {})
            for seed, (mine, common) in enumerate(pairs)
        ]  # fmt: skip
    return Comparison(Path(), {}, groups)


def test_it_is_the_ratio_of_means_with_the_deviation_of_the_linearised_ratio() -> None:
    whole = comparison("local(times=2)", "local", "pooled", "ours")
    share = gap.closed(whole, "ours", GLOBAL)
    assert share is not None
    # Gains 0.40 and 0.45, gaps 0.50 and 0.40: 0.85 / 0.90; rests by hand.
    ratio = 0.85 / 0.90
    rests = [(0.40 - ratio * 0.50) / 0.45, (0.45 - ratio * 0.40) / 0.45]
    assert share["mean"] == pytest.approx(ratio)
    assert share["std"] == pytest.approx(abs(rests[0] - rests[1]) / math.sqrt(2))
    assert share["n"] == 2


def test_the_ends_have_none_and_a_narrow_gap_gives_none() -> None:
    whole = comparison("local", "pooled", "ours")
    assert gap.closed(whole, "local", GLOBAL) is None
    assert gap.closed(whole, "pooled", GLOBAL) is None
    assert gap.closed(whole, "ours", PERSONALISED) is None  # 1.4 points
    text = plain_table(whole)
    assert "Global gap closed (%)" in text
    assert "| Gap closed (%)" not in text
    assert "not given where the gap is below 2 points (personalised 1.4)" in text
    assert "it is not federated" in text


def test_a_method_that_ran_on_other_models_has_none() -> None:
    whole = comparison("local", "pooled", "ours")
    for run in whole.groups["ours"]:
        run.summary["one_architecture"] = "cnn"
    assert gap.closed(whole, "ours", GLOBAL) is None


def test_without_both_ends_there_is_no_column() -> None:
    for labels in (("local", "ours"), ("pooled", "ours")):
        whole = comparison(*labels)
        assert gap.closed(whole, "ours", GLOBAL) is None
        assert "gap" not in plain_table(whole).lower()


def test_cells_have_a_table_of_it_with_the_mean_of_their_shares() -> None:
    results = {
        "a": comparison("local", "pooled", "ours"),
        "b": comparison("local", "pooled", "ours"),
    }
    tables = {table.title: table for table in cell_tables(results)}
    table = tables["Global gap closed after the last round"]
    assert [value and round(value["mean"], 3) for value in table.values[2]] == [0.944] * 3
    assert table.values[0] == (None, None, None)
    assert "Gap closed after the last round" not in tables
    text = tables_markdown(list(tables.values()), results)
    assert "it is not federated" in text
    assert "mean ± std over 2 seeds. Average" in text
    assert "(pooled aside)" in text
    assert "| pooled | 85.0" in text  # the highest, and not bold


def test_a_cell_with_a_narrow_gap_is_left_out_of_the_mean() -> None:
    whole, narrow = comparison("local", "pooled", "ours"), comparison("local", "pooled", "ours")
    for run in narrow.groups["pooled"]:
        run.summary["last"]["global_accuracy"] = 0.41
    tables = {table.title: table for table in cell_tables({"a": whole, "b": narrow})}
    ours = tables["Global gap closed after the last round"].values[2]
    assert [value and round(value["mean"], 3) for value in ours] == [0.944, None, 0.944]
    for run in narrow.runs:
        run.summary["validation_selected"] = dict(run.summary["last"])
    for run in narrow.groups["pooled"]:
        run.summary["validation_selected"]["global_accuracy"] = 0.9
    assert "global 1.0" in about_gap(narrow)
    assert "global" not in about_gap(narrow, "validation_selected").partition("below")[2]


def test_of_many_cells_accuracies_and_gaps_have_a_table_each() -> None:
    results = {f"c{k}": comparison("local", "pooled", "ours") for k in range(9)}
    titles = [str(t.title) for t in tables_for_terminal(cell_tables(results), 100)]
    assert titles == [
        "Personalised, Global accuracy (%), average over 9 cells",
        "Global gap closed (%), average over 9 cells",
    ]


def test_pooled_training_is_not_tested_against_the_others() -> None:
    rows = {row["strategy"]: row for row in aggregate(comparison("local", "pooled", "ours"))}
    assert rows["pooled"]["differences"] == []
    assert rows["ours"]["differences"]
