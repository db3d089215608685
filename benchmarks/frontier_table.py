"""Table and figure of traffic in docs/results/family.md, from ``benchmarks/frontier.toml``.

    python benchmarks/frontier_table.py RUN_DIR [FIGURE.png]

Traffic stands as a factor of that of ``fedavg`` in the first cell, and accuracies as differences
from its own, paired over seeds.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

from family_table import MARKERS, Results, column, read, shown, traffic

from fedkt.simulations.report.drawing import GREY, canvas
from fedkt.simulations.report.tables import markdown
from fedkt.simulations.results.intervals import t_interval

BASE, GLOBAL, PERSONALISED = "fedavg", "global_accuracy", "personalised_accuracy"
COLOURS = {"fedavg": "#D55E00", "fedpf": "#0072B2"}
HEADINGS = ("Setting", "Strategy", "Global (%)", "Against FedAvg's, global (points)",
            "Personalised (%)", "MB", "FedAvg's traffic divided by")  # fmt: skip
WITHIN = 0.01  # of FedAvg's global accuracy: as good


def table_of(results: Results) -> list[list[str]]:
    """Return a line for each setting and strategy, the most traffic first."""
    base = next(iter(results.values()))[BASE]
    lines = []
    for setting, strategies in results.items():
        for strategy, rows in strategies.items():
            if strategy not in COLOURS:
                continue
            pairs = zip(column(rows, GLOBAL), column(base, GLOBAL), strict=True)
            gap = t_interval([a - b for a, b in pairs])
            sent = traffic(rows)
            lines.append((sent, [
                setting, strategy, shown(column(rows, GLOBAL)), gap.shown(1) if gap else "–",
                shown(column(rows, PERSONALISED)), f"{sent:.3g}", f"{traffic(base) / sent:,.0f}",
            ]))  # fmt: skip
    return [list(HEADINGS), *(line for _, line in sorted(lines, key=lambda pair: -pair[0]))]


def draw(results: Results, png: Path) -> None:
    """Draw global accuracy against traffic: one marker a setting, one colour a strategy."""
    base = next(iter(results.values()))[BASE]
    least = 100 * (statistics.mean(column(base, GLOBAL)) - WITHIN)
    with canvas(png, 9.0, 4.4) as figure:
        axes = figure.subplots()
        axes.axhline(least, color=GREY, linestyle="--", linewidth=1)
        axes.annotate(
            "FedAvg's accuracy less one point", (1, least), (-4, 3), ha="right", fontsize=8,
            xycoords=("axes fraction", "data"), textcoords="offset points",
        )  # fmt: skip
        for strategy, color in COLOURS.items():
            for number, (setting, strategies) in enumerate(results.items()):
                rows = strategies[strategy]
                values = [100 * value for value in column(rows, GLOBAL)]
                axes.errorbar(
                    traffic(rows), statistics.mean(values), statistics.stdev(values),
                    marker=MARKERS[number], color=color, capsize=2, linestyle="none",
                    label=setting if strategy == BASE else None,
                )  # fmt: skip
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("Sent and received per client (MB)")
        axes.set_ylabel("Global accuracy (%)")
        legend = figure.legend(loc="outside right upper", title="Setting")
        for handle in legend.legend_handles:
            handle.set_color(GREY)
        names = " and ".join(f"{name} ({hue})" for name, hue in NAMED.items())
        axes.set_title(f"MNIST, ten clients, a CNN: {names}", fontsize=10)


NAMED = {"fedavg": "orange", "fedpf": "blue"}


def main(out: Path, png: Path | None = None) -> None:
    """Print the table, and draw the figure."""
    results = read(out)
    print(markdown(table_of(results)))
    if png is not None:
        draw(results, png)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
