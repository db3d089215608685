"""Strategies by cells: one table for each accuracy of a comparison of several cells."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedkt.data.targets import short_names
from fedkt.evaluation.figure import Figure
from fedkt.evaluation.figures import OF_GAP, figures_at, target_accuracy
from fedkt.simulations.report.drawing import shortened
from fedkt.simulations.report.tables import ABSENT, markdown, marks, pm
from fedkt.simulations.results import gap
from fedkt.simulations.results.aggregates import about_gap, spread
from fedkt.simulations.results.comparison_folder import Comparison
from fedkt.simulations.results.dropouts import failure_lines
from fedkt.simulations.results.run_folder import Run

if TYPE_CHECKING:
    from rich.table import Table

AVERAGE = "Average"
WIDE = 8
"""With more cells than that, they are the rows of the table and not the columns."""

Reading = Callable[[Run], float | None]
"""What a table shows of a run, in [0, 1]."""


@dataclass(frozen=True)
class CellsTable:
    """One accuracy of all strategies in all cells.

    Parameters
    ----------
    title, short : str
        The accuracy, in a line and in a word or two.
    columns : tuple[str, ...]
        The headings of the cells, and the average.
    strategies : tuple[str, ...]
        The labels, with their marks.
    values : tuple[tuple[Mapping or None, ...], ...]
        By strategy and column ``{"mean", "std", "n"}`` over seeds, in [0, 1]; None where
        nothing was measured.
    no_rivals : frozenset[int]
        The places of strategies that ran on other models than the rest, or are not federated.
    """

    title: str
    short: str
    columns: tuple[str, ...]
    strategies: tuple[str, ...]
    values: tuple[tuple[Mapping[str, Any] | None, ...], ...]
    no_rivals: frozenset[int] = frozenset()

    @property
    def wide(self) -> bool:
        """Whether there are too many cells to stand side by side."""
        return len(self.columns) - 1 > WIDE

    def best(self, column: int) -> set[int]:
        """Return the places of the best strategies of a column, as far as one decimal tells."""
        column_values = [(place, line[column]) for place, line in enumerate(self.values)]
        means = {
            place: float(f"{100 * value['mean']:.1f}")
            for place, value in column_values
            if value is not None and place not in self.no_rivals
        }
        highest = max(means.values(), default=None)
        return {place for place, mean in means.items() if mean == highest}

    def lines(self) -> list[list[tuple[str, bool]]]:
        """Return header and body: each text, and whether it is the best of its cell."""
        first = [("Strategy", False), *((name, False) for name in self.columns)]
        best = [self.best(column) for column in range(len(self.columns))]
        body = [
            [(name, False)] + [(pm(v, 100, digits=1), place in best[c]) for c, v in enumerate(line)]
            for place, (name, line) in enumerate(zip(self.strategies, self.values, strict=True))
        ]
        if not self.wide:
            return [first, *body]
        turned = [list(line) for line in zip(first, *body, strict=True)]
        return [[("Cell", False), *turned[0][1:]], *turned[1:]]


def cell_tables(results: Mapping[str, Comparison]) -> list[CellsTable]:
    """Return the tables of a comparison of several cells.

    Parameters
    ----------
    results : Mapping[str, Comparison]
        By cell.

    Returns
    -------
    list[CellsTable]
        Of cells with a target domain: accuracy on it after the last round, and at the round
        that the source domains' validation data select. Of other cells: personalised and
        global accuracy after the last round. Without those that nobody measured.
    """
    with_target = {name: c for name, c in results.items() if target_of(c)}
    without_target = {name: c for name, c in results.items() if name not in with_target}
    tables = [
        _table(
            "Target accuracy after the last round", "Last round", with_target, _on_target("last")
        ),
        _table(
            "Target accuracy at the round selected on source validation data",
            "Selected",
            with_target,
            _on_target("validation_selected"),
        ),
        *(
            _table(
                f"{figure.title} after the last round", figure.narrow, without_target, _last(figure)
            )
            for figure in figures_at("judged")
        ),
        *(_gap_table(share, of, without_target) for share, of in OF_GAP.items()),
    ]
    return [table for table in tables if any(any(line) for line in table.values)]


def target_of(comparison: Comparison) -> str:
    """Return the target domain of a cell; empty without one."""
    return str(comparison.runs[0].federation.get("target") or "")


def headings(results: Mapping[str, Comparison]) -> dict[str, str]:
    """Return the heading of each cell's column: its target if no two are equal, else its name."""
    full = [target_of(c) for c in results.values()]
    clear = len(set(full)) == len(full)
    targets = dict(zip(results, map(_shown, short_names(full)), strict=True))
    return {name: f"→ {t}" if t and clear else name for name, t in targets.items()}


