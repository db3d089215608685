"""The verdict on one strategy over the cells of a comparison: where it wins, and where not."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from fedkt.errors import unknown
from fedkt.evaluation.figures import figures_at
from fedkt.simulations.experiment.cells import Cell
from fedkt.simulations.experiment.config import VerdictSection
from fedkt.simulations.results.comparison_folder import Comparison
from fedkt.simulations.results.intervals import Interval, clear, t_interval

Colour = Literal["green", "grey", "red"]


@dataclass(frozen=True)
class Margin:
    """The subject against the best rival in one cell, by one accuracy.

    Parameters
    ----------
    subject, best : float
        Mean accuracies over the seeds that both have, in [0, 1].
    rival : str
        The rival with the highest mean.
    difference : Interval
        Subject minus rival, paired over seeds.
    p : float
        Of the difference. A negative one is multiplied by the number of rivals, at most 1:
        the best of several equals is above the subject by chance.
    colour : {"green", "grey", "red"}
        Green or red for a margin that is clear among those of all cells, else grey.
    """

    subject: float
    best: float
    rival: str
    difference: Interval
    p: float
    colour: Colour = "grey"

    @property
    def seeds(self) -> int:
        """The number of seeds."""
        return self.difference.n


@dataclass(frozen=True)
class CellVerdict:
    """One cell: the margins, and how far the subject stands above the bar.

    Parameters
    ----------
    cell : str
        Its name.
    margins : Mapping[str, Margin]
        By judged figure; without those that were not measured.
    above_bar : Mapping[str, float]
        By accuracy: the subject's mean minus the best mean of the strategies that make
        up the bar.
    tolerance : float
        How far below the bar still counts as at the bar.
    """

    cell: str
    margins: Mapping[str, Margin]
    above_bar: Mapping[str, float]
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether the subject reaches the bar by every accuracy."""
        return all(value >= -self.tolerance for value in self.above_bar.values())


@dataclass(frozen=True)
class Verdict:
    """One strategy over all finished cells of a comparison.

    Parameters
    ----------
    subject : str
        The strategy's label.
    section : VerdictSection
        What it is judged against.
    cells : Sequence[CellVerdict]
        In the order of the comparison.
    unfinished : Sequence[str]
        Cells without a finished run of the subject, or of any rival.
    """

    subject: str
    section: VerdictSection
    cells: Sequence[CellVerdict]
    unfinished: Sequence[str]

    @property
    def holding(self) -> int:
        """The number of cells in which the subject reaches the bar."""
        return sum(cell.holds for cell in self.cells)


def judge(
    section: VerdictSection, cells: Sequence[Cell], results: Mapping[str, Comparison]
) -> Verdict:
    """Judge one strategy over the cells.

    A strategy that ran on another model than the rest (it needs one architecture) is no
    rival there. Accuracies are those of the last round. Margins get their colours from t tests
    over seeds at 5 %, with Holm's correction over the cells of each accuracy.

    Raises
    ------
    ConfigError
        If a label that the section names is not compared in any cell.
    """
    labels = list(dict.fromkeys(label for c in results.values() for label in c.groups))
    for name in (
        section.subject,
        *section.rivals,
        *section.personalised_bar,
        *section.global_bar,
    ):
        if labels and name not in labels:
            raise unknown("strategy in compare.verdict", name, labels)
    rivals = section.rivals or tuple(label for label in labels if label != section.subject)
    # The bar of a figure stands under its short name: personalised_bar, global_bar.
    bars = {
        f.name: getattr(section, f"{f.narrow.lower()}_bar", ()) or rivals
        for f in figures_at("judged")
    }
    judged, unfinished = [], []
    for cell in cells:
        accuracies = _by_seed(results[cell.name]) if cell.name in results else {}
        margins = {m: margin for m in bars if (margin := _margin(accuracies, section, rivals, m))}
        if not margins:
            unfinished.append(cell.name)
            continue
        above = {
            metric: margin.difference.mean
            for metric, bar in bars.items()
            if (margin := _margin(accuracies, section, bar, metric))
        }
        judged.append(CellVerdict(cell.name, margins, above, section.tolerance))
    return Verdict(section.subject, section, _coloured(judged), unfinished)


_Accuracies = dict[str, dict[str, dict[int, float]]]  # metric -> label -> seed -> accuracy


def _by_seed(comparison: Comparison) -> _Accuracies:
    judged = figures_at("judged")
    accuracies: _Accuracies = {figure.name: {} for figure in judged}
    for label, runs in comparison.groups.items():
        for run in runs:
            if run.summary.get("one_architecture"):
                continue
            for figure in judged:
                value = run.figure(figure)
                if value is not None:
                    accuracies[figure.name].setdefault(label, {})[run.seed] = float(value)
    return accuracies


def _margin(
    accuracies: _Accuracies, section: VerdictSection, rivals: Sequence[str], metric: str
) -> Margin | None:
    """Return the subject's margin over the best of some rivals, paired over common seeds."""
    by_label: dict[str, Any] = accuracies.get(metric, {})
    subject = by_label.get(section.subject)
    opponents = {r: by_label[r] for r in rivals if r in by_label and r != section.subject}
    if not subject or not opponents:
        return None
    seeds = sorted(set(subject).intersection(*opponents.values()))
    if not seeds:
        return None
    means = {rival: statistics.fmean(by[s] for s in seeds) for rival, by in opponents.items()}
    best = max(means, key=lambda rival: means[rival])
    difference = t_interval(subject[s] - opponents[best][s] for s in seeds)
    assert difference is not None
    return Margin(
        subject=statistics.fmean(subject[s] for s in seeds),
        best=means[best],
        rival=best,
        difference=difference,
        p=difference.p if difference.mean > 0 else min(1.0, len(opponents) * difference.p),
    )


def _coloured(cells: Sequence[CellVerdict]) -> list[CellVerdict]:
    """Return cells with coloured margins; tests are corrected over all cells by accuracy."""
    coloured: list[dict[str, Margin]] = [dict(cell.margins) for cell in cells]
    for metric in dict.fromkeys(name for row in coloured for name in row):
        rows = [row for row in coloured if metric in row]
        for row, is_clear in zip(rows, clear([row[metric].p for row in rows]), strict=True):
            if is_clear:
                colour: Colour = "green" if row[metric].difference.mean > 0 else "red"
                row[metric] = replace(row[metric], colour=colour)
    return [replace(cell, margins=row) for cell, row in zip(cells, coloured, strict=True)]
