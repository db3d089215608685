"""Figures over several cells: averages by round, and accuracy on every target.

As in ``figures``, matplotlib is imported where it is used.
"""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedkt.evaluation.figure import Figure, value_of
from fedkt.evaluation.figures import GLOBAL, target_accuracy
from fedkt.simulations.report.cells_table import AVERAGE, headings, labels_of, over_cells, target_of
from fedkt.simulations.report.drawing import (
    GREY,
    WIDTH,
    canvas,
    look_of,
    shortened,
    verbatim,
)
from fedkt.simulations.results.aggregates import spread
from fedkt.simulations.results.comparison_folder import Comparison
from fedkt.simulations.results.run_folder import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def averaged(results: Mapping[str, Comparison], figure: Figure) -> dict[str, list[Run]]:
    """Return a figure averaged over the cells, for each seed and round.

    Parameters
    ----------
    results : Mapping[str, Comparison]
        By cell.
    figure : Figure
        Of every round; the mean over clients where it is over them.

    Returns
    -------
    dict[str, list[Run]]
        By label one artificial run for each seed, whose rounds hold the average. Seeds and rounds
        are those that all cells have; labels that some cell lacks are left out.
    """
    groups: dict[str, list[Run]] = {}
    for label in labels_of(results):
        by_cell = [{run.seed: run for run in c.groups.get(label, ())} for c in results.values()]
        for seed in sorted(set.intersection(*map(set, by_cell))):
            runs = [of_cell[seed] for of_cell in by_cell]
            series = [dict(zip(*run.series(figure.name)[:2], strict=True)) for run in runs]
            rounds = [
                {"round": t, figure.name: statistics.fmean(of_cell[t] for of_cell in series)}
                for t in sorted(set.intersection(*map(set, series)))
            ]
            groups.setdefault(label, []).append(replace(runs[0], rounds=rounds))
    return groups


def targets_figure(results: Mapping[str, Comparison], png: Path) -> Path:
    """Draw the accuracy of every strategy on every target after the last round.

    Parameters
    ----------
    results : Mapping[str, Comparison]
        By cell, at least one; target accuracy where a cell has a target, else global
        accuracy.
    png : Path
        The PNG file to write.

    Returns
    -------
    Path
        The file; one panel a cell and, of several, one of their average.
    """
    labels, above = labels_of(results), headings(results)
    panels: list[tuple[str, list[dict[str, Any] | None]]] = [
        (above[cell], [spread(map(_accuracy, c.groups.get(label, ()))) for label in labels])
        for cell, c in results.items()
    ]
    if len(panels) > 1:
        each = [over_cells(results, label, _accuracy) for label in labels]
        panels.append((AVERAGE, [spread(map(statistics.fmean, e.values())) for e in each]))
    runs = [run for c in results.values() for run in c.runs]
    alone = {run.label for run in runs if run.summary.get("one_architecture")}
    across = 3 if len(panels) in (3, 5, 6, 9) else min(4, len(panels))  # few empty places
    down = -(-len(panels) // across)
    with canvas(png, WIDTH, 0.9 + down * (0.62 + 0.19 * len(labels))) as figure:
        grid = figure.subplots(down, across, sharey=True, squeeze=False).ravel()
        for axes, (name, values) in zip(grid, panels, strict=False):
            _dots(axes, labels, values, alone)
            axes.set_title(
                verbatim(shortened(name, 22)), weight="bold" if name == AVERAGE else None
            )
        grid[0].set_yticks(
            np.arange(len(labels)),
            [verbatim(shortened(n, 26)) + " †" * (n in alone) for n in labels],
        )
        grid[0].set_ylim(len(labels) - 0.4, -0.6)
        for axes in grid[len(panels) :]:
            axes.remove()
        kind = "Target" if all(map(target_of, results.values())) else "Global"
        seeds = len({run.seed for run in runs})
        note = f"± 1 standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
        figure.suptitle(f"{kind} accuracy after the last round, % ({note})")
    return png


def _dots(
    axes: Axes,
    labels: Sequence[str],
    values: Sequence[Mapping[str, Any] | None],
    alone: Collection[str],
) -> None:
    """Draw one panel: a dot and a whisker for each strategy; those on other models win nothing."""
    means = [v["mean"] for n, v in zip(labels, values, strict=True) if v and n not in alone]
    highest = max(means, default=None)
    for place, (label, value) in enumerate(zip(labels, values, strict=True)):
        if value is None:
            continue
        best = value["mean"] == highest and label not in alone
        colour = look_of(place, label, 1)["color"]
        axes.errorbar(
            100 * value["mean"],
            place,
            xerr=100 * (value["std"] or 0),
            fmt="o",
            color=colour,
            markerfacecolor=colour if best else "white",
            markersize=5,
            capsize=2,
            lw=1.2,
        )
    axes.grid(axis="both", alpha=0.3)
    axes.locator_params(axis="x", nbins=4)
    axes.set_xlim(right=min(axes.get_xlim()[1], 101))
    axes.tick_params(axis="y", length=0)
    if highest is not None:
        axes.axvline(100 * highest, color=GREY, lw=0.7, ls=":")


def _accuracy(run: Run) -> float | None:
    last = run.selected()
    return target_accuracy(last) if run.federation.get("target") else value_of(last, GLOBAL.name)
