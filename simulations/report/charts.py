"""The figures of a report, each drawn from data to one PNG file.

Matplotlib is imported where it is used, and only through its object-oriented interface:
nothing here touches the global state of pyplot, or slows down ``import fedkt``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedkt.evaluation.figure import Figure
from fedkt.evaluation.figures import CORRELATION, UNIFORM_VARIATION, VARIATION
from fedkt.simulations.report.drawing import (
    GREY,
    MEGABYTE,
    WIDTH,
    Band,
    accuracy_panels,
    annotate,
    band_note,
    bytes_sent,
    canvas,
    colour_bar,
    curves,
    height_of,
    id_ticks,
    legend_below,
    legend_name,
    look_of,
    over_seeds,
    shortened,
    verbatim,
)
from fedkt.simulations.results.run_folder import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Page

_GAIN, _LOSS = "#0072B2", "#D55E00"


def accuracy_figure(groups: Mapping[str, Sequence[Run]], png: Path, *, band: Band) -> Path:
    """Draw accuracy against the round, personalised and global side by side.

    Parameters
    ----------
    groups : Mapping[str, Sequence[Run]]
        The runs of every label, in the order of colours.
    png : Path
        The PNG file to write.
    band : {"clients", "seeds"}
        What the shaded standard deviation is over: the clients of the first run of each
        label, or its seeds.

    Returns
    -------
    Path
        The file.
    """
    with canvas(png, WIDTH, height_of(groups)) as figure:
        draw_accuracy(figure, groups, band)
    return png


def draw_accuracy(figure: Page, groups: Mapping[str, Sequence[Run]], band: Band) -> None:
    """Draw accuracy against the round into an empty figure; see `accuracy_figure`."""
    shaded = False
    for axes, accuracy in accuracy_panels(figure, groups):
        shaded |= curves(axes, groups, accuracy, band)
    legend_below(figure)
    figure.suptitle(f"Accuracy by round ({band_note(band, shaded)})")


def traffic_figure(groups: Mapping[str, Sequence[Run]], png: Path) -> Path:
    """Draw accuracy against the megabytes that a client has sent and received so far.

    Parameters
    ----------
    groups : Mapping[str, Sequence[Run]]
        The runs of every label, in the order of colours; means are over the runs. A
        label that sends nothing is drawn as a horizontal line at its last accuracy.
    png : Path
        The PNG file to write.

    Returns
    -------
    Path
        The file.
    """
    with canvas(png, WIDTH, height_of(groups)) as figure:
        totals = [max(bytes_sent(run) for run in runs) for runs in groups.values()]
        sent = [total for total in totals if total]
        wide = bool(sent) and max(sent) > 20 * min(sent)
        for axes, accuracy in accuracy_panels(figure, groups):
            for index, (label, runs) in enumerate(groups.items()):
                rounds, mean, _ = over_seeds(runs, accuracy.name)
                if not len(rounds):
                    continue
                look = look_of(index, label, len(rounds))
                if not totals[index]:
                    look.pop("marker")
                    axes.axhline(
                        100 * mean[-1], label=f"{legend_name(label)} (sends nothing)", **look
                    )
                    continue
                paid = [r.cumulative_bytes() for r in runs]
                x = np.array([np.mean([p[int(t)] for p in paid]) for t in rounds]) / MEGABYTE
                axes.plot(x, 100 * mean, label=legend_name(label), **look)
            if wide:
                axes.set_xscale("log")
                axes.xaxis.set_major_formatter("{x:g}")
            axes.set_xlabel("Sent and received per client (MB)")
        legend_below(figure)
        figure.suptitle("Accuracy by traffic")
    return png


def leakage_figure(groups: Mapping[str, Sequence[Run]], png: Path, *, band: Band) -> Path:
    """Draw how well the mean uploaded prediction gives the label histograms away.

    Correlation and total variation side by side, against the round. It is one weak attack (see
    ``fedkt.evaluation.leakage``): it can show that a method reveals much, not that it
    reveals little.

    Parameters
    ----------
    groups : Mapping[str, Sequence[Run]]
        The runs of every label, in the order of colours. Labels whose clients share no
        answers are left out.
    png : Path
        The PNG file to write.
    band : {"clients", "seeds"}
        What the shaded standard deviation is over: the clients of the first run of each
        label, or its seeds.

    Returns
    -------
    Path
        The file.
    """
    guess = UNIFORM_VARIATION.title
    sharing = [label for label, runs in groups.items() if any(map(shares_answers, runs))]
    with canvas(png, WIDTH, height_of([*sharing, guess])) as figure:
        left, right = figure.subplots(1, 2)
        shaded = False
        for axes, tells in ((left, CORRELATION), (right, VARIATION)):
            shaded |= curves(axes, groups, tells, band)
            axes.set_title(tells.title)
            axes.set_ylabel(tells.axis)
            axes.grid(True)
        left.axhline(0, color="black", lw=0.8)
        left.set_ylim(min(-0.05, left.dataLim.y0 - 0.05), 1.05)
        runs = [run for group in groups.values() for run in group if shares_answers(run)]
        rounds, mean, _ = over_seeds(runs, UNIFORM_VARIATION.name)
        right.plot(rounds, mean, label=guess, color=GREY, linestyle="--", linewidth=1.2)
        right.set_ylim(0, max(0.1, 1.1 * right.dataLim.y1))
        legend_below(figure)
        figure.suptitle(f"Label histograms guessed from uploads ({band_note(band, shaded)})")
    return png


def drawable(figure: Figure, runs: Sequence[Run]) -> bool:
    """Return whether runs have something to draw of a figure: values, other than "no effect"."""
    values = [value for run in runs for value in run.series(figure.name)[1]]
    return any(values) if figure.signs else bool(values)


def figure_by_round(
    figure: Figure,
    groups: Mapping[str, Sequence[Run]],
    png: Path,
    *,
    band: Band = "seeds",
    cells: int = 1,
) -> Path:
    """Draw a figure that has a picture of its own against the round.

    Parameters
    ----------
    figure : Figure
        Of the table of figures.
    groups : Mapping[str, Sequence[Run]]
        The runs of every label, in the order of colours; at least one has something to draw.
        Those that have nothing are left out.
    png : Path
        The PNG file to write.
    band : {"clients", "seeds"}
        What the shaded standard deviation is over.
    cells : int
        Over how many cells the runs have been averaged.

    Returns
    -------
    Path
        The file.
    """
    shown = [label for label, runs in groups.items() if drawable(figure, runs)]
    with canvas(png, WIDTH, height_of(shown)) as page:
        draw_by_round(page, figure, groups, band, cells)
    return png


def draw_by_round(
    page: Page,
    figure: Figure,
    groups: Mapping[str, Sequence[Run]],
    band: Band = "seeds",
    cells: int = 1,
) -> None:
    """Draw a figure against the round into an empty page; see `figure_by_round`."""
    # Labels with nothing to draw keep their places, so that every label keeps its colour.
    drawn = {
        label: runs if drawable(figure, runs) else [replace(run, rounds=[]) for run in runs]
        for label, runs in groups.items()
    }
    axes = page.subplots()
    shaded = curves(axes, drawn, figure, band)
    axes.grid(True)
    if figure.signs:
        _mark_signs(axes, figure)
    axes.set_ylabel(figure.axis or figure.headed())
    legend_below(page)
    over = f"average over {cells} cells; " if cells > 1 else ""
    spread = band == "seeds" or figure.over == "clients"
    note = band_note(band, shaded) if spread else "one run"
    page.suptitle(f"{figure.title} by round ({over}{note})")


def _mark_signs(axes: Axes, figure: Figure) -> None:
    """Draw the line of zero, and write beside the panel what lies above and below."""
    axes.axhline(0, color="black", lw=1)
    low, high = axes.get_ylim()
    edge = max(0.03 * (high - low), 0.1)
    axes.set_ylim(min(low, -edge), max(high, edge))
    colours = (_GAIN, _LOSS) if figure.better == "higher" else (_LOSS, _GAIN)
    # Outside, where no curve can run through them.
    for place, text, colour in zip((1, 0), figure.signs, colours, strict=True):
        axes.text(1.01, place, text, color=colour, rotation=90, fontsize=9,
                  va="top" if place else "bottom", transform=axes.transAxes)  # fmt: skip


def shares_answers(run: Run) -> bool:
    """Return whether the clients of a run shared answers on a public set in any round."""
    return bool(run.series(VARIATION.name)[0])


def labels_figure(counts: Sequence[Sequence[int]], classes: Sequence[str], png: Path) -> Path:
    """Draw how many training examples of each class every client holds.

    Parameters
    ----------
    counts : Sequence[Sequence[int]]
        Examples, clients × classes.
    classes : Sequence[str]
        The names of the classes.
    png : Path
        The PNG file to write.

    Returns
    -------
    Path
        The file.
    """
    from matplotlib.colors import PowerNorm

    table = np.asarray(counts, float)
    clients, width = table.shape
    height = float(np.clip(1.9 + 0.3 * clients, 3.2, 8.5))
    with canvas(png, WIDTH, height) as figure:
        heat, bars = figure.subplots(1, 2, sharey=True, width_ratios=[5, 1])
        # The square root keeps small clients visible beside large ones.
        norm = PowerNorm(0.5, vmin=0, vmax=max(table.max(), 1))
        image = heat.imshow(table, cmap="Blues", norm=norm, aspect="auto", interpolation="nearest")
        if clients <= 24 and width <= 12:
            annotate(heat, table, norm, "{:.0f}")
        id_ticks(heat.yaxis, [str(i) for i in range(clients)], 26)
        heat.set_ylabel("Client")
        heat.set_xlabel("Class")
        names = [shortened(name) for name in classes] or [str(i) for i in range(width)]
        id_ticks(heat.xaxis, names, 26)
        if max(map(len, names)) > (5 if width <= 12 else 2):
            heat.set_xticks(
                heat.get_xticks(),
                heat.get_xticklabels(),
                rotation=45 if width <= 12 else 90,
                ha="right" if width <= 12 else "center",
                rotation_mode="anchor" if width <= 12 else "default",
            )
        bars.barh(np.arange(clients), table.sum(axis=1), color=GREY, height=0.8)
        bars.set_xlabel("Training\nexamples")
        bars.tick_params(axis="y", left=False, labelleft=False)
        bars.locator_params(axis="x", nbins=3)
        colour_bar(figure, image, "Examples of the class (square-root scale)")
        figure.suptitle(f"Label distribution: {clients} clients × {width} classes")
    return png


def gain_figure(gains: Mapping[str, Sequence[Sequence[float | None]]], png: Path) -> Path:
    """Draw what every client gains or loses against training alone, sorted.

    Parameters
    ----------
    gains : Mapping[str, Sequence[Sequence[float | None]]]
        Differences in personalised accuracy in [-1, 1], label → seed → client. Seeds
        deal out the data anew, so they are averaged rank by rank, not client by client;
        a thin line spans the seeds.
    png : Path
        The PNG file to write.

    Returns
    -------
    Path
        The file.
    """
    columns = 1 if len(gains) == 1 else 2 if len(gains) in (2, 4) else 3
    rows = -(-len(gains) // columns)
    with canvas(png, WIDTH, 1.6 + 2.4 * rows if rows < 3 else 1 + 2.1 * rows) as figure:
        grid = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
        for axes, (label, seeds) in zip(grid, gains.items(), strict=False):
            measured = [np.array([g for g in seed if g is not None], float) for seed in seeds]
            measured = [values for values in measured if len(values)]
            worse = 100 * float(np.mean([(values < 0).mean() for values in measured]))
            size = max(map(len, measured))
            ranks = np.linspace(0, 1, size)
            each = 100 * np.array([np.quantile(values, ranks) for values in measured])
            bars = each.mean(axis=0)
            axes.bar(
                np.arange(size), bars, width=0.85, color=np.where(bars < 0, _LOSS, _GAIN).tolist()
            )
            if len(each) > 1:
                axes.vlines(np.arange(size), each.min(axis=0), each.max(axis=0), "black", lw=0.8)
            axes.margins(x=0.01)
            axes.axhline(0, color="black", lw=0.8)
            axes.set_title(f"{verbatim(shortened(label, 26))}\n{worse:.1f} % of clients worse")
            axes.grid(axis="y")
            axes.set_axisbelow(True)
            axes.set_xticks([])
            if len(gains) == 1 and len(seeds) == 1 and size <= 40:
                ids = [i for i, gain in enumerate(seeds[0]) if gain is not None]
                order = np.argsort(measured[0], kind="stable")
                axes.set_xticks(np.arange(size), [str(ids[i]) for i in order])
        for axes in grid[len(gains) :]:
            axes.remove()
        figure.supylabel("Gain (percentage points)", fontsize=10)
        figure.supxlabel("Clients, from the largest loss to the largest gain", fontsize=10)
        figure.suptitle("Personalised accuracy against local training")
    return png


def weights_figure(
    weights: Sequence[Sequence[float]],
    clients: Sequence[int],
    png: Path,
    *,
    effective: Sequence[float] | None = None,
) -> Path:
    """Draw how much each client listens to every other; return the PNG file.

    Parameters
    ----------
    weights : Sequence[Sequence[float]]
        Row-stochastic matrix, ``[K, K]``: row k holds the weights of client k.
    clients : Sequence[int]
        The ids of the rows, ``[K]``.
    png : Path
        The PNG file to write.
    effective : Sequence[float] | None
        Effective number of neighbours of each client, ``[K]``, drawn beside the matrix.
    """
    from matplotlib.colors import PowerNorm

    matrix = np.asarray(weights, float)
    size = len(matrix)
    height = float(np.clip(1.8 + 0.42 * size, 3.4, 6.6))
    with canvas(png, WIDTH, height) as figure:
        heat, bars = figure.subplots(1, 2, sharey=True, width_ratios=[3, 1])
        # A client's own weight can be far above the others, which must stay visible.
        norm = PowerNorm(0.5, vmin=0, vmax=max(float(np.nanmax(matrix)), 1e-9))
        image = heat.imshow(
            matrix, cmap="viridis", norm=norm, aspect="auto", interpolation="nearest"
        )
        if size <= 12:
            annotate(heat, matrix, norm, "{:.2f}", dark_is_high=False)
        ids = [str(client) for client in clients]
        id_ticks(heat.yaxis, ids, 26)
        id_ticks(heat.xaxis, ids, 26)
        heat.set_ylabel("Client that learns")
        heat.set_xlabel("Client that teaches")
        if effective is None:
            bars.remove()
        else:
            bars.barh(np.arange(size), np.asarray(effective, float), color=GREY, height=0.8)
            bars.set_xlabel("Effective number\nof neighbours")
            bars.tick_params(axis="y", left=False, labelleft=False)
        colour_bar(figure, image, "Weight (square-root scale)")
        figure.suptitle("Neighbour weights in the last round (each row sums to 1)")
    return png
