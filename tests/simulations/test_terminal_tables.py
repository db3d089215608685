"""The tables of a comparison on the terminal and in Markdown."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from fedkt.simulations.report import tables
from fedkt.simulations.report.tables import comparison_table, plain_table
from fedkt.simulations.results.aggregates import aggregate
from fedkt.simulations.results.comparison_folder import load_comparison


def test_terminal_table_fits_eighty_columns_uncut(comparison_dir: Path) -> None:
    comparison = load_comparison(comparison_dir)
    console = Console(width=80, record=True)
    console.print(comparison_table(comparison))
    terminal = console.export_text()
    assert "…" not in terminal
    for row in aggregate(comparison):
        for key in ("personalised_accuracy", "global_accuracy"):
            assert f"{100 * row[key]['mean']:.1f} ± {100 * row[key]['std']:.1f}" in terminal
        assert f"{row['seconds']['mean']:.1f} ± {row['seconds']['std']:.1f}" in terminal


def test_costs_without_room_are_left_out_and_not_the_labels(
    comparison_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "TERMINAL", 60)
    console = Console(width=62, record=True)
    console.print(comparison_table(load_comparison(comparison_dir)))
    lines = console.export_text().splitlines()
    (head,) = (line for line in lines if "Strategy" in line)
    assert head.split()[-1] == "up"
    assert any(line.strip().startswith("knfu") for line in lines)


def test_terminal_and_markdown_tables_hold_the_same_rows(comparison_dir: Path) -> None:
    comparison = load_comparison(comparison_dir)
    console = Console(width=160, record=True)
    console.print(comparison_table(comparison))
    terminal, markdown = console.export_text(), plain_table(comparison)
    body = [line.strip("| ").split(" | ") for line in markdown.splitlines() if line[:1] == "|"]
    assert [line[0] for line in body] == ["Strategy", "---", "local", "fedavg †", "fedmd", "knfu"]
    assert len({len(line) for line in body}) == 1
    assert all(line[0] in terminal for line in body[2:])
    assert "Mean ± std over 3 seeds" in terminal
    assert "† needs one architecture" in terminal
    assert "† needs one architecture" in markdown
