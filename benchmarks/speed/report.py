"""What a run of the benchmark shows: tables in Markdown, and a figure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fusion
import overhead
import scale
from ratios import OURS, TARGETS, Results
from workloads import WORKLOADS

from fedkt.simulations.report.tables import markdown

ABSENT = "–"
COLOURS = {"ours": "tab:blue", "stock": "tab:red"}


def text_of(results: Results) -> str:
    """Return all tables."""
    parts = [_heading(results)]
    for name, found in results["workloads"].items():
        parts += [_size_of(name, found["case"]), markdown(_rows(found["variants"]))]
    if results.get("overhead"):
        parts.append(markdown(overhead.table(results["overhead"])))
    if results.get("fusion"):
        parts.append(markdown(fusion.table(results["fusion"])))
    if results.get("scale"):
        parts.append(markdown(scale.table(results["scale"])))
    targets = [row for target in TARGETS if (row := target.row(results))]
    if targets and not results["quick"]:
        parts.append(
            markdown([["Target (for the full size)", "measured", "wanted", "met"], *targets])
        )
    return "\n\n".join(parts)


def _heading(results: Results) -> str:
    where = results["machine"]
    load = ", ".join(str(x) for x in where["load"])
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    repeats = results["repeats"]
    runs = "one run" if repeats == 1 else f"workloads as medians of {repeats} runs, all else once"
    return (
        f"{where['cpu']}, {where['cores']} cores, {where['memory_gb']} GB; load {load}; "
        f"{where['date']}; Python {where['python']}, {versions}; {runs}, one thread a worker. "
        "CPU and wall seconds are of one round; of all processes together, start-up left out."
    )


def _size_of(name: str, case: Mapping[str, Any]) -> str:
    kind = WORKLOADS[name]
    return (
        f"**{name}**: {case['clients']:,} clients, {kind.title} of {kind.parameters:,} parameters, "
        f"{case['private']:,} private and {case['public']:,} public samples, "
        f"{case['workers']} workers"
    )


def _rows(variants: Mapping[str, Any]) -> list[list[str]]:
    bases = [ours for ours in OURS if ours in variants]
    columns = [f"{clock} ÷ {ours}" for clock in ("CPU", "wall") for ours in bases]
    rows = [["Variant", "CPU s", "wall s", "training CPU s", *columns]]
    for variant, found in variants.items():
        cells = [_figure(found.get(key)) for key in ("cpu", "wall", "training")]
        for clock in ("cpu", "wall"):
            for ours in bases:
                compared = clock in found and variant != ours
                cells.append(_figure(found[clock] / variants[ours][clock] if compared else None))
        rows.append([variant, *cells])
    return rows


def _figure(value: float | None) -> str:
    if value is None:
        return ABSENT
    return f"{value:.1f}" if value >= 100 else f"{value:.3g}"


def draw(results: Results, file: Path) -> None:
    """Draw CPU seconds of a round as bars, a panel for each workload; the floor is a line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import NullFormatter

    workloads = results["workloads"]
    figure, grid = pyplot.subplots(
        1, len(workloads), figsize=(4.6 * len(workloads), 3.4), squeeze=False, layout="constrained"
    )
    for axes, (name, found) in zip(grid[0], workloads.items(), strict=True):
        bars = {v: f for v, f in found["variants"].items() if v != "floor"}
        colours = [COLOURS.get(v.partition("-")[0], "tab:gray") for v in bars]
        drawn = axes.barh(list(bars), [f["cpu"] for f in bars.values()], color=colours)
        axes.bar_label(drawn, fmt=lambda value: _figure(value), padding=3)
        floor = found["variants"].get("floor")
        if floor:
            axes.axvline(floor["cpu"], color="black", linestyle="--", label="GEMM floor")
            axes.legend(fontsize="small", loc="lower right")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.margins(x=0.25)
        axes.invert_yaxis()
        clients = found["case"]["clients"]
        axes.set_title(f"{name}: {clients:,} clients, {WORKLOADS[name].title}")
        axes.set_xlabel("CPU seconds a round")
    figure.savefig(file, dpi=150)
    pyplot.close(figure)
