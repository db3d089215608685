"""Runs as rows of a CSV file: ``comparison.csv``, and ``cells.csv`` of several cells."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedkt.disk import write_atomic
from fedkt.simulations.results.comparison_folder import KEYS, Comparison
from fedkt.simulations.results.run_folder import Run, figures_of


def columns(runs: Sequence[Run]) -> tuple[str, ...]:
    """Return the columns of ``comparison.csv`` for some runs, in order."""
    return (*KEYS, *(figure.name for figure in figures_of("csv", runs)))


def comparison_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Tabulate runs: one row a run, with the figures of the last round.

    Returns
    -------
    list[dict[str, Any]]
        Rows with the keys `columns`; accuracies in [0, 1] or None, bytes per client
        over the run.
    """
    figures = figures_of("csv", runs)
    return [
        {"strategy": run.label, "seed": run.seed}
        | {figure.name: run.figure(figure) for figure in figures}
        for run in runs
    ]


def write_comparison_csv(path: str | Path, runs: Sequence[Run]) -> None:
    """Write ``comparison.csv`` (see `comparison_rows`), all at once or not at all."""
    write_atomic(Path(path), csv_text(runs))


def csv_text(runs: Sequence[Run]) -> str:
    """Return the text of ``comparison.csv`` for some runs."""
    return _text(columns(runs), comparison_rows(runs))


def write_cells_csv(path: Path, results: Mapping[str, Comparison]) -> None:
    """Write ``cells.csv``: the rows of every cell's ``comparison.csv``, the cell in front."""
    every = [run for comparison in results.values() for run in comparison.runs]
    cells = [cell for cell, comparison in results.items() for _ in comparison.runs]
    tabled = zip(cells, comparison_rows(every), strict=True)
    rows = [{"cell": cell, **row} for cell, row in tabled]
    write_atomic(path, _text(("cell", *columns(every)), rows))


def _text(names: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
