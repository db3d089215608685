"""Results in Python, read from the folder of a run or of a comparison."""

from __future__ import annotations

from pathlib import Path

from fedkt.errors import ConfigError, unknown
from fedkt.evaluation.figures import PERSONALISED, TARGET, Figure, figures_at, table, target_first
from fedkt.simulations.api.frames import class_frame, frame_of
from fedkt.simulations.api.trained import TrainedClient, trained_client
from fedkt.simulations.report.charts import draw_accuracy, draw_by_round, drawable
from fedkt.simulations.report.drawing import WIDTH, Band, height_of, page
from fedkt.simulations.report.latex import latex
from fedkt.simulations.report.tables import markdown, over, shown, table_of
from fedkt.simulations.results.aggregates import aggregate
from fedkt.simulations.results.comparison_folder import (
    CELLS,
    TABLE,
    Comparison,
    load_cells,
    load_comparison,
)
from fedkt.simulations.results.intervals import t_interval
from fedkt.simulations.results.predictions import Predictions, read_predictions
from fedkt.simulations.results.run_folder import Run, is_run, load_run
from fedkt.simulations.runs.csv_tables import csv_text

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure as Page

TableFormat = Literal["markdown", "latex", "csv"]
ACCURACY = "accuracy"  # a picture of two panels, personalised and global
REPORT = "report.html"


def load(folder: str | Path) -> RunResult | ComparisonResult | CellsResult:
    """Return the results in a folder that ``fedkt simulate`` or ``fedkt compare`` wrote.

    Parameters
    ----------
    folder : str or Path
        Of a finished run, or of a comparison with at least one finished run.

    Raises
    ------
    ConfigError
        If it is neither, or one of its files is damaged.
    """
    path = Path(folder)
    if (path / CELLS).is_dir() or (path / TABLE).is_file():
        return load_compared(path)
    if is_run(path):
        return RunResult(load_run(path))
    raise ConfigError(f"{path} is neither a run nor a comparison.")


def load_compared(folder: Path) -> ComparisonResult | CellsResult:
    """Return the results of a comparison; see `load`."""
    if (folder / CELLS).is_dir():
        cells = load_cells(folder)[1]
        return CellsResult(folder, {name: ComparisonResult(cell) for name, cell in cells.items()})
    return ComparisonResult(load_comparison(folder))


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
        return _drawn({self.strategy: [self.record]}, metric, "clients")

    def table(self, format: TableFormat = "markdown") -> str:
        """Return the headline figures as a table of one line; see `ComparisonResult.table`."""
        if format == "csv":
            return csv_text([self.record])
        return _as(format, _lines(self.record))

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
        return _html(_lines(self.record), f"{self.strategy}, seed {self.seed}", [])


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
        figure = _figure_of(metric, self.record.runs)
        first, second = ({r.seed: r for r in self._group(s)} for s in (strategy, against))
        pairs = [(first[s], second[s]) for s in first if s in second]
        values = [(a.figure(figure, selection), b.figure(figure, selection)) for a, b in pairs]
        interval = t_interval(a - b for a, b in values if a is not None and b is not None)
        if interval is None:
            raise ConfigError(f"{metric}: no seed has it for both {strategy} and {against}.")
        low, high = None, None
        if interval.half_width is not None:
            low, high = interval.mean - interval.half_width, interval.mean + interval.half_width
        p = interval.p if interval.tested else None
        return PairedTest(strategy, against, figure, interval.mean, low, high, p, interval.n)

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
        return _drawn(self.record.groups, metric, "seeds")

    def table(self, format: TableFormat = "markdown") -> str:
        """Return the table of the last round: mean ± sample deviation over seeds.

        Parameters
        ----------
        format : {"markdown", "latex", "csv"}
            ``latex`` needs the package booktabs; ``csv`` has one line a run, unrounded.
        """
        if format == "csv":
            return csv_text(self.record.runs)
        return _as(format, table_of(aggregate(self.record)))

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
        return _html(table_of(rows), str(self.folder), [over(rows), *self.failures])

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


@dataclass(frozen=True)
class PairedTest:
    """The mean difference of two strategies, paired over seeds, and its two-sided t test.

    Parameters
    ----------
    strategy, against : str
        Their labels; the difference is the first minus the second.
    figure : Figure
        What is compared.
    mean : float
        Of the differences; of accuracies in [-1, 1].
    low, high : float, optional
        The 95 % t interval; None for one seed, and where all seeds give the same difference.
    p : float, optional
        None for fewer than three seeds and without an interval.
    n : int
        Seeds.
    """

    strategy: str
    against: str
    figure: Figure
    mean: float
    low: float | None
    high: float | None
    p: float | None
    n: int

    def __repr__(self) -> str:
        unit = self.figure.unit
        name = "points" if unit.name == "%" else unit.name
        text = f"{unit.scale * self.mean:+.2f}"
        if self.low is not None and self.high is not None:
            text += f" [{unit.scale * self.low:+.2f}, {unit.scale * self.high:+.2f}]"
        told = "no test below 3 seeds" if self.p is None else f"p = {self.p:.2g}"
        if self.p is None and self.n > 2:
            told = "no spread over seeds"
        what = f"{self.strategy} − {self.against}, {self.figure.title}"
        return f"{what}: {' '.join([text, name]).strip()} (95 % t interval, {told}, n = {self.n})"


def _lines(run: Run) -> list[list[str]]:
    """Return header and line of a run's headline figures."""
    values = [(f, run.figure(f)) for f in target_first(figures_at("csv"))]
    known = [(f, value) for f, value in values if f.always or value is not None]
    header = ["Strategy", "Seed", *(f.headed() for f, _ in known)]
    return [header, [run.label, str(run.seed), *(shown(f, value) for f, value in known)]]


def _said(figure: Figure, value: float) -> str:
    unit = figure.unit
    return f"{unit.scale * value:.1f} {unit.name}" if unit.name else shown(figure, value)


def _as(format: str, lines: Sequence[Sequence[str]]) -> str:
    formats = {"markdown": lambda table: markdown(table) + "\n", "latex": latex}
    if format not in formats:
        raise unknown("format of a table", format, (*formats, "csv"))
    return formats[format](lines)


def _figure_of(name: str, runs: Sequence[Run]) -> Figure:
    """Return a figure by its name; ConfigError if no run has measured it."""
    known = {f.name: f for f in table() if any(r.figure(f) is not None for r in runs)}
    if name not in known:
        raise unknown("metric", name, known)
    return known[name]


def _drawn(groups: Mapping[str, Sequence[Run]], metric: str, band: Band) -> Page:
    runs = [run for group in groups.values() for run in group]
    targets = any(run.federation.get("target") for run in runs)
    shown = [figure for figure in table() if figure is not TARGET or targets]
    known = {figure.name: figure for figure in shown if drawable(figure, runs)}
    if metric not in (ACCURACY, *known):
        raise unknown("metric to plot", metric, (ACCURACY, *known))
    with page(WIDTH, height_of(groups)) as figure:
        if metric == ACCURACY:
            draw_accuracy(figure, groups, band)
        else:
            draw_by_round(figure, known[metric], groups, band)
    return figure


def _html(lines: Sequence[Sequence[str]], caption: str, notes: Sequence[str]) -> str:
    """Return a table in HTML, for notebooks."""
    header, *body = [[html.escape(cell) for cell in line] for line in lines]
    rows = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in line)}</tr>" for line in body)
    head = "".join(f"<th>{cell}</th>" for cell in header)
    below = "".join(f"<p>{html.escape(note)}</p>" for note in notes)
    return (
        f"<table><caption>{html.escape(caption)}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{below}"
    )
