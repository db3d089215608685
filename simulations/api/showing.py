"""Tables and pictures of results for Python: text, HTML for notebooks, figures of matplotlib."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from fedkt.errors import unknown
from fedkt.evaluation.figures import TARGET, table
from fedkt.simulations.report.charts import draw_accuracy, draw_by_round, drawable
from fedkt.simulations.report.drawing import WIDTH, Band, height_of, page
from fedkt.simulations.report.latex import latex
from fedkt.simulations.report.tables import markdown
from fedkt.simulations.results.run_folder import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Page

TableFormat = Literal["markdown", "latex", "csv"]
ACCURACY = "accuracy"  # a picture of two panels, personalised and global
REPORT = "report.html"


def in_format(format: str, lines: Sequence[Sequence[str]]) -> str:
    """Return header and lines as a table in text, ``markdown`` or ``latex``.

    Raises
    ------
    ConfigError
        For another format.
    """
    formats = {"markdown": lambda table: markdown(table) + "\n", "latex": latex}
    if format not in formats:
        raise unknown("format of a table", format, (*formats, "csv"))
    return formats[format](lines)


def drawn(groups: Mapping[str, Sequence[Run]], metric: str, band: Band) -> Page:
    """Return accuracy or a figure by its name, drawn against the round.

    Raises
    ------
    ConfigError
        If no run has measured it.
    """
    runs = [run for group in groups.values() for run in group]
    targets = any(run.federation.get("target") for run in runs)
    shown = [figure for figure in table() if figure is not TARGET or targets]
    known = {figure.name: figure for figure in shown if drawable(figure, runs)}
    if metric not in (ACCURACY, *known):
        raise unknown("metric to plot", metric, (ACCURACY, *known))
    with page(WIDTH, height_of(groups)) as figure:
        if metric == ACCURACY:
            draw_accuracy(figure, groups, band)
        else:
            draw_by_round(figure, known[metric], groups, band)
    return figure


def as_html(lines: Sequence[Sequence[str]], caption: str, notes: Sequence[str]) -> str:
    """Return a table in HTML, for notebooks."""
    header, *body = [[html.escape(cell) for cell in line] for line in lines]
    rows = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in line)}</tr>" for line in body)
    head = "".join(f"<th>{cell}</th>" for cell in header)
    below = "".join(f"<p>{html.escape(note)}</p>" for note in notes)
    return (
        f"<table><caption>{html.escape(caption)}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{below}"
    )
