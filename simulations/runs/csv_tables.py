"""Runs as rows of a CSV file: ``comparison.csv``, and ``cells.csv`` of several cells."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedkt.disk import write_atomic
from fedkt.evaluation.figures import figures_at
from fedkt.simulations.results.comparison_folder import KEYS, Comparison
from fedkt.simulations.results.run_folder import Run


def columns() -> tuple[str, ...]:
    """Return the columns of ``comparison.csv``, in order."""
    return (*KEYS, *(figure.name for figure in figures_at("csv")))


def comparison_rows(runs: Iterable[Run]) -> list[dict[str, Any]]:
    """Tabulate runs: one row a run, with the figures of the last round.

    Returns
    -------
    list[dict[str, Any]]
        Rows with the keys `columns`; accuracies in [0, 1] or None, bytes per client
        over the run.
    """
    return [
        {"strategy": run.label, "seed": run.seed}
        | {figure.name: run.figure(figure) for figure in figures_at("csv")}
        for run in runs
    ]


def write_comparison_csv(path: str | Path, runs: Iterable[Run]) -> None:
    """Write ``comparison.csv`` (see `comparison_rows`), all at once or not at all."""
    _write(Path(path), columns(), comparison_rows(runs))


def write_cells_csv(path: Path, results: Mapping[str, Comparison]) -> None:
    """Write ``cells.csv``: the rows of every cell's ``comparison.csv``, the cell in front."""
    rows = [
        {"cell": cell, **row}
        for cell, comparison in results.items()
        for row in comparison_rows(comparison.runs)
    ]
    _write(path, ("cell", *columns()), rows)


def _write(path: Path, names: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, buffer.getvalue())
