"""The paired test of two strategies over the seeds of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedkt.errors import ConfigError, unknown
from fedkt.evaluation.figure import Figure
from fedkt.evaluation.figures import table
from fedkt.simulations.results.intervals import t_interval
from fedkt.simulations.results.run_folder import Run


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


def paired_test(
    first: tuple[str, Sequence[Run]], second: tuple[str, Sequence[Run]], metric: str, selection: str
) -> PairedTest:
    """Return the test of one strategy against another.

    Parameters
    ----------
    first, second : tuple[str, Sequence[Run]]
        Label and runs of both; the difference is the first minus the second.
    metric, selection : str
        As of :meth:`ComparisonResult.test`.
    """
    (strategy, runs), (against, others) = first, second
    figure = _figure_of(metric, [*runs, *others])
    by_seed = {run.seed: run for run in others}
    pairs = [(run, by_seed[run.seed]) for run in runs if run.seed in by_seed]
    values = [(a.figure(figure, selection), b.figure(figure, selection)) for a, b in pairs]
    interval = t_interval(a - b for a, b in values if a is not None and b is not None)
    if interval is None:
        raise ConfigError(f"{metric}: no seed has it for both {strategy} and {against}.")
    low, high = None, None
    if interval.half_width is not None:
        low, high = interval.mean - interval.half_width, interval.mean + interval.half_width
    p = interval.p if interval.tested else None
    return PairedTest(strategy, against, figure, interval.mean, low, high, p, interval.n)


def _figure_of(name: str, runs: Sequence[Run]) -> Figure:
    """Return a figure by its name; ConfigError if no run has measured it."""
    known = {f.name: f for f in table() if any(r.figure(f) is not None for r in runs)}
    if name not in known:
        raise unknown("metric", name, known)
    return known[name]
