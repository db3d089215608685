"""Common parts of all figures: the canvas, colours and looks, legends, ticks.

Matplotlib is imported where it is used, and only through its object-oriented interface:
nothing here touches the global state of pyplot, or slows down ``import fedkt``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fedkt.disk import writing
from fedkt.evaluation import figures
from fedkt.evaluation.figure import Figure as TableRow
from fedkt.simulations.results.run_folder import Run

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

DPI = 144
"""Dots per inch of every figure."""

MEGABYTE = 1_000_000
"""Bytes in a megabyte (MB, the decimal one)."""

Band = Literal["clients", "seeds"]
"""What a shaded standard deviation is over: the clients of a label's first run, or its seeds."""

WIDTH = 9.0
GREY = "#555555"
# Distinct under every common colour blindness; line style and marker are distinct in grey.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#8A8A2B")
_DASHES = ("-", "--", "-.", ":")
_MARKERS = "osD^vP<>X"
_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "text.usetex": False,
}


@contextmanager
def page(width: float, height: float) -> Iterator[Figure]:
    """Yield a new figure in the common style, sizes in inches, to be drawn in the block."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(rc=_STYLE):
        figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure


@contextmanager
def canvas(png: Path, width: float, height: float) -> Iterator[Figure]:
    """Yield a figure in the common style, sizes in inches, and write it to ``png`` afterwards."""
    with page(width, height) as figure:
        yield figure
        with writing(png.parent):
            png.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(png, dpi=DPI, format="png", metadata={"Software": None})


def bytes_sent(run: Run) -> float:
    """Return the bytes a client has sent and received over the whole run."""
    return max(run.cumulative_bytes().values(), default=0.0)


def accuracy_panels(
    canvas: Figure, groups: Mapping[str, Sequence[Run]]
) -> list[tuple[Axes, TableRow]]:
    """Return one panel for each accuracy that any run measured."""
    runs = [run for group in groups.values() for run in group]
    every = figures.panels_of("accuracy")
    shown = [f for f in every if any(run.series(f.name)[0] for run in runs)] or every
    grid = canvas.subplots(1, len(shown), squeeze=False).ravel()
    for axes, figure in zip(grid, shown, strict=True):
        axes.set_title(figure.title)
        axes.grid(True)
    grid[0].set_ylabel("Accuracy (%)")
    return list(zip(grid, shown, strict=True))


def curves(
    axes: Axes,
    groups: Mapping[str, Sequence[Run]],
    figure: TableRow,
    band: Band,
) -> bool:
    """Draw a figure of all labels against the round, with bands; return whether any is shaded.

    Parameters
    ----------
    axes : Axes
        The panel.
    groups : Mapping[str, Sequence[Run]]
        The runs of every label, in the order of colours; one that never measured the
        figure is left out, and the others keep their colours.
    figure : Figure
        What is drawn, in its unit; bands end at its bounds.
    band : {"clients", "seeds"}
        See `Band`.
    """
    unit = figure.unit.scale
    shaded, alpha = False, 0.16 if len(groups) <= 5 else 0.07
    for index, (label, runs) in enumerate(groups.items()):
        if band == "clients":
            rounds, mean, std = (np.asarray(v, float) for v in runs[0].series(figure.name))
        else:
            rounds, mean, std = over_seeds(runs, figure.name)
        if not len(rounds):
            continue
        look = look_of(index, label, len(rounds))
        axes.plot(rounds, unit * mean, label=legend_name(label), **look)
        if std.any():
            shaded = True
            low, high = unit * np.clip([mean - std, mean + std], *figure.bounds)
            axes.fill_between(rounds, low, high, color=look["color"], alpha=alpha, lw=0)
    axes.set_xlabel("Round")
    axes.locator_params(axis="x", integer=True)
    return shaded


def band_note(band: Band, shaded: bool) -> str:
    """Return the note on the bands of a figure."""
    return f"band: ± 1 standard deviation over {band}" if shaded else "no spread: one seed"


def over_seeds(runs: Sequence[Run], key: str) -> tuple[Array, Array, Array]:
    """Return rounds, means and sample deviations over runs, for the rounds that all have."""
    by_round = [dict(zip(*run.series(key)[:2], strict=True)) for run in runs]
    rounds = sorted(set.intersection(*(set(figures) for figures in by_round)))
    values = np.array([[figures[t] for t in rounds] for figures in by_round], float)
    std = values.std(axis=0, ddof=1) if len(by_round) > 1 else np.zeros(len(rounds))
    return np.asarray(rounds, float), values.mean(axis=0), std


def look_of(index: int, label: str, points: int) -> dict[str, Any]:
    """Return colour, dash and marker of the label at a place; training alone is grey."""
    look: dict[str, Any] = {
        "color": _COLOURS[index % len(_COLOURS)],
        "linestyle": _DASHES[index // len(_COLOURS) % len(_DASHES)],
        "marker": _MARKERS[index % len(_MARKERS)],
        "markersize": 4,
        "markevery": max(1, points // 10),
        "linewidth": 1.6,
    }
    # Training alone is the yardstick, not a contestant: the same grey in every figure.
    alone = label.partition("-")[0].partition(" ")[0] == "local"
    return look | {"color": GREY, "linestyle": "--"} if alone else look


def legend_below(figure: Figure) -> None:
    """Put one legend below all panels."""
    # Panels may differ in what they show; every label gets one entry.
    named: dict[str, Artist] = {}
    for axes in figure.axes:
        handles, names = axes.get_legend_handles_labels()
        named.update(zip(map(str, names), handles, strict=True))
    columns = legend_columns(named)
    figure.legend(list(named.values()), list(named), loc="outside lower center", ncols=columns)


def legend_columns(labels: Iterable[str]) -> int:
    """Return how many labels stand side by side."""
    # About 6 points a character and 60 for the line; a line of text is 72 points an inch.
    names = list(labels)
    widest = 60 + 6 * max(map(len, names), default=0)
    return max(1, min(len(names), int(72 * WIDTH / widest), 6))


def height_of(labels: Collection[str]) -> float:
    """Return the height of a figure with a legend of these labels below, in inches."""
    return 4.2 + 0.22 * -(-len(labels) // legend_columns(labels))


def colour_bar(figure: Figure, image: Any, label: str) -> None:
    """Add a colour bar beside all panels."""
    figure.colorbar(image, ax=figure.axes, label=label, pad=0.01, fraction=0.05, aspect=30)


def annotate(axes: Axes, table: Array, norm: Any, form: str, *, dark_is_high: bool = True) -> None:
    """Write the values that are not zero into the cells of a heat map."""
    for (row, column), value in np.ndenumerate(table):
        if value:
            ink = "white" if (norm(value) > 0.6) == dark_is_high else "black"
            axes.text(
                column, row, form.format(value), ha="center", va="center", color=ink, fontsize=8
            )


def id_ticks(axis: Any, names: Sequence[str], most: int) -> None:
    """Label an axis with names, every so many-th where there are many."""
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 10**9) if len(names) <= most * s)
    axis.set_ticks(
        range(0, len(names), step), [verbatim(shortened(name)) for name in names[::step]]
    )


def shortened(text: object, most: int = 16) -> str:
    """Return the text, cut with an ellipsis."""
    text = str(text)
    return text if len(text) <= most else text[: most - 1] + "…"


def legend_name(label: str) -> str:
    """Return a label for the legend."""
    return verbatim(shortened(label, 40))


def verbatim(text: str) -> str:
    """Return the text without formulas."""
    # A pair of dollar signs would start a formula.
    return text.replace("$", r"\$")
