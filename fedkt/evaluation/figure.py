"""One row of the table of figures: what a figure is, and its value in the row of a round."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fedkt.evaluation.measures import Measure

Place = Literal["summary", "csv", "table", "rounds", "panel", "judged"]
"""``summary``: the chosen rounds in ``summary.json``, and the results of a run's page; ``csv``:
``comparison.csv``; ``table``: a comparison's tables; ``rounds``: the rounds of a run's page;
``panel``: drawn against the round; ``judged``: paired differences and the verdict."""

USUAL: tuple[Place, ...] = ("summary", "csv", "table", "rounds", "panel")

Row = Mapping[str, Any]
"""A line of ``rounds.jsonl``, or the figures of one round in ``summary.json``."""

Whole = Callable[[Sequence[Row], float | None], float | None]
"""A figure of a whole run: from its rows and its accuracy goal, None where it has none."""


@dataclass(frozen=True)
class Unit:
    """How the values of a figure are shown.

    Parameters
    ----------
    name : str
        As it stands in a heading; empty where the title says it.
    scale : float
        What values are multiplied by.
    digits : int, optional
        Decimals, at most; None for about three digits in all.
    """

    name: str = ""
    scale: float = 1
    digits: int | None = 2


PERCENT, POINTS = Unit("%", 100), Unit("points", 100)
ACCURACY = "accuracy"  # measured in any case; other metrics have their names
UNITS = {"%": PERCENT, "": Unit(digits=3)}  # of metrics
MEGABYTES, SECONDS, NUMBER = Unit(scale=1e-6, digits=None), Unit(digits=1), Unit()


@dataclass(frozen=True)
class Figure:
    """One row of the table.

    Parameters
    ----------
    name : str
        The key in ``rounds.jsonl``, ``summary.json`` and ``comparison.csv``; a dot leads to a
        key further inside.
    title : str
        The heading, without the unit.
    unit : Unit
        Of the values.
    better : {"higher", "lower", ""}
        Which values are the good ones; empty if neither are.
    over : {"clients", "server", "run"}
        ``clients``: ``{"mean", "std", "per_client"}`` over them; else one number or None.
    measure : callable, optional
        From a `Round` to what its row holds; None for a figure that is part of another, or
        derived from others.
    derived : callable, optional
        From a round's row to what ``summary.json`` holds, if not what the row holds.
    places : tuple[Place, ...]
        Where it stands.
    always : bool
        Whether its column stands even if nobody measured it.
    optional : bool
        Whether it stands only where it is measured: other rounds have no entry of it, other runs
        no column.
    whole : callable, optional
        From the rows of a run to what ``summary.json`` and tables hold; None for a figure of single
        rounds.
    std_name : str
        The key of its standard deviation over clients in ``summary.json``; empty: left out.
    short, brief, clause : str
        Instead of the title: in narrow tables, as the whole heading on the terminal (empty: it is
        not shown there), and in the line after a run (empty: it is not said).
    yields_to : str
        The column that takes its room on the terminal.
    picture : str
        The file that it is a panel of, without suffix; empty for a picture of its own.
    axis : str
        Along the vertical axis of its panel; the heading by default.
    bounds : tuple[float, float]
        The least and the most that it can be.
    signs : tuple[str, str]
        What values above and below zero mean; empty unless zero stands for no effect.
    definition, caption : str
        For reports: after the title in the list of definitions, and below its own picture.
    """

    name: str
    title: str
    unit: Unit
    better: Literal["higher", "lower", ""]
    over: Literal["clients", "server", "run"]
    measure: Measure | None = None
    derived: Callable[[Row], float | None] | None = None
    places: tuple[Place, ...] = USUAL
    always: bool = False
    optional: bool = False
    whole: Whole | None = None
    std_name: str = ""
    short: str = ""
    brief: str = ""
    clause: str = ""
    yields_to: str = ""
    picture: str = ""
    axis: str = ""
    bounds: tuple[float, float] = (0.0, 1.0)
    signs: tuple[str, str] | tuple[()] = ()
    definition: str = ""
    caption: str = ""

    def headed(self, title: str = "", unit: str = "") -> str:
        """Return a heading: the figure's title and unit, or others."""
        name = unit or self.unit.name
        return f"{title or self.title} ({name})" if name else title or self.title

    @property
    def narrow(self) -> str:
        """The title in few words."""
        return self.short or self.title


def value_of(row: Row, name: str) -> float | None:
    """Return a figure of a row: the number, or its mean over clients; None if not measured."""
    return _inside(row, name)[0]


def spread_of(row: Row, name: str) -> float:
    """Return the standard deviation of a figure of a row over clients, 0 for a single number."""
    return _inside(row, name)[1]


def at(row: Row, name: str) -> Any:
    """Return what a row holds under a name, in which dots lead inside; None if nothing."""
    value: Any = row
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _inside(row: Row, name: str) -> tuple[float | None, float]:
    value: Any = at(row, name)
    std = 0.0
    if isinstance(value, Mapping):
        value, std = value.get("mean"), float(value.get("std") or 0)
    return value, std
