"""The results of a comparison in Python, and of one in several settings."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fedkt.errors import ConfigError, unknown
from fedkt.evaluation.figures import PERSONALISED, figures_at
from fedkt.simulations.api.frames import frame_of
from fedkt.simulations.api.paired_test import PairedTest, paired_test
from fedkt.simulations.api.run_result import RunResult
from fedkt.simulations.api.showing import (
    ACCURACY,
    REPORT,
    TableFormat,
    as_html,
    drawn,
    in_format,
)
from fedkt.simulations.report.tables import over, table_of
from fedkt.simulations.results.aggregates import aggregate
from fedkt.simulations.results.comparison_folder import Comparison
from fedkt.simulations.results.run_folder import Run
from fedkt.simulations.runs.csv_tables import csv_text

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure as Page


@dataclass(frozen=True, repr=False, eq=False)
class ComparisonResult:
    """The results of several strategies over several seeds.

    Parameters
    ----------
    record : Comparison
        What the comparison's folder holds: ``record.groups``, ``record.config``.
    failures : tuple[str, ...]
        Runs that did not finish, with the reason.
    """

    record: Comparison
    failures: tuple[str, ...] = field(default=())

    @property
    def folder(self) -> Path:
        """The comparison directory."""
        return self.record.path

    @property
    def strategies(self) -> list[str]:
        """The labels, in the order of the comparison."""
        return list(self.record.groups)

    @property
    def seeds(self) -> list[int]:
        """The seeds that at least one strategy has finished, ascending."""
        return sorted({run.seed for run in self.record.runs})

    @property
    def report(self) -> Path:
        """The page with tables and figures."""
        return self.folder / REPORT

    def run(self, strategy: str, seed: int | None = None) -> RunResult:
        """Return one run.

        Parameters
        ----------
        strategy : str
            Its label.
        seed : int, optional
            By default the first seed.

        Raises
        ------
        ConfigError
            If there is no such run.
        """
        runs = {run.seed: run for run in self._group(strategy)}
        chosen = next(iter(runs)) if seed is None else seed
        if chosen not in runs:
            have = ", ".join(map(str, runs))
            raise ConfigError(f"seed {seed}: the finished runs of {strategy} have seeds {have}.")
        return RunResult(runs[chosen])

    def frame(self) -> pd.DataFrame:
        """Return every figure of every round as a tidy frame.

        Returns
        -------
        pandas.DataFrame
            Columns ``strategy``, ``seed``, ``round``, ``client`` (missing for a figure of the
            whole run), ``metric`` and ``value``; accuracies in [0, 1].
        """
        return frame_of(self.record.runs)

    def test(
        self,
        strategy: str,
        against: str,
        metric: str = PERSONALISED.name,
        selection: str = "last",
    ) -> PairedTest:
        """Return the paired t test of one strategy against another over the seeds of both.

        Parameters
        ----------
        strategy, against : str
            Labels.
        metric : str
            The name of a figure of ``comparison.csv``.
        selection : {"last", "validation_selected", "oracle"}
            The round that the figure is of.

        Raises
        ------
        ConfigError
            If a label or the metric is unknown, or no seed has both.
        """
        pair = (strategy, self._group(strategy)), (against, self._group(against))
        return paired_test(*pair, metric, selection)

    def plot(self, metric: str = ACCURACY) -> Page:
        """Return a figure drawn against the round; bands are over seeds.

        Parameters
        ----------
        metric : str
            ``accuracy`` (personalised and global side by side), or the name of a figure.

        Returns
        -------
        matplotlib.figure.Figure
            To show, or to save: ``.savefig("accuracy.pdf")``.

        Raises
        ------
        ConfigError
            If no run has measured it.
        """
        return drawn(self.record.groups, metric, "seeds")

    def table(self, format: TableFormat = "markdown") -> str:
        """Return the table of the last round: mean ± sample deviation over seeds.

        Parameters
        ----------
        format : {"markdown", "latex", "csv"}
            ``latex`` needs the package booktabs; ``csv`` has one line a run, unrounded.
        """
        if format == "csv":
            return csv_text(self.record.runs)
        return in_format(format, table_of(aggregate(self.record)))

    def __repr__(self) -> str:
        runs = self.record.runs
        best = {
            name: max(names, key=names.__getitem__)
            for name, names in self._means().items()
            if names
        }
        leads = [f"best {name.replace('_', ' ')}: {label}" for name, label in best.items()]
        what = f"{len(self.strategies)} strategies, {len(self.seeds)} seeds, {len(runs)} runs"
        return f"<fedkt comparison of {'; '.join([what, *leads])}; {self.folder}>"

    def _repr_html_(self) -> str:
        rows = aggregate(self.record)
        return as_html(table_of(rows), str(self.folder), [over(rows), *self.failures])

    def _means(self) -> dict[str, dict[str, float]]:
        """Return the mean of each judged figure by name and label."""
        rows = aggregate(self.record)
        return {
            figure.name: {r["strategy"]: r[figure.name]["mean"] for r in rows if r[figure.name]}
            for figure in figures_at("judged")
        }

    def _group(self, strategy: str) -> Sequence[Run]:
        if strategy not in self.record.groups:
            raise unknown("strategy", strategy, self.record.groups)
        return self.record.groups[strategy]


@dataclass(frozen=True, repr=False, eq=False)
class CellsResult:
    """The results of a comparison in several settings.

    Parameters
    ----------
    folder : Path
        Of the comparison.
    cells : Mapping[str, ComparisonResult]
        The results of each setting that has begun, by name.
    """

    folder: Path
    cells: Mapping[str, ComparisonResult]

    def __getitem__(self, cell: str) -> ComparisonResult:
        if cell not in self.cells:
            raise unknown("cell", cell, self.cells)
        return self.cells[cell]

    def frame(self) -> pd.DataFrame:
        """Return every figure of every round as a tidy frame, ``cell`` in front."""
        import pandas as pd

        frames = {name: result.frame() for name, result in self.cells.items()}
        stacked = pd.concat(frames, names=["cell", None]).reset_index(level="cell")
        return stacked.reset_index(drop=True)

    def __repr__(self) -> str:
        return f"<fedkt comparison of {len(self.cells)} cells: {', '.join(self.cells)}>"

    def _repr_html_(self) -> str:
        return "".join(
            f"<h4>{html.escape(name)}</h4>{result._repr_html_()}"
            for name, result in self.cells.items()
        )
