"""The figures of a report, each drawn from data to one PNG file.

Matplotlib is imported where it is used, and only through its object-oriented interface:
nothing here touches the global state of pyplot, or slows down ``import fedkt``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fedkt.simulations.results import Run

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

PANELS = {"personalised_accuracy": "Personalised accuracy", "global_accuracy": "Global accuracy"}
"""The accuracies that are drawn, with their titles."""

_WIDTH = 9.0
_GAIN, _LOSS, _GREY = "#0072B2", "#D55E00", "#555555"
# Told apart with every common colour blindness; line style and marker tell them apart in grey.
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


def accuracy_figure(
    groups: Mapping[str, Sequence[Run]], target: Path, *, band: Literal["clients", "seeds"]
) -> Path:
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
    with canvas(target, _WIDTH, _tall(groups)) as figure:
        shaded = False
        for axes, key in _panels(figure, groups):
            for index, (label, runs) in enumerate(groups.items()):
                if band == "clients":
                    rounds, mean, std = (np.asarray(v, float) for v in runs[0].series(key))
                else:
                    rounds, mean, std = _over_seeds(runs, key)
                look = _look(index, label, len(rounds))
                axes.plot(rounds, 100 * mean, label=_name(label), **look)
                low, high = np.clip([mean - std, mean + std], 0, 1)
                if std.any():
                    shaded = True
                    alpha = 0.16 if len(groups) <= 5 else 0.07
                    axes.fill_between(
                        rounds, 100 * low, 100 * high, color=look["color"], alpha=alpha, lw=0
                    )
            axes.set_xlabel("Round")
            axes.locator_params(axis="x", integer=True)
        _legend_below(figure)
        banded = f"band: ± 1 standard deviation over {band}" if shaded else "no spread: one seed"
        figure.suptitle(f"Accuracy by round ({banded})")
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
    with canvas(target, _WIDTH, _tall(groups)) as figure:
        totals = [max(_sent(run) for run in runs) for runs in groups.values()]
        sent = [total for total in totals if total]
        wide = bool(sent) and max(sent) > 20 * min(sent)
        for axes, key in _panels(figure, groups):
            for index, (label, runs) in enumerate(groups.items()):
                rounds, mean, _ = _over_seeds(runs, key)
                if not len(rounds):
                    continue
                look = _look(index, label, len(rounds))
                if not totals[index]:
                    look.pop("marker")
                    axes.axhline(100 * mean[-1], label=f"{_name(label)} (sends nothing)", **look)
                    continue
                paid = [r.cumulative_bytes() for r in runs]
                x = np.array([np.mean([p[int(t)] for p in paid]) for t in rounds]) / MEGABYTE
                axes.plot(x, 100 * mean, label=_name(label), **look)
            if wide:
                axes.set_xscale("log")
                axes.xaxis.set_major_formatter("{x:g}")
            axes.set_xlabel("Sent and received per client (MB)")
        _legend_below(figure)
        figure.suptitle("Accuracy by traffic")
    return target


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
    with canvas(target, _WIDTH, height) as figure:
        heat, bars = figure.subplots(1, 2, sharey=True, width_ratios=[5, 1])
        # The square root keeps small clients visible beside large ones.
        norm = PowerNorm(0.5, vmin=0, vmax=max(table.max(), 1))
        image = heat.imshow(table, cmap="Blues", norm=norm, aspect="auto", interpolation="nearest")
        if clients <= 24 and width <= 12:
            _annotate(heat, table, norm, "{:.0f}")
        _id_ticks(heat.yaxis, [str(i) for i in range(clients)], 26)
        heat.set_ylabel("Client")
        heat.set_xlabel("Class")
        names = [_short(name) for name in classes] or [str(i) for i in range(width)]
        _id_ticks(heat.xaxis, names, 26)
        if max(map(len, names)) > (5 if width <= 12 else 2):
            heat.set_xticks(
                heat.get_xticks(),
                heat.get_xticklabels(),
                rotation=45 if width <= 12 else 90,
                ha="right" if width <= 12 else "center",
                rotation_mode="anchor" if width <= 12 else "default",
            )
        bars.barh(np.arange(clients), table.sum(axis=1), color=_GREY, height=0.8)
        bars.set_xlabel("Training\nexamples")
        bars.tick_params(axis="y", left=False, labelleft=False)
        bars.locator_params(axis="x", nbins=3)
        _colour_bar(figure, image, "Examples of the class (square-root scale)")
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
    with canvas(target, _WIDTH, 1.6 + 2.4 * rows if rows < 3 else 1 + 2.1 * rows) as figure:
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
            axes.set_title(f"{_plain(_short(label, 26))}\n{worse:.1f} % of clients worse")
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
    with canvas(target, _WIDTH, height) as figure:
        heat, bars = figure.subplots(1, 2, sharey=True, width_ratios=[3, 1])
        # A client's own weight can be far above the others, which must stay visible.
        norm = PowerNorm(0.5, vmin=0, vmax=max(float(np.nanmax(matrix)), 1e-9))
        image = heat.imshow(
            matrix, cmap="viridis", norm=norm, aspect="auto", interpolation="nearest"
        )
        if size <= 12:
            _annotate(heat, matrix, norm, "{:.2f}", dark_is_high=False)
        ids = [str(client) for client in clients]
        _id_ticks(heat.yaxis, ids, 26)
        _id_ticks(heat.xaxis, ids, 26)
        heat.set_ylabel("Client that learns")
        heat.set_xlabel("Client that teaches")
        if effective is None:
            bars.remove()
        else:
            bars.barh(np.arange(size), np.asarray(effective, float), color=_GREY, height=0.8)
            bars.set_xlabel("Effective number\nof neighbours")
            bars.tick_params(axis="y", left=False, labelleft=False)
        _colour_bar(figure, image, "Weight (square-root scale)")
        figure.suptitle("Neighbour weights in the last round (each row sums to 1)")
    return target


@contextmanager
def canvas(target: Path, width: float, height: float) -> Iterator[Figure]:
    """Give a figure of the house's style and write it to ``target`` afterwards; inches."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(rc=_STYLE):
        figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        target.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(target, dpi=DPI, format="png", metadata={"Software": None})


