"""The results of one run in Python."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedkt.evaluation.figure import Figure
from fedkt.evaluation.figures import figures_at, target_first
from fedkt.simulations.api.frames import class_frame, frame_of
from fedkt.simulations.api.showing import (
    ACCURACY,
    REPORT,
    TableFormat,
    as_html,
    drawn,
    in_format,
)
from fedkt.simulations.api.trained import TrainedClient, trained_client
from fedkt.simulations.report.tables import shown
from fedkt.simulations.results.predictions import Predictions, read_predictions
from fedkt.simulations.results.run_folder import Run
from fedkt.simulations.runs.csv_tables import csv_text

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure as Page


@dataclass(frozen=True, repr=False, eq=False)
class RunResult:
    """The results of one strategy with one seed.

    Parameters
    ----------
    record : Run
        What the run's folder holds: ``record.rounds``, ``record.summary``, ``record.config``.
    """

    record: Run

    @property
    def folder(self) -> Path:
        """The run directory."""
        return self.record.path

    @property
    def strategy(self) -> str:
        """The label of the run in tables."""
        return self.record.label

    @property
    def seed(self) -> int:
        """The seed."""
        return self.record.seed

    @property
    def report(self) -> Path:
        """The page with the figures of the run."""
        return self.folder / REPORT

    def figures(self, selection: str = "last") -> dict[str, float]:
        """Return the headline figures by name, accuracies in [0, 1].

        Parameters
        ----------
        selection : {"last", "validation_selected", "oracle"}
            The round that they are of.
        """
        values = {f.name: self.record.figure(f, selection) for f in figures_at("summary")}
        return {name: value for name, value in values.items() if value is not None}

    def frame(self) -> pd.DataFrame:
        """Return every figure of every round as a tidy frame; see `ComparisonResult.frame`."""
        return frame_of([self.record])

    def per_class(self, metric: str, on: str = "personalised") -> pd.DataFrame:
        """Return a metric that is a table over the classes, of the last round, as a tidy frame.

        Parameters
        ----------
        metric : str
            Its name, such as ``confusion-matrix``; the run has measured it (``run.metrics``).
        on : {"personalised", "global"}
            The samples: each client's own, or the common test set.

        Returns
        -------
        pandas.DataFrame
            Columns ``client``, the axes of the metric (``class``, or ``label`` and ``prediction``,
            by their names) and ``value``. Entries that are not defined have no line.

        Raises
        ------
        ConfigError
            If the run has no such table.
        """
        return class_frame(self.record, metric, on)

    def plot(self, metric: str = ACCURACY) -> Page:
        """Return a figure drawn against the round; bands are over clients."""
        return drawn({self.strategy: [self.record]}, metric, "clients")

    def table(self, format: TableFormat = "markdown") -> str:
        """Return the headline figures as a table of one line; see `ComparisonResult.table`."""
        if format == "csv":
            return csv_text([self.record])
        return in_format(format, _lines(self.record))

    def client(self, number: int) -> TrainedClient:
        """Return a client as the run left it.

        Raises
        ------
        ConfigError
            If there is no such client, or no checkpoint to take its model from.
        """
        return trained_client(self.record, number)

    def predictions(self) -> dict[int, dict[str, Predictions]]:
        """Return the answers that were kept at the end of the run (``run.keep_predictions``).

        See :func:`fedkt.simulations.results.predictions.read_predictions`.
        """
        return read_predictions(self.folder)

    def __repr__(self) -> str:
        values = [(f, self.record.figure(f)) for f in target_first(figures_at("summary"))]
        clauses = [f"{f.clause} {_said(f, v)}" for f, v in values if f.clause and v is not None]
        rounds = self.record.selected().get("round")
        name = f"{self.strategy}, seed {self.seed}, round {rounds}"
        return f"<fedkt run {name}: {', '.join(clauses)}; {self.folder}>"

    def _repr_html_(self) -> str:
        return as_html(_lines(self.record), f"{self.strategy}, seed {self.seed}", [])


def _lines(run: Run) -> list[list[str]]:
    """Return header and line of a run's headline figures."""
    values = [(f, run.figure(f)) for f in target_first(figures_at("csv"))]
    known = [(f, value) for f, value in values if f.always or value is not None]
    header = ["Strategy", "Seed", *(f.headed() for f, _ in known)]
    return [header, [run.label, str(run.seed), *(shown(f, value) for f, value in known)]]


def _said(figure: Figure, value: float) -> str:
    unit = figure.unit
    return f"{unit.scale * value:.1f} {unit.name}" if unit.name else shown(figure, value)
