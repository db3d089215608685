"""Tables and figures of docs/results/family.md from a ``compare benchmarks/family.toml``.

    python benchmarks/family_table.py RUN_DIR [FIGURE.png]

Prints a table for each setting, sorted by personalised accuracy, and draws accuracy against traffic
of all methods. A finished setting is enough; a method that lacks seeds there is left out.
"""

from __future__ import annotations

import csv
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes

from fedkt.simulations.catalogue.method_facts import facts_of
from fedkt.simulations.report.drawing import GREY, MEGABYTE, canvas
from fedkt.simulations.report.tables import markdown
from fedkt.simulations.results.intervals import clear, t_interval

BASELINE = "local"
BYTES = ("bytes_up", "bytes_down")
SIZE = (11.0, 5.6)  # inches of a setting's two panels
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#882255", "#E69F00")
MARKERS = "osD^vPX<"
LABEL = 0.028  # of a panel's height, for each label
HEADINGS = ("Strategy", "Personalised (%)", "Global (%)", "Against local, personalised (points)",
            "Worse than alone (%)", "MB up", "MB down", "Seconds")  # fmt: skip
# setting -> strategy -> seed -> the columns of cells.csv
Results = Mapping[str, Mapping[str, Mapping[int, Mapping[str, str]]]]


def read(out: Path) -> Results:
    """Read ``cells.csv``."""
    found: dict[str, dict[str, dict[int, Mapping[str, str]]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    with (out / "cells.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found[row["cell"]][row["strategy"]][int(row["seed"])] = row
    return found


def column(rows: Mapping[int, Mapping[str, str]], name: str) -> list[float]:
    """Return a figure of all seeds; NaN where it is not defined."""
    return [float(rows[seed][name] or "nan") for seed in sorted(rows)]


def shown(values: Sequence[float], scale: float = 100, digits: int = 1) -> str:
    """Return mean ± standard deviation."""
    if any(v != v for v in values):
        return "–"
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{scale * statistics.mean(values):.{digits}f} ± {scale * spread:.{digits}f}"


def table_of(rows: Mapping[str, Mapping[int, Mapping[str, str]]]) -> list[list[str]]:
    """Return the lines of one setting, the best personalised accuracy first."""
    alone = column(rows[BASELINE], "personalised_accuracy")
    mean = {s: statistics.mean(column(r, "personalised_accuracy")) for s, r in rows.items()}
    order = sorted(mean, key=lambda strategy: -mean[strategy])
    differences = {
        strategy: t_interval(
            [a - b for a, b in zip(column(rows[strategy], "personalised_accuracy"), alone,
                                   strict=True)]
        )
        for strategy in order if strategy != BASELINE
    }  # fmt: skip
    stars = dict(
        zip(differences, clear([d.p if d else 1.0 for d in differences.values()]), strict=True)
    )
    lines = [list(HEADINGS)]
    for strategy in order:
        gap = differences.get(strategy)
        against = f"{gap.shown(1)}{' *' if stars[strategy] else ''}" if gap else "–"
        row = rows[strategy]
        lines.append([
            strategy,
            shown(column(row, "personalised_accuracy")),
            shown(column(row, "global_accuracy")),
            against,
            shown(column(row, "negative_transfer"), digits=0),
            *(f"{statistics.mean(column(row, b)) / MEGABYTE:.3g}" for b in BYTES),
            f"{statistics.mean(column(row, 'seconds')):.0f}",
        ])  # fmt: skip
    return lines


def draw(results: Results, png: Path) -> None:
    """Draw accuracy against traffic, both directions, a pair of panels for each setting."""
    kinds = {"personalised_accuracy": "personalised", "global_accuracy": "global"}
    with canvas(png, SIZE[0], SIZE[1] * len(results)) as figure:
        panels = figure.subplots(len(results), len(kinds), squeeze=False)
        for pair, (setting, rows) in zip(panels, results.items(), strict=True):
            for axes, (name, title) in zip(pair, kinds.items(), strict=True):
                axes.set_title(f"{setting}: {title} accuracy (%)")
                axes.set_xlabel("Sent and received per client (MB)")
                points = {
                    strategy: (traffic(row), 100 * statistics.mean(column(row, name)))
                    for strategy, row in rows.items()
                }
                axes.axhline(points[BASELINE][1], color=GREY, linestyle="--", linewidth=1)
                spread_labels(axes, {s: point for s, point in points.items() if point[0]})
        handles, families = panels[0][0].get_legend_handles_labels()
        figure.legend(handles, families, loc="outside lower center", ncols=len(families))


def traffic(rows: Mapping[int, Mapping[str, str]]) -> float:
    """Return the megabytes that a client sends and receives in a run."""
    return sum(statistics.mean(column(rows, way)) for way in BYTES) / MEGABYTE


def spread_labels(axes: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    """Draw points, coloured by family, with their labels in a column beside the panel."""
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    families = sorted({family_of(strategy) for strategy in points})
    for number, family in enumerate(families):
        x, y = zip(*(p for s, p in points.items() if family_of(s) == family), strict=True)
        color, marker = COLOURS[number], MARKERS[number]
        axes.scatter(x, y, s=16, color=color, marker=marker, label=family, zorder=3)
    order = sorted(points, key=lambda strategy: points[strategy][1])
    low, high = axes.get_ylim()
    heights = [(points[strategy][1] - low) / (high - low) for strategy in order]
    for strategy, height in zip(order, spread(heights, LABEL), strict=True):
        axes.annotate(
            strategy, points[strategy], (1.03, height), textcoords="axes fraction", fontsize=7,
            va="center", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.3, "shrinkB": 2,
                        "relpos": (0, 0.5)},
        )  # fmt: skip


def spread(heights: Sequence[float], least: float) -> list[float]:
    """Return ascending heights in [0, 1] that are at least so far from each other."""
    moved: list[float] = []
    for height in heights:
        moved.append(max(height, moved[-1] + least if moved else 0.0))
    top = 1.0
    for place in reversed(range(len(moved))):
        moved[place] = min(moved[place], top)
        top = moved[place] - least
    return moved


def family_of(strategy: str) -> str:
    """Return the family of a strategy, ``NAME`` or ``NAME(option=value)``."""
    return facts_of(strategy.partition("(")[0]).family


def main(out: Path, png: Path | None = None) -> None:
    """Print all tables, and draw the figure."""
    whole = {}
    for setting, rows in read(out).items():
        seeds = set(rows.get(BASELINE, ()))
        whole[setting] = {s: row for s, row in rows.items() if set(row) == seeds}
        short = sorted(set(rows) - set(whole[setting]))
        print(f"## {setting}\n\n{markdown(table_of(whole[setting]))}\n")
        if short:
            print(f"Left out, not all seeds: {', '.join(short)}\n")
    if png is not None:
        draw(whole, png)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