def over_cells(
    results: Mapping[str, Comparison], label: str, reading: Reading
) -> dict[int, list[float]]:
    """Return a figure of one strategy in all cells, by seed; of seeds that have it everywhere."""
    readings = [
        {run.seed: reading(run) for run in comparison.groups.get(label, ())}
        for comparison in results.values()
    ]
    seeds = sorted(set.intersection(*map(set, readings))) if readings else []
    by_seed = {seed: [of_cell[seed] for of_cell in readings] for seed in seeds}
    return {s: [v for v in values if v is not None] for s, values in by_seed.items()
            if None not in values}  # fmt: skip


def labels_of(results: Mapping[str, Comparison]) -> list[str]:
    """Return the labels of all strategies in any cell, each once."""
    return list(dict.fromkeys(label for c in results.values() for label in c.groups))


def notes_of(tables: Sequence[CellsTable], results: Mapping[str, Comparison]) -> list[str]:
    """Return the notes that explain the figures and the marks."""
    runs = [run for comparison in results.values() for run in comparison.runs]
    shown = [value for table in tables for line in table.values for value in line if value]
    counts = sorted({value["n"] for value in shown})
    seeds, several = " or ".join(map(str, counts)), counts != [1]
    text = f"Percent, mean ± std over {seeds} seeds" if several else "Percent; one seed"
    text += ". Average: over the cells with each seed"
    text += ", then mean ± std over seeds" if several else ""
    text += f"; {ABSENT} where a cell is missing"
    if any("gap closed" in table.title.lower() for table in tables):
        text += ", or its gap too small; the average of the gap closed is over the other cells"
    text += ". Bold: the highest mean of its cell, untested"
    ran = [{k: run.summary.get(k) for k in ("one_architecture", "transductive")} for run in runs]
    about = {"one_architecture": None, "transductive": None}
    ran += [{**about, "about_gap": about_gap(comparison)} for comparison in results.values()]
    aside = ["strategies with †"] * any(row["one_architecture"] for row in ran)
    aside += dict.fromkeys(r.label for r in runs if r.summary.get("yardstick") == "pooled")
    excepted = f" ({' and '.join(aside)} aside)" if aside else ""
    more = dict.fromkeys(run.label for run in runs if run.summary.get("same_epochs"))
    remark = (
        f"{', '.join(more)}: rehearsal included they see more private samples than local training "
        "for as many epochs; local(like=…) sees as many."
    )
    return [f"{text}{excepted}.", *marks(ran), *([remark] if more else []), *failure_lines(runs)]


def tables_markdown(tables: Sequence[CellsTable], results: Mapping[str, Comparison]) -> str:
    """Return the tables and their notes as Markdown, to be pasted into a document."""
    parts = []
    for table in tables:
        lines = [[f"**{t}**" if best else t for t, best in line] for line in table.lines()]
        parts += [f"**{table.title} (%)**", markdown(lines)]
    return "\n\n".join([*parts, *notes_of(tables, results)]) + "\n"


def tables_for_terminal(tables: Sequence[CellsTable], width: int) -> list[Table]:
    """Return the tables for a terminal ``width`` characters wide.

    A table that is too wide is continued below; of very many cells only the averages are
    shown.
    """
    shown = [part for table in tables if not table.wide for part in _parts(table, width)]
    wide: dict[tuple[tuple[str, ...], str], list[CellsTable]] = {}
    for table in tables:
        if table.wide:
            what = " accuracy" if "accuracy" in table.title else ""
            wide.setdefault((table.columns, what), []).append(table)
    for (columns, what), group in wide.items():  # those of the same cells
        head = ", ".join(dict.fromkeys(t.title.partition(" a")[0] for t in group))
        values = tuple(zip(*([line[-1] for line in t.values] for t in group), strict=True))
        title = f"{head}{what} (%), average over {len(columns) - 1} cells"
        shorts = tuple(t.short for t in group)
        same = CellsTable(title, "", shorts, group[0].strategies, values, group[0].no_rivals)
        shown.append(_laid_out(title, same.lines()))
    return shown