def _sent(run: Run) -> float:
    return max(run.cumulative_bytes().values(), default=0.0)


def _panels(figure: Figure, groups: Mapping[str, Sequence[Run]]) -> list[tuple[Axes, str]]:
    """One panel for each accuracy that any run measured."""
    runs = [run for group in groups.values() for run in group]
    keys = [key for key in PANELS if any(run.series(key)[0] for run in runs)] or list(PANELS)
    grid = figure.subplots(1, len(keys), squeeze=False).ravel()
    for axes, key in zip(grid, keys, strict=True):
        axes.set_title(PANELS[key])
        axes.grid(True)
    grid[0].set_ylabel("Accuracy (%)")
    return list(zip(grid, keys, strict=True))


def _over_seeds(runs: Sequence[Run], key: str) -> tuple[Array, Array, Array]:
    """Mean and sample standard deviation over runs, for the rounds that all of them have."""
    series = [dict(zip(*run.series(key)[:2], strict=True)) for run in runs]
    rounds = sorted(set.intersection(*(set(one) for one in series)))
    values = np.array([[one[t] for t in rounds] for one in series], float)
    std = values.std(axis=0, ddof=1) if len(series) > 1 else np.zeros(len(rounds))
    return np.asarray(rounds, float), values.mean(axis=0), std


def _look(index: int, label: str, points: int) -> dict[str, Any]:
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
    return look | {"color": _GREY, "linestyle": "--"} if alone else look


def _legend_below(figure: Figure) -> None:
    # Panels may differ in what they show; every label gets one entry.
    named: dict[str, Artist] = {}
    for axes in figure.axes:
        handles, names = axes.get_legend_handles_labels()
        named.update(zip(map(str, names), handles, strict=True))
    columns = _legend_columns(named)
    figure.legend(list(named.values()), list(named), loc="outside lower center", ncols=columns)


def _legend_columns(labels: Iterable[str]) -> int:
    # About 6 points a character and 60 for the line; a line of text is 72 points an inch.
    names = list(labels)
    widest = 60 + 6 * max(map(len, names), default=0)
    return max(1, min(len(names), int(72 * _WIDTH / widest), 6))


def _tall(groups: Mapping[str, Sequence[Run]]) -> float:
    return 4.2 + 0.22 * -(-len(groups) // _legend_columns(groups))


def _colour_bar(figure: Figure, image: Any, label: str) -> None:
    figure.colorbar(image, ax=figure.axes, label=label, pad=0.01, fraction=0.05, aspect=30)


def _annotate(axes: Axes, table: Array, norm: Any, form: str, *, dark_is_high: bool = True) -> None:
    for (row, column), value in np.ndenumerate(table):
        if value:
            ink = "white" if (norm(value) > 0.6) == dark_is_high else "black"
            axes.text(
                column, row, form.format(value), ha="center", va="center", color=ink, fontsize=8
            )


def _id_ticks(axis: Any, names: Sequence[str], most: int) -> None:
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 10**9) if len(names) <= most * s)
    axis.set_ticks(range(0, len(names), step), [_plain(_short(name)) for name in names[::step]])


def _short(text: object, most: int = 16) -> str:
    text = str(text)
    return text if len(text) <= most else text[: most - 1] + "…"


def _name(label: str) -> str:
    return _plain(_short(label, 40))


def _plain(text: str) -> str:
    # A pair of dollar signs would start a formula.
    return text.replace("$", r"\$")
