"""The report of a comparison over several cells: verdict, overview, one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedkt.disk import write_atomic
from fedkt.evaluation.figure import Figure
from fedkt.evaluation.figures import figures_at, panels_of
from fedkt.simulations.experiment.cells import Cell
from fedkt.simulations.experiment.config import VerdictSection
from fedkt.simulations.report.cells_table import (
    cell_tables,
    notes_of,
    tables_for_terminal,
    tables_markdown,
)
from fedkt.simulations.report.domain_figures import (
    averaged,
    targets_figure,
)
from fedkt.simulations.report.drawing import canvas
from fedkt.simulations.report.pages import by_round, embed, render
from fedkt.simulations.report.tables import ABSENT, markdown
from fedkt.simulations.results.comparison_folder import COMPARISON, Comparison, load_cells
from fedkt.simulations.results.run_folder import defined, read_settings, selected_by
from fedkt.simulations.results.verdict import (
    CellVerdict,
    Margin,
    Verdict,
    judge,
)
from fedkt.simulations.runs.csv_tables import write_cells_csv

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

TABLE = "cells_table.md"
MARGINS_NOTE = (
    "Margin: minus the rival with the highest mean in the cell, in percentage points: mean ± "
    "half-width of the 95 % t interval, paired over the seeds. Green or red: differs from 0 at 5 % "
    "after Holm's correction over all cells (red also over the rivals of the cell). Else grey, as "
    "is every margin of fewer than 3 seeds, or one that all seeds have alike (no spread)."
)
_INK = {"green": "#00795C", "grey": "#555555", "red": "#B3261E"}
_DOTS = {"green": "o", "grey": "s", "red": "X"}


def write_cells_report(out: str | Path) -> Path:
    """Write tables, figures and ``report.html`` of a comparison of several cells.

    The tables are ``cells.csv`` (a row for each run) and ``cells_table.md`` (strategies by
    cells, as in the report).

    Returns
    -------
    Path
        The page.

    Raises
    ------
    ConfigError
        If the folder is no such comparison, or its verdict names an unknown strategy.
    """
    out = Path(out)
    cells, results = load_cells(out)
    write_cells_csv(out / "cells.csv", results)
    runs = [run for comparison in results.values() for run in comparison.runs]
    verdict = _verdict(cells, results)
    tables = cell_tables(results)
    write_atomic(out / TABLE, tables_markdown(tables, results))
    drawn = _figures(out / "figures", results)
    if verdict is not None and verdict.cells:
        drawn["verdict"] = margin_figure(verdict, out / "figures" / "verdict.png")
    return render(
        out,
        "cells.html",
        defined=defined(runs),
        facts=_facts(out, cells, results),
        selected_by=selected_by(
            [run for comparison in results.values() for run in comparison.runs]
        ),
        verdict=verdict,
        summary=summary_line(verdict) if verdict else "",
        lines=verdict_lines(verdict) if verdict else [],
        margins_note=MARGINS_NOTE,
        colours=[_colours(c) for c in verdict.cells] if verdict else [],
        cell_count=len(results),
        tables=tables,
        notes=notes_of(tables, results),
        figures={name: embed(path) for name, path in drawn.items()},
        by_round=_by_round(out / "figures", results),
        unfinished=[c.name for c in cells if c.name not in results],
    )


def cells_markdown(out: str | Path) -> str:
    """Return the verdict and the accuracies of all cells as Markdown."""
    cells, results = load_cells(Path(out))
    verdict = _verdict(cells, results)
    parts = []
    if verdict is not None and verdict.cells:
        parts += [markdown(verdict_lines(verdict)), MARGINS_NOTE, summary_line(verdict)]
    return "\n\n".join([*parts, tables_markdown(cell_tables(results), results)])


def print_cells(out: Path, console: Console) -> None:
    """Print the verdict and the tables of a comparison of several cells, no wider than 80."""
    cells, results = load_cells(out)
    verdict, tables = _verdict(cells, results), cell_tables(results)
    if verdict is not None and verdict.cells:
        console.print(verdict_table(verdict))
        console.print(MARGINS_NOTE, markup=False, highlight=False)
        console.print(summary_line(verdict), markup=False, highlight=False)
    for table in tables_for_terminal(tables, console.width):
        console.print(table)
    for note in notes_of(tables, results):
        console.print(note, markup=False, highlight=False)
    console.print(f"As Markdown: {out / TABLE}", markup=False, highlight=False, soft_wrap=True)


def summary_line(verdict: Verdict) -> str:
    """Return a sentence on the number of cells in which the subject reaches the bar."""
    points = f"{100 * verdict.section.tolerance:g}"
    text = (
        f"{verdict.subject} reaches the bar, to within {points} points, in "
        f"{verdict.holding} of {len(verdict.cells)} cells"
    )
    failing = [cell.cell for cell in verdict.cells if not cell.holds]
    return f"{text}; not in: {', '.join(failing)}." if failing else f"{text}."


def verdict_lines(verdict: Verdict) -> list[list[str]]:
    """Return header and body of the verdict table; see `MARGINS_NOTE`."""
    header = ["Cell", "Seeds"]
    for figure in figures_at("judged"):
        name = figure.narrow
        header += [figure.headed(name), "Best rival", "Margin", f"Bar, {name.lower()}"]
    body = []
    for cell in verdict.cells:
        line = [cell.cell, _seeds(cell)]
        for figure in figures_at("judged"):
            line += _margin_cells(cell, figure.name)
        body.append([*line, "holds" if cell.holds else "fails"])
    return [[*header, "Criterion"], *body]


def verdict_table(verdict: Verdict) -> Table:
    """Return the verdict for the terminal: margins over the best rival, and the criterion."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    title = f"{verdict.subject} against the best rival (points, 95 % t intervals over seeds)"
    table = Table(title=Text(title), box=SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    table.add_column("Cell", overflow="fold", max_width=32)
    for name in ("Seeds", *(f.narrow for f in figures_at("judged")), "Criterion"):
        table.add_column(name, justify="right", no_wrap=True)
    for cell in verdict.cells:
        line = [Text(cell.cell), Text(_seeds(cell))]
        for figure in figures_at("judged"):
            margin = cell.margins.get(figure.name)
            style = margin.colour if margin and margin.colour != "grey" else ""
            line.append(Text(margin.difference.shown(1) if margin else ABSENT, style=style))
        table.add_row(*line, "holds" if cell.holds else "fails")
    return table


def margin_figure(verdict: Verdict, png: Path) -> Path:
    """Draw the margins of all cells, personalised and global side by side.

    Parameters
    ----------
    verdict : Verdict
        With at least one cell.
    png : Path
        The PNG file to write.

    Returns
    -------
    Path
        The file.
    """
    cells = verdict.cells
    with canvas(png, 9.0, 1.7 + 0.26 * len(cells)) as page:
        judged = figures_at("judged")
        panels = page.subplots(1, len(judged), sharey=True, squeeze=False).ravel()
        for axes, figure in zip(panels, judged, strict=True):
            for place, cell in enumerate(cells):
                margin = cell.margins.get(figure.name)
                if margin is None:
                    continue
                axes.errorbar(
                    100 * margin.difference.mean,
                    place,
                    xerr=100 * (margin.difference.half_width or 0),
                    fmt=_DOTS[margin.colour],
                    color=_INK[margin.colour],
                    markersize=5,
                    capsize=2,
                    lw=1.2,
                )
            axes.axvline(0, color="black", lw=0.8)
            axes.set_title(figure.title)
            axes.set_xlabel("Margin over the best rival (points)")
            axes.grid(axis="x", alpha=0.3)
        panels[0].set_yticks(np.arange(len(cells)), [cell.cell for cell in cells])
        panels[0].invert_yaxis()
        counts = sorted({m.seeds for cell in cells for m in cell.margins.values()})
        seeds = (
            f"{' or '.join(map(str, counts))} seeds" if counts != [1] else "one seed, no interval"
        )
        page.suptitle(
            f"{verdict.subject} against the best of the others (95 % t intervals, {seeds})"
        )
    return png


def _verdict(cells: Sequence[Cell], results: Mapping[str, Comparison]) -> Verdict | None:
    section: VerdictSection | None = None
    for cell in cells:
        section = cell.experiment.compare.verdict or section
    return judge(section, cells, results) if section else None


def _margin_cells(cell: CellVerdict, metric: str) -> list[str]:
    margin: Margin | None = cell.margins.get(metric)
    if margin is None:
        return [ABSENT] * 4
    above = cell.above_bar.get(metric)
    return [
        f"{100 * margin.subject:.1f}",
        f"{margin.rival} {100 * margin.best:.1f}",
        f"{margin.difference.shown(1)} {margin.colour}",
        ABSENT if above is None else f"{100 * above:+.1f}",
    ]


def _seeds(cell: CellVerdict) -> str:
    """Return the number of seeds of a cell's margins, as text."""
    counts = dict.fromkeys(margin.seeds for margin in cell.margins.values())
    return " / ".join(map(str, counts))


def _colours(cell: CellVerdict) -> list[str]:
    """Return the class of each table cell of a verdict's line; the criterion has no test."""
    colours: list[str] = ["", ""]
    for figure in figures_at("judged"):
        margin = cell.margins.get(figure.name)
        colours += ["", "", margin.colour if margin else "", ""]
    return [*colours, ""]


def _figures(folder: Path, results: Mapping[str, Comparison]) -> dict[str, Path]:
    """Draw the figures that the cells have data for."""
    drawn = {}
    if results:
        drawn["targets"] = targets_figure(results, folder / "targets.png")
    return drawn


def _by_round(folder: Path, results: Mapping[str, Comparison]) -> list[tuple[Figure, str]]:
    """Draw the figures that have a picture of their own, averaged over the cells."""
    every = ((figure, averaged(results, figure)) for figure in panels_of(""))
    return by_round(folder, every, cells=len(results))


def _facts(out: Path, cells: Sequence[Cell], results: Mapping[str, Comparison]) -> dict[str, Any]:
    runs = [run for comparison in results.values() for run in comparison.runs]
    labels = list(dict.fromkeys(run.label for run in runs))
    return {
        "Cells": f"{len(results)} of {len(cells)}",
        "Strategies": ", ".join(labels),
        "Seeds": ", ".join(str(s) for s in sorted({run.seed for run in runs})),
        "Runs": str(len(runs)),
        "Command": read_settings(out / COMPARISON)[1] or ABSENT,
    }
