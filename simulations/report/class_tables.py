"""Metrics that are tables over the classes, for a run's page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedkt.evaluation.figure import UNITS, Unit
from fedkt.evaluation.figures import GLOBAL, PERSONALISED
from fedkt.metrics import Facts
from fedkt.simulations.report.tables import ABSENT
from fedkt.simulations.results.run_folder import Run

MOST_CELLS = 20_000  # of single clients on a page, of one metric

Lines = list[list[str]]


@dataclass(frozen=True)
class ClassTable:
    """A metric over the classes on a page.

    Parameters
    ----------
    title, definition : str
        The heading, and what stands below it.
    lines : list[list[str]]
        Header and body: clients by classes and their mean, or the mean of the clients' matrices.
    clients : list[tuple[str, list[list[str]]]]
        The matrix of each client with its name; empty where there are none or too many.
    """

    title: str
    definition: str
    lines: Lines
    clients: list[tuple[str, Lines]]


def class_tables(run: Run) -> list[ClassTable]:
    """Return the metrics of a run that are tables, each on personal and common test samples."""
    facts = [Facts(**about) for about in run.summary.get("metrics", ())]
    made = [
        _table(run, about, basis.narrow)
        for about in facts
        if about.axes
        for basis in (PERSONALISED, GLOBAL)
    ]
    return [table for table in made if table is not None]


def _table(run: Run, facts: Facts, samples: str) -> ClassTable | None:
    """Return a metric on some samples; None where no client has it."""
    by_client = run.tables(f"{samples.lower()}_{facts.name.replace('-', '_')}")
    known = {c: np.array(v, dtype=float) for c, v in enumerate(by_client) if v is not None}
    if not known:
        return None
    unit, mean = UNITS[facts.unit], _mean(list(known.values()))
    names = [str(name) for name in run.federation.get("classes") or range(len(mean))]
    title = f"{samples} {facts.title}" + f" ({unit.name})" * bool(unit.name)
    if len(facts.axes) == 1:
        rows = {**{str(c): values for c, values in known.items()}, "Mean": mean}
        return ClassTable(title, facts.definition, _lines("Client", names, rows, unit), [])
    corner = " \\ ".join(facts.axes)

    def matrix(values: Any) -> Lines:
        return _lines(corner, names, dict(zip(names, values, strict=True)), unit)

    each = known if len(known) * mean.size <= MOST_CELLS else {}
    clients = [(f"Client {c}", matrix(values)) for c, values in each.items()]
    below = f"{facts.definition} Mean over the clients, and each client."
    return ClassTable(title, below, matrix(mean), clients)


def _mean(tables: Sequence[Any]) -> Any:
    """Return the mean over the clients that have an entry; NaN where none has."""
    stacked = np.stack(tables)
    there = (~np.isnan(stacked)).sum(0)
    sums = np.nansum(stacked, 0)
    return np.where(there > 0, sums / np.maximum(there, 1), np.nan)


def _lines(corner: str, names: Sequence[str], rows: dict[str, Any], unit: Unit) -> Lines:
    body = [[name, *(_cell(value, unit) for value in values)] for name, values in rows.items()]
    return [[corner, *names], *body]


def _cell(value: float, unit: Unit) -> str:
    return ABSENT if np.isnan(value) else f"{unit.scale * value:.4g}"
