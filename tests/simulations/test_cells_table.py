"""Strategies by cells: the figures, the average, what is bold, and how it is laid out."""

from __future__ import annotations

import io
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fedkt.simulations.report.cells_table import (
    cell_tables,
    headings,
    notes_of,
    tables_for_terminal,
    tables_markdown,
)
from fedkt.simulations.results.comparison_folder import Comparison

TARGETS = ("mnist", "svhn", "usps")


@pytest.fixture
def cells(made_up: Any) -> Callable[..., dict[str, Comparison]]:
    """Make results of known accuracies: cell → label → seed."""

    def one(labels: dict[str, list[float]]) -> Comparison:
        runs = {
            label: [made_up.run(label, seed, a) for seed, a in enumerate(values)]
            for label, values in labels.items()
        }
        return Comparison(Path(), {}, runs)

    return lambda **by_cell: {cell: one(labels) for cell, labels in by_cell.items()}


def texts(table: Any) -> list[list[str]]:
    return [[text for text, _ in line] for line in table.lines()]


def printed(tables: Any, width: int = 80) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width)
    for table in tables_for_terminal(tables, width):
        console.print(table)
    return out.getvalue()


def test_the_average_is_over_cells_with_each_seed_then_over_seeds(cells: Any) -> None:
    results = cells(x={"a": [0.1, 0.3]}, y={"a": [0.5, 0.9]})
    global_ = cell_tables(results)[1]
    assert global_.title == "Global accuracy after the last round"
    (line,) = global_.values
    assert line[0]["mean"] == pytest.approx(0.2)
    assert line[0]["std"] == pytest.approx(statistics.stdev([0.1, 0.3]))
    assert line[-1]["mean"] == pytest.approx(0.45)
    assert line[-1]["std"] == pytest.approx(statistics.stdev([0.3, 0.6]))
    assert texts(global_) == [
        ["Strategy", "x", "y", "Average"],
        ["a", "20.0 ± 14.1", "70.0 ± 28.3", "45.0 ± 21.2"],
    ]


def test_only_seeds_that_all_cells_have_are_averaged(cells: Any) -> None:
    results = cells(x={"a": [0.1, 0.3], "b": [0.2]}, y={"a": [0.5]})
    a, b = cell_tables(results)[1].values
    assert a[-1] == {"mean": pytest.approx(0.3), "std": None, "n": 1}
    assert (b[1], b[-1]) == (None, None), "b has not run in y: no average over fewer cells"


def test_the_best_of_every_column_is_bold_also_among_equals(cells: Any) -> None:
    results = cells(x={"a": [0.5], "b": [0.5001], "c": [0.4]}, y={"a": [0.1], "b": [0.2]})
    table = cell_tables(results)[1]
    assert [table.best(column) for column in range(3)] == [{0, 1}, {1}, {1}]
    assert "| b | **50.0** | **20.0** | **35.0** |" in tables_markdown([table], results)


def test_a_strategy_on_other_models_is_marked_and_never_best(cells: Any) -> None:
    results = cells(x={"a": [0.5], "b": [0.9]})
    runs = results["x"].groups["b"]
    runs[0] = replace(runs[0], summary={**runs[0].summary, "one_architecture": "cnn"})
    (table, _) = cell_tables(results)
    assert table.strategies == ("a", "b †")
    assert table.best(0) == {0}
    assert any("ran on it alone (cnn)" in note for note in notes_of([table], results))


def test_targets_have_their_accuracy_and_their_names(made_up: Any) -> None:
    results = made_up.cells(TARGETS, targets=True)
    last, selected = cell_tables(results)
    assert last.columns == ("→ mnist", "→ svhn", "→ usps", "Average")
    assert "source validation" in selected.title
    first = results["base → mnist"].groups["local"]
    found = [run.selected("last")["target_accuracy"] for run in first]
    assert last.values[0][0]["mean"] == pytest.approx(statistics.fmean(found))
    gap = last.values[0][0]["mean"] - selected.values[0][0]["mean"]
    assert gap == pytest.approx(0.01)


def test_the_servers_model_is_what_counts_on_the_target(made_up: Any) -> None:
    run = made_up.run("a", 0, 0.3, target="t", served=0.7)
    (last, _) = cell_tables({"x → t": Comparison(Path("x"), {}, {"a": [run]})})
    assert last.values[0][0]["mean"] == 0.7


def test_two_cells_of_one_target_keep_their_names(made_up: Any) -> None:
    results = made_up.cells(("mnist",), targets=True)
    both = {"few → mnist": results["base → mnist"], "many → mnist": results["base → mnist"]}
    assert list(headings(both).values()) == ["few → mnist", "many → mnist"]


def test_cells_with_and_without_targets_have_tables_of_their_own(made_up: Any) -> None:
    results = {**made_up.cells(TARGETS, targets=True), **made_up.cells(("x",))}
    titles = [table.title.partition(" a")[0] for table in cell_tables(results)]
    assert titles == ["Target", "Target", "Personalised", "Global"]


def test_very_many_cells_become_the_rows(made_up: Any) -> None:
    results = made_up.cells(tuple(f"cell {i}" for i in range(12)))
    table = cell_tables(results)[0]
    lines = texts(table)
    assert lines[0] == ["Cell", *made_up.strategies]
    assert [line[0] for line in lines[1:]] == [f"cell {i}" for i in range(12)] + ["Average"]
    shown = printed(cell_tables(results))
    assert "average over 12 cells" in shown
    assert "cell 3" not in shown


@pytest.mark.parametrize("width", [80, 60, 200])
@pytest.mark.parametrize("count", [1, 5, 8, 12])
def test_the_terminal_s_width_is_kept_and_no_figure_cut(
    made_up: Any, width: int, count: int
) -> None:
    names = tuple(f"a rather long name {i}" for i in range(count))
    labels = (*made_up.strategies, "fedmd(form=probabilities, rehearsal=1)", "[bold]x[/bold]")
    results = made_up.cells(names, labels=labels)
    tables = cell_tables(results)
    shown = printed(tables, width)
    assert max(map(len, shown.splitlines())) <= width
    for table in tables:
        for place in range(len(labels)):
            assert texts(table)[-1][-1] in shown
            assert f"{100 * table.values[place][-1]['mean']:.1f} ± " in shown
    assert "[bold]x" in shown, "a label is no markup"


def test_markdown_is_whole_and_says_what_the_figures_are(made_up: Any) -> None:
    results = made_up.cells(TARGETS, targets=True)
    text = tables_markdown(cell_tables(results), results)
    assert text.count("| --- | ---: | ---: | ---: | ---: |") == 2
    assert text.count("**→") == 0, "headings are not bold"
    assert "mean ± std over 3 seeds" in text
    one = made_up.cells(TARGETS, seeds=1)
    assert "one seed" in tables_markdown(cell_tables(one), one)
    assert "±" not in tables_markdown(cell_tables(one), one)


def test_no_results_make_no_tables() -> None:
    assert cell_tables({}) == []
