"""Comparisons as tables for the terminal, Markdown and the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from fedkt.evaluation.figure import POINTS, Figure
from fedkt.evaluation.figures import FIGURES, figures_at, target_first
from fedkt.simulations.report.drawing import MEGABYTE
from fedkt.simulations.results.aggregates import aggregate
from fedkt.simulations.results.comparison_folder import Comparison
from fedkt.simulations.results.dropouts import failure_lines
from fedkt.simulations.results.intervals import Interval, clear
from fedkt.text import one_line

if TYPE_CHECKING:
    from rich.table import Table

ABSENT = "–"
"""What stands in a table where nothing was measured."""

DIFFERENCES_NOTE = (
    "Percentage points after the last round, paired over seeds: mean ± half-width of the 95 % t "
    "interval. *: differs from 0 at 5 % after Holm's correction over the lines of the column; "
    "never with fewer than 3 seeds or where all of them give the same difference (no spread)."
)

TERMINAL, LABEL = 78, 10  # columns of the terminal within its margins; at least, for a label

FAILURES = "Failures"  # a column where there are any: over all rounds and seeds


def comparison_table(comparison: Comparison) -> Table:
    """Return a comparison for the terminal: last round, mean ± std over seeds.

    One row a strategy, figures to one decimal; the marks † and ‡ are explained below. Costs that
    eighty columns have no room for are left to the report.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    rows = aggregate(comparison)
    header, *body = table_of(rows, digits=1)
    brief = _terminal_headings(header)
    columns = [i for i, name in enumerate(header) if brief[name]]
    widths = [
        max(len(brief[name]), *(len(line[i]) for line in body)) for i, name in enumerate(header)
    ]
    costs = [i for i in columns if header[i] in {f.headed() for f in FIGURES if f.whole}]
    while costs and LABEL + sum(2 + widths[i] for i in columns[1:]) > TERMINAL:
        columns.remove(costs.pop())
    header, *body = [[line[i] for i in columns] for line in [header, *body]]
    widths = [widths[i] for i in columns]
    # Text, not str: a label in square brackets is no markup.
    caption = Text("\n".join(_below(comparison, rows)))
    title = "Accuracies after the last round"
    table = Table(
        title=title, caption=caption, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False
    )
    table.caption_justify = "left"
    for index, name in enumerate(header):
        side: Literal["left", "right"] = "right" if index else "left"
        # A long label may take several lines; a figure must never be cut.
        table.add_column(
            brief[name],
            justify=side,
            overflow="fold",
            no_wrap=bool(index),
            min_width=widths[index] if index else LABEL,
        )
    for line in body:
        table.add_row(*map(Text, line))
    return table


def _terminal_headings(header: Sequence[str]) -> dict[str, str]:
    """Return the heading on the terminal by heading; empty for a column without room.

    Eighty columns hold seven figures; the report shows the others.
    """
    columns = {figure.headed(): figure for figure in figures_at("table")}
    present = {figure.name for heading, figure in columns.items() if heading in header}
    present |= {"failures"} & {name.lower() for name in header}
    briefs = {
        heading: "" if figure.yields_to in present else figure.brief
        for heading, figure in columns.items()
    }
    return {name: briefs.get(name, name) for name in header} | {FAILURES: "Fail."}


def plain_table(comparison: Comparison) -> str:
    """Return a comparison in Markdown: last round, mean ± std over seeds.

    One row a strategy; the marks † and ‡ are explained below the table.
    """
    rows = aggregate(comparison)
    return "\n\n".join([markdown(table_of(rows)), *_below(comparison, rows)]) + "\n"


def plain_differences(comparison: Comparison) -> str:
    """Return the paired differences to local training in Markdown; empty if there are none.

    Percentage points after the last round, with their intervals over seeds.
    """
    body = differences(aggregate(comparison))
    table = markdown([differences_head(narrow=True), *body])
    return f"{table}\n\n{DIFFERENCES_NOTE}\n" if body else ""


