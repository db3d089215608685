"""One strategy and its local baseline: from an experiment to a folder."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from fedkt.disk import only_user
from fedkt.simulations.api.folders import fresh_folder
from fedkt.simulations.api.objects import strategy_reference
from fedkt.simulations.api.resuming import check_same
from fedkt.simulations.api.run_result import RunResult
from fedkt.simulations.experiment import config as config_
from fedkt.simulations.experiment.cells import slug
from fedkt.simulations.experiment.config import Experiment
from fedkt.simulations.experiment.labels import titles
from fedkt.simulations.experiment.references import read_strategy
from fedkt.simulations.report.pages import write_run_report
from fedkt.simulations.results.run_folder import CONFIG, is_run, load_run
from fedkt.simulations.runs.content import check_content
from fedkt.simulations.runs.local_baseline import local_twin, private_training, rehearses
from fedkt.simulations.runs.plan import Plan, engine_session, prepare
from fedkt.simulations.runs.progress import RunProgress, Silent, progress_for
from fedkt.simulations.runs.run import execute

logger = logging.getLogger("fedkt")


@dataclass(frozen=True)
class Simulation:
    """A checked simulation with its folder, ready to run.

    Parameters
    ----------
    plan : Plan
        The strategy's run.
    folder : Path
        Its run directory, which may hold a part of it.
    label : str
        The strategy's name in tables and figures.
    """

    plan: Plan
    folder: Path
    label: str

    @property
    def beside(self) -> dict[str, Path]:
        """The folders of the runs of local training."""
        if self.plan.experiment.strategy["name"] == "local":
            return {}
        names = ("baseline", "same_epochs") if rehearses(self.plan) else ("baseline",)
        return {name: self.folder / name for name in names}

    @property
    def rounds(self) -> int:
        """The rounds of all its runs."""
        return self.plan.experiment.rounds * (1 + len(self.beside))


def simulate(
    study: Experiment,
    strategy: Any = None,
    out: str | Path | None = None,
    resume: bool = False,
    progress: RunProgress | bool | None = None,
) -> RunResult:
    """Run one strategy, after the local training that it is compared with, and write a report.

    Parameters
    ----------
    study : Experiment
        The experiment.
    strategy : str, class or object, optional
        A name with options, ``"knfu(beta=2)"``, or a :class:`KnowledgeStrategy`; by default the
        experiment's.
    out : str or Path, optional
        The folder of the run, which must not exist yet; by default a new one below ``runs/``.
    resume : bool
        Whether to go on with what ``out`` holds.
    progress : bool or RunProgress, optional
        Whether to show progress, or what shows it.

    Returns
    -------
    RunResult
        The results, as :func:`fedkt.load` reads them from the folder.

    Raises
    ------
    ConfigError
        For anything that cannot be run, in one line.
    RunFailedError
        If no client is left; what is finished stays in the folder.
    """
    if strategy is not None:
        study = study.with_values(strategy=read_strategy(strategy_reference(strategy)))
    begun = begin(study, None if out is None else Path(out), resume)
    say(begun.plan.notes)
    display = display_of(progress, begun.rounds)
    try:
        carry_out(begun, display)
    finally:
        display.close()
    write_run_report(begun.folder)
    return RunResult(load_run(begun.folder))


def begin(experiment: Experiment, out: Path | None, resume: bool) -> Simulation:
    """Return the simulation of an experiment, checked; nothing is written.

    Raises
    ------
    ConfigError
        If it cannot be run, or the folder holds another one.
    """
    plan = prepare(experiment)
    name = str(experiment.strategy["name"])
    label = titles([name])[name]
    folder = fresh_folder(out, slug(label), resume, CONFIG)
    if resume:
        check_same(folder / CONFIG, plan.experiment)
        check_content(folder, plan.content)
    return Simulation(plan, folder, label)


def carry_out(begun: Simulation, progress: RunProgress, command: str | None = None) -> None:
    """Run a simulation, or finish it: the local training first."""
    plan, folder, beside = begun.plan, begun.folder, begun.beside
    with only_user(folder), engine_session(plan.experiment):
        # Before the baseline, so that a run stopped early can only go on as what it is.
        if not is_run(folder):
            config_.save(folder / CONFIG, plan.experiment)
        for name, path in beside.items():
            _train_alone(plan, path, name == "baseline", progress)
        execute(
            plan,
            folder,
            label=begun.label,
            baseline=beside.get("baseline"),
            same_epochs=beside.get("same_epochs"),
            progress=progress,
            command=command,
        )


def say(notes: Iterable[str]) -> None:
    """Log the notes on a run's data."""
    for note in notes:
        logger.warning(f"Note: {note}.")


def display_of(progress: RunProgress | bool | None, rounds: int) -> RunProgress:
    """Return the display of progress over so many rounds."""
    if progress is None or progress is False:
        return Silent()
    return progress_for(Console(), rounds) if progress is True else progress


def _train_alone(plan: Plan, folder: Path, rehearsal: bool, progress: RunProgress) -> None:
    training = f" ({private_training(plan, rehearsal)})" if rehearses(plan) else ""
    twin = prepare(local_twin(plan, rehearsal))
    execute(twin, folder, label=f"local{training}", progress=progress)
