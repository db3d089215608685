"""The figures of a report, each drawn from data to one PNG file.

Matplotlib is imported where it is used, and only through its object-oriented interface:
nothing here touches the global state of pyplot, or slows down ``import fedkt``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fedkt.simulations.report.drawing import (
    GREY,
    MEGABYTE,
    WIDTH,
    Band,
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
    panels,
    shortened,
    verbatim,
)
from fedkt.simulations.results.reading import Run

_GAIN, _LOSS = "#0072B2", "#D55E00"


def accuracy_figure(groups: Mapping[str, Sequence[Run]], target: Path, *, band: Band) -> Path:
    """Draw accuracy against the round, personalised and global side by side.

    Parameters
    ----------
    groups : Mapping[str, Sequence[Run]]
        The runs of every label, in the order of colours.
    target : Path
        The PNG file to write.
    band : {"clients", "seeds"}
        What the shaded standard deviation is over: the clients of the first run of each
        label, or its seeds.

    Returns
    -------
    Path
        The file.
    """
    with canvas(target, WIDTH, height_of(groups)) as figure:
        shaded = False
        for axes, key in panels(figure, groups):
            shaded |= curves(axes, groups, key, band, unit=100)
        legend_below(figure)
        figure.suptitle(f"Accuracy by round ({band_note(band, shaded)})")
    return target


def traffic_figure(groups: Mapping[str, Sequence[Run]], target: Path) -> Path:
    """Draw accuracy against the megabytes that a client has sent and received so far.

    Parameters
    ----------
    groups : Mapping[str, Sequence[Run]]
        The runs of every label, in the order of colours; means are over the runs. A
        label that sends nothing is drawn as a horizontal line at its last accuracy.
    target : Path
        The PNG file to write.

    Returns
    -------
    Path
        The file.
    """
    with canvas(target, WIDTH, height_of(groups)) as figure:
        totals = [max(bytes_sent(run) for run in runs) for runs in groups.values()]
        sent = [total for total in totals if total]
        wide = bool(sent) and max(sent) > 20 * min(sent)
        for axes, key in panels(figure, groups):
            for index, (label, runs) in enumerate(groups.items()):
                rounds, mean, _ = over_seeds(runs, key)
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
    return target


def leakage_figure(groups: Mapping[str, Sequence[Run]], target: Path, *, band: Band) -> Path:
    """Draw how well the mean uploaded prediction gives the label histograms away.

    Correlation and total variation side by side, against the round. It is one weak attack (see
    ``fedkt.evaluation.leakage``): it can show that a method tells much, not that one tells little.

    Parameters
    ----------
    groups : Mapping[str, Sequence[Run]]
        The runs of every label, in the order of colours. Labels whose clients share no
        answers are left out.
    target : Path
        The PNG file to write.
    band : {"clients", "seeds"}
        What the shaded standard deviation is over: the clients of the first run of each
        label, or its seeds.

    Returns
    -------
    Path
        The file.
    """
    guess = "uniform guess"
    sharing = [label for label, runs in groups.items() if any(map(shares_answers, runs))]
    with canvas(target, WIDTH, height_of([*sharing, guess])) as figure:
        left, right = figure.subplots(1, 2)
        shaded = curves(left, groups, "leakage.correlation", band, least=-1)
        shaded |= curves(right, groups, "leakage.total_variation", band)
        left.set_title("Correlation of guess and truth")
        left.set_ylabel("Higher: more is given away")
        left.axhline(0, color="black", lw=0.8)
        left.set_ylim(min(-0.05, left.dataLim.y0 - 0.05), 1.05)
        right.set_title("Total variation between guess and truth")
        right.set_ylabel("Lower: more is given away")
        runs = [run for group in groups.values() for run in group if shares_answers(run)]
        rounds, mean, _ = over_seeds(runs, "leakage.total_variation_uniform")
        right.plot(rounds, mean, label=guess, color=GREY, linestyle="--", linewidth=1.2)
        right.set_ylim(0, max(0.1, 1.1 * right.dataLim.y1))
        for axes in (left, right):
            axes.grid(True)
        legend_below(figure)
        figure.suptitle(f"Label histograms guessed from uploads ({band_note(band, shaded)})")
    return target


def shares_answers(run: Run) -> bool:
    """Say whether the clients of a run shared answers on a public set in any round."""
    return bool(run.series("leakage.total_variation")[0])


def labels_figure(counts: Sequence[Sequence[int]], classes: Sequence[str], target: Path) -> Path:
    """Draw how many training examples of each class every client holds.

    Parameters
    ----------
    counts : Sequence[Sequence[int]]
        Examples, clients × classes.
    classes : Sequence[str]
        The names of the classes.
    target : Path
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
    with canvas(target, WIDTH, height) as figure:
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
    return target


def gain_figure(gains: Mapping[str, Sequence[Sequence[float | None]]], target: Path) -> Path:
    """Draw what every client gains or loses against training alone, sorted.

    Parameters
    ----------
    gains : Mapping[str, Sequence[Sequence[float | None]]]
        Differences in personalised accuracy in [-1, 1], label → seed → client. Seeds
        deal out the data anew, so they are averaged rank by rank, not client by client;
        a thin line spans the seeds.
    target : Path
        The PNG file to write.

    Returns
    -------
    Path
        The file.
    """
    columns = 1 if len(gains) == 1 else 2 if len(gains) in (2, 4) else 3
    rows = -(-len(gains) // columns)
    with canvas(target, WIDTH, 1.6 + 2.4 * rows if rows < 3 else 1 + 2.1 * rows) as figure:
        grid = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
        for axes, (label, seeds) in zip(grid, gains.items(), strict=False):
            known = [np.array([g for g in seed if g is not None], float) for seed in seeds]
            known = [values for values in known if len(values)]
            worse = 100 * float(np.mean([(values < 0).mean() for values in known]))
            size = max(map(len, known))
            ranks = np.linspace(0, 1, size)
            each = 100 * np.array([np.quantile(values, ranks) for values in known])
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
                order = np.argsort(known[0], kind="stable")
                axes.set_xticks(np.arange(size), [str(ids[i]) for i in order])
        for axes in grid[len(gains) :]:
            axes.remove()
        figure.supylabel("Gain (percentage points)", fontsize=10)
        figure.supxlabel("Clients, from the largest loss to the largest gain", fontsize=10)
        figure.suptitle("Personalised accuracy against local training")
    return target


def weights_figure(
    weights: Sequence[Sequence[float]],
    clients: Sequence[int],
    target: Path,
    *,
    effective: Sequence[float] | None = None,
) -> Path:
    """Draw how much each client listens to every other.

    Parameters
    ----------
    weights : Sequence[Sequence[float]]
        Row-stochastic matrix, ``[K, K]``: row k holds the weights of client k.
    clients : Sequence[int]
        The ids of the rows, ``[K]``.
    target : Path
        The PNG file to write.
    effective : Sequence[float] | None
        Effective number of neighbours of each client, ``[K]``, drawn beside the matrix.

    Returns
    -------
    Path
        The file.
    """
    from matplotlib.colors import PowerNorm

    matrix = np.asarray(weights, float)
    size = len(matrix)
    height = float(np.clip(1.8 + 0.42 * size, 3.4, 6.6))
    with canvas(target, WIDTH, height) as figure:
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
    return target