def _table(
    title: str, short: str, results: Mapping[str, Comparison], reading: Reading
) -> CellsTable:
    values = []
    for label in labels_of(results):
        line = [spread(map(reading, c.groups.get(label, ()))) for c in results.values()]
        each = over_cells(results, label, reading)
        values.append((*line, spread(statistics.fmean(of_seed) for of_seed in each.values())))
    return _laid_out_by_strategy(title, short, results, values)


def _gap_table(share: Figure, accuracy: Figure, results: Mapping[str, Comparison]) -> CellsTable:
    """Return the table of the gap that methods close; the average is over the cells with a gap."""
    values = []
    for label in labels_of(results):
        line = [
            gap.closed(c, label, accuracy) if label in c.groups else None for c in results.values()
        ]
        known = [value for value in line if value]
        mean = statistics.fmean(value["mean"] for value in known) if known else 0.0
        average = {"mean": mean, "std": None, "n": known[0]["n"]} if known else None
        values.append((*line, average))
    title = f"{share.title} after the last round"
    return _laid_out_by_strategy(title, share.narrow, results, values)


def _laid_out_by_strategy(
    title: str,
    short: str,
    results: Mapping[str, Comparison],
    values: Sequence[tuple[Mapping[str, Any] | None, ...]],
) -> CellsTable:
    """Return a table of the values of all strategies, these with their marks."""
    marked, alone, aside = [], set(), set()
    for place, label in enumerate(labels_of(results)):
        runs = [run for c in results.values() for run in c.groups.get(label, ())]
        if any(run.summary.get("one_architecture") for run in runs):
            alone.add(place)
        if any(run.summary.get("yardstick") == "pooled" for run in runs):
            aside.add(place)
        adapts = any(run.summary.get("transductive") for run in runs)
        mark = ("†" if place in alone else "") + ("‡" if adapts else "")
        marked.append(f"{label} {mark}".rstrip())
    columns = (*headings(results).values(), AVERAGE)
    return CellsTable(title, short, columns, tuple(marked), tuple(values), frozenset(alone | aside))


def _on_target(selection: str) -> Reading:
    return lambda run: target_accuracy(run.selected(selection))


def _last(figure: Figure) -> Reading:
    return lambda run: run.figure(figure)


def _shown(target: str) -> str:
    """Return a domain's name without its file, if it has one."""
    return target.rpartition(":")[2] if ".py:" in target else target


def _parts(table: CellsTable, width: int) -> list[Table]:
    """Return a table in parts that fit the terminal's width, each with the strategies in front."""
    header, *body = table.lines()
    if (
        sum(1 + max(len(line[c][0]) for line in [header, *body]) for c in range(len(header)))
        > width
    ):
        header = [header[0], *((shortened(name, 11), best) for name, best in header[1:])]
    widths = [1 + max(len(line[c][0]) for line in [header, *body]) for c in range(1, len(header))]
    # Labels are folded as far as can be read, before a table is cut.
    room = max(width - sum(widths), 12 if sum(widths) + 12 <= width else 28)
    first = min(room, max(len(line[0][0]) for line in [header, *body]))
    groups: list[list[int]] = [[]]
    used = first
    for column, needed in enumerate(widths, 1):
        if groups[-1] and used + needed > width:
            groups.append([])
            used = first
        groups[-1].append(column)
        used += needed
    return [
        _laid_out(
            f"{table.title} (%)" + (", continued" if number else ""),
            [[line[0], *(line[c] for c in group)] for line in [header, *body]],
            first,
        )
        for number, group in enumerate(groups)
    ]


def _laid_out(title: str, lines: Sequence[Sequence[tuple[str, bool]]], first: int = 28) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), box=SIMPLE_HEAD, padding=0, show_edge=False)
    for index, (name, _) in enumerate(lines[0]):
        table.add_column(
            Text(name),
            justify="right" if index else "left",
            overflow="fold",
            no_wrap=bool(index),
            max_width=None if index else first,
        )
    for line in lines[1:]:  # Text, not str: a label in square brackets is no markup
        table.add_row(*(Text(text, style="bold" if best else "") for text, best in line))
    return table