def markdown(table: Sequence[Sequence[str]]) -> str:
    """Return header and body in Markdown."""
    lines = [[one_line(cell).replace("|", r"\|") for cell in line] for line in table]
    rule = [["---"] + ["---:"] * (len(lines[0]) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines[:1] + rule + lines[1:])


def table_of(
    rows: Sequence[Mapping[str, Any]], with_cost: bool = True, digits: int = 2
) -> list[list[str]]:
    """Return header and body of the main table; columns that nobody measured are left out."""
    columns = [
        figure
        for figure in target_first(figures_at("table"))
        if with_cost or not figure.whole
        if figure.always or any(row[figure.name] for row in rows)
    ]
    failing = with_cost and any(row.get("failures") for row in rows)
    header = ["Strategy", *([] if with_cost else ["Round"]), *(f.headed() for f in columns)]
    table = [header + [FAILURES] * failing]
    for row in rows:
        line = [_marked(row), *([] if with_cost else [pm(row["round"], digits=1)])]
        line += [_over_seeds(figure, row[figure.name], row["n"], digits) for figure in columns]
        table.append(line + [str(row.get("failures", 0))] * failing)
    return table


def _over_seeds(figure: Figure, value: Mapping[str, Any] | None, seeds: int, digits: int) -> str:
    """Return a figure over seeds, ``{"mean", "std", "n"}``, in its unit.

    Of a whole run's figure it says how many seeds have it, if not all: others are no better.
    """
    if value is None:
        return ABSENT
    some = f" ({value['n']} of {seeds})" if figure.whole and value["n"] < seeds else ""
    if figure.unit.digits is None:
        return megabytes(value["mean"], value["std"]) + some
    return pm(value, figure.unit.scale, digits=min(digits, figure.unit.digits)) + some


def differences(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return the body of the table of paired differences, in percentage points."""
    pairs = [(_marked(row), pair) for row in rows for pair in row["differences"]]
    columns = []
    for figure in figures_at("judged"):
        column: list[Interval | None] = [pair[figure.name] for _, pair in pairs]
        starred = clear([value.p if value else 1.0 for value in column])
        columns.append(
            [
                ABSENT if value is None else value.shown(2) + " *" * star
                for value, star in zip(column, starred, strict=True)
            ]
        )
    return [
        [who, pair["against"], *cells, _seeds(pair)]
        for (who, pair), *cells in zip(pairs, *columns, strict=True)
    ]


def differences_head(narrow: bool = False) -> list[str]:
    """Return the header of the table of paired differences."""
    judged = figures_at("judged")
    heads = [f.headed(f.narrow if narrow else f.title, POINTS.name) for f in judged]
    return ["Strategy", "Against", *heads, "Seeds"]


def _seeds(pair: Mapping[str, Any]) -> str:
    values: list[Interval | None] = [pair[figure.name] for figure in figures_at("judged")]
    return str(max((value.n for value in values if value), default=0))


def _marked(row: Mapping[str, Any]) -> str:
    marks = ("†" if row["one_architecture"] else "") + ("‡" if row["transductive"] else "")
    return f"{row['strategy']} {marks}".rstrip()


def marks(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return an explanation of each mark in use."""
    lines = []
    alone = sorted({str(row["one_architecture"]) for row in rows if row["one_architecture"]})
    if alone:
        lines.append(
            f"† needs one architecture and ran on it alone ({', '.join(alone)}); "
            "its accuracies are those of other models than the rest."
        )
    if any(row["transductive"] for row in rows):
        lines.append("‡ transductive: adapts on the unlabelled data it is then tested on.")
    lines += list(dict.fromkeys(row["about_gap"] for row in rows if row.get("about_gap")))
    return lines + [_alone(rows)] * any(row.get("alone") for row in rows)


def _alone(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the note on the two local baselines of methods that rehearse."""
    clauses = [
        f"{row['strategy']}: {row['alone'][0]}, for as many epochs {row['alone'][1]}"
        for row in rows
        if row.get("alone")
    ]
    return (
        "Negative transfer: against training alone on as many private samples, rehearsal included "
        f"({'; '.join(clauses)})."
    )


def attack_of(config: Mapping[str, Any]) -> str | None:
    """Return the attack of an experiment in words; None without one."""
    section = config.get("attack")
    if not section:
        return None
    kind, count = section["kind"], section["clients"]
    options = ", ".join(f"{k}={v}" for k, v in section.items() if k not in ("kind", "clients"))
    how = f"{kind}({options})" if options else kind
    who = "client 0" if count == 1 else f"clients 0–{count - 1}"
    return f"{how} × {count} ({who}); results over the honest clients"


def _below(comparison: Comparison, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the lines below a comparison's table."""
    attack = attack_of(comparison.config)
    lines = [over(rows), *([f"Attack: {attack}."] if attack else []), *marks(rows)]
    return lines + failure_lines(comparison.runs)


def over(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a sentence on the seeds of the figures."""
    counts = sorted({row["n"] for row in rows})
    if counts == [1]:
        return "One seed: no spread can be given. MB (10⁶ bytes) per client over the run."
    seeds = " or ".join(map(str, counts))
    return f"Mean ± std over {seeds} seeds. MB (10⁶ bytes) per client over the run."


def pm(
    value: Mapping[str, Any] | None,
    scale: float = 1,
    *,
    digits: int = 2,
) -> str:
    """Return mean ± standard deviation as text; the latter is left out for a single seed."""
    if value is None:
        return ABSENT
    text, std = f"{scale * value['mean']:.{digits}f}", value["std"]
    return text if std is None else f"{text} ± {scale * std:.{digits}f}"


def megabytes(size: float | None, std: float | None = None) -> str:
    """Return bytes as megabytes, to about three digits; a spread of zero is left out."""
    if size is None:
        return ABSENT
    value = float(size) / MEGABYTE
    digits = next((d for d, least in enumerate((100, 10, 1, 0.1, 0.01)) if value >= least), 5)
    text = f"{value:.{digits}f}" if value else "0"
    return f"{text} ± {std / MEGABYTE:.{digits}f}" if std else text


def shown(figure: Figure, value: float | None) -> str:
    """Return a figure of one run as text in its unit, which the heading names."""
    if figure.unit.digits is None:
        return megabytes(value)
    if value is None:
        return ABSENT
    return f"{figure.unit.scale * value:.{figure.unit.digits}f}"


def percent(value: float | None, sign: str = "") -> str:
    """Return a share as percent with two decimals."""
    return ABSENT if value is None else f"{100 * value:{sign}.2f}"
