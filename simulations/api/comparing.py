"""Several strategies over several seeds: from an experiment to a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedkt.disk import only_user
from fedkt.simulations.api.comparison_result import CellsResult, ComparisonResult
from fedkt.simulations.api.folders import fresh_folder
from fedkt.simulations.api.objects import strategy_references
from fedkt.simulations.api.results import load_compared
from fedkt.simulations.api.resuming import check_same
from fedkt.simulations.api.simulating import display_of, say
from fedkt.simulations.experiment.cells import settled
from fedkt.simulations.experiment.config import Experiment
from fedkt.simulations.report.cells_report import write_cells_report
from fedkt.simulations.report.pages import write_comparison_report
from fedkt.simulations.results.comparison_folder import COMPARISON
from fedkt.simulations.runs import comparison
from fedkt.simulations.runs.comparison import Part, plan_parts
from fedkt.simulations.runs.progress import RunProgress


@dataclass(frozen=True)
class Comparing:
    """A checked comparison with its folder, ready to run.

    Parameters
    ----------
    experiment : Experiment
        With ``compare`` filled in.
    folder : Path
        The comparison's folder, which may hold a part of it.
    parts : Sequence[Part]
        Its runs.
    """

    experiment: Experiment
    folder: Path
    parts: Sequence[Part]

    @property
    def rounds(self) -> int:
        """The rounds of all its runs."""
        return sum(job.experiment.rounds for part in self.parts for job in part.jobs)

    @property
    def notes(self) -> Mapping[str, list[str]]:
        """The notes on the data, each with the names of its cells."""
        notes: dict[str, list[str]] = {}
        for part in self.parts:
            for note in part.notes:
                notes.setdefault(note, []).append(part.cell.name)
        return notes


def compare(
    study: Experiment,
    strategies: Any = None,
    seeds: int | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    progress: RunProgress | bool | None = None,
) -> ComparisonResult | CellsResult:
    """Run several strategies with several seeds, and write a table and a report.

    Parameters
    ----------
    study : Experiment
        The experiment.
    strategies : sequence or mapping, optional
        The strategies, as of :func:`simulate`, or by the labels that tables show; text may have a
        label as well, ``"hot = knfu(temperature=9)"``. By default the experiment's.
    seeds : int, optional
        How many seeds, from the experiment's on; by default the experiment's.
    out : str or Path, optional
        The comparison's folder, which must not exist yet; by default a new one below ``runs/``.
    resume : bool
        Whether to go on with what ``out`` holds.
    progress : bool or RunProgress, optional
        Whether to show progress, or what shows it.

    Returns
    -------
    ComparisonResult or CellsResult
        The results, as :func:`fedkt.load` reads them from the folder; of several cells
        (``compare.cells``), by their names.

    Raises
    ------
    ConfigError
        For anything that cannot be run, in one line.
    RunFailedError
        If runs have failed; the others are complete.
    """
    section = study.compare.model_dump()
    if strategies is not None:
        section["strategies"] = strategy_references(strategies)
    if seeds is not None:
        section["seeds"] = seeds
    folder = None if out is None else Path(out)
    begun = begin_comparison(study.with_values(compare=section), folder, resume)
    say(begun.notes)
    display = display_of(progress, begun.rounds)
    try:
        carry_out_comparison(begun, display)
    finally:
        display.close()
    if begun.experiment.compare.cells:
        write_cells_report(begun.folder)
    else:
        write_comparison_report(begun.folder)
    return load_compared(begun.folder)


def begin_comparison(experiment: Experiment, out: Path | None, resume: bool) -> Comparing:
    """Return the comparison of an experiment, checked; nothing is written.

    Raises
    ------
    ConfigError
        If it cannot be run, or the folder holds another one.
    """
    experiment = settled(experiment)  # reports must not need the data sets
    folder = fresh_folder(out, "compare", resume, COMPARISON)
    if resume:
        check_same(folder / COMPARISON, experiment)
    return Comparing(experiment, folder, plan_parts(experiment))


def carry_out_comparison(
    begun: Comparing, progress: RunProgress, command: str | None = None
) -> None:
    """Run a comparison, or finish it."""
    with only_user(begun.folder):
        comparison.compare(begun.experiment, begun.parts, begun.folder, progress, command)
