"""Running a plan: one strategy, one seed, one run directory."""

from __future__ import annotations

import logging
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedkt.evaluation.figures import add_metrics
from fedkt.machine import one_thread
from fedkt.metrics import metrics_of
from fedkt.simulations.attacks.liars import AttackedGrid, Liars
from fedkt.simulations.availability.absent import Availability, UnreliableGrid
from fedkt.simulations.engines.engine import opened
from fedkt.simulations.engines.population import Population
from fedkt.simulations.experiment import config as config_
from fedkt.simulations.results.rounds import SUMMARY, read_rounds
from fedkt.simulations.results.run_folder import CONFIG, FEDERATION, is_finished
from fedkt.simulations.runs.checkpoint import last_checkpoint
from fedkt.simulations.runs.content import check_content
from fedkt.simulations.runs.costs import fusion_warning
from fedkt.simulations.runs.fitting import adapts
from fedkt.simulations.runs.keeping import keep_predictions
from fedkt.simulations.runs.plan import Plan, availability_of, liars_of, strategy_of
from fedkt.simulations.runs.progress import RunProgress, Silent
from fedkt.simulations.runs.recorder import Recorder, run_notes, summarise, write_json
from fedkt.simulations.runs.server_model import server_evaluation
from fedkt.simulations.runs.session_objects import keep_objects
from fedkt.strategies import KnowledgeStrategy

logger = logging.getLogger("fedkt")


def execute(
    plan: Plan,
    folder: Path,
    *,
    label: str,
    baseline: Path | None = None,
    same_epochs: Path | None = None,
    progress: RunProgress | None = None,
    command: str | None = None,
    where: str = "",
) -> None:
    """Run a plan in a folder, or finish the run that was begun there.

    Parameters
    ----------
    plan : Plan
        What to run.
    folder : Path
        The run directory. A finished run stays as it is; a begun run resumes from its checkpoint.
    label : str
        The run's name in tables and figures.
    baseline, same_epochs : Path, optional
        Run directories of the clients' training alone: on as many private samples, for negative
        transfer, and for as many private epochs, where this is less.
    progress : RunProgress, optional
        The display of progress.
    command, where : str, optional
        The command line, for the report; the setting it belongs to, for the progress.

    Raises
    ------
    ConfigError
        If the rounds in the folder are damaged, or of other data or other files of the user's.
    RunFailedError
        If no client is left; the run can be resumed.
    """
    experiment, progress = plan.experiment, progress or Silent()
    check_content(folder, plan.content, baseline)
    if len(read_rounds(folder)) >= experiment.rounds and is_finished(folder):
        return
    folder.mkdir(parents=True, exist_ok=True)
    config_.save(folder / CONFIG, experiment)
    write_json(folder / FEDERATION, _describe(plan))
    keep_objects(folder, plan)
    _run(plan, folder, f"{where}{label}", baseline, progress)
    if experiment.run.keep_predictions:
        keep_predictions(plan, folder)
    beside = {"baseline": baseline, "same_epochs": same_epochs}
    facts = {name: path and os.path.relpath(path, folder) for name, path in beside.items()}
    facts |= {"label": label, "command": command}
    write_json(folder / SUMMARY, {**_summary(plan, folder), **facts})
    progress.run_finished()


def _run(plan: Plan, folder: Path, name: str, baseline: Path | None, progress: RunProgress) -> None:
    """Run a plan's strategy over its clients, from the newest checkpoint in the folder if any."""
    experiment, run = plan.experiment, plan.experiment.run
    population = Population(plan.population, plan.federation)
    add_metrics(metric.facts for metric in metrics_of(plan.strategy.options.metrics))
    strategy, liars = strategy_of(plan), liars_of(plan)
    if warning := fusion_warning(strategy, plan.population, plan.federation, run.participation):
        logger.warning(warning)
    began, saved = last_checkpoint(folder, run.checkpoint_every) or (0, None)
    recorder = _recorder(plan, folder, began, baseline, progress)
    progress.run_started(name, experiment.rounds, plan.federation.num_clients, began + 1)
    with one_thread(), opened(run, population, folder) as engine:
        if saved:
            strategy.load_state_dict(saved["strategy"])
            engine.restore(saved["clients"])
            if liars is not None:
                liars.load_state_dict(saved["attack"])
        engine.on_progress = progress.clients_done
        recorder.clients, recorder.liars = engine.snapshot, liars
        recorder.availability = availability = availability_of(plan)
        strategy.observers = [recorder]
        engine.run_server(server_app(strategy, plan, population, liars, availability))


def _recorder(
    plan: Plan, folder: Path, began: int, baseline: Path | None, progress: RunProgress
) -> Recorder:
    """Return the writer of a run's rounds, and of its checkpoints as often as configured."""
    alone = {row["round"]: row for row in read_rounds(baseline)} if baseline else {}
    every, last = plan.experiment.run.checkpoint_every, plan.experiment.rounds
    recorder = Recorder(folder, began, alone, progress, lambda r: r % every == 0 or r == last)
    recorder.label_counts = plan.federation.label_counts().tolist()
    recorder.everyone = range(plan.federation.num_clients)
    return recorder


def _summary(plan: Plan, folder: Path) -> dict[str, Any]:
    """Return the facts of a finished run for ``summary.json``."""
    experiment, about = plan.experiment, plan.federation.describe()
    run = experiment.run
    rows, target = read_rounds(folder), bool(about.get("target"))
    adapting = adapts(plan.strategy)
    metrics = [asdict(metric.facts) for metric in metrics_of(plan.strategy.options.metrics)]
    return {
        **summarise(rows, run.oracle, target, run.accuracy_goal, run.select_by),
        "strategy": experiment.strategy["name"],
        "seed": experiment.seed,
        "rounds": experiment.rounds,
        "one_architecture": plan.one_architecture,
        **({"yardstick": yard} if (yard := _yardstick(plan.strategy)) else {}),
        "adapts": bool(target) and adapting,
        "transductive": plan.federation.transductive and adapting,
        "notes": [*plan.notes, *run_notes(rows, plan.notes, plan.federation.num_classes)],
        **({"metrics": metrics} if metrics else {}),
    }


def _yardstick(strategy: KnowledgeStrategy) -> str:
    """Return which end of the gap a strategy is that others close; empty if none."""
    return "alone" if strategy.alone else "pooled" if strategy.pools else ""


def server_app(
    strategy: KnowledgeStrategy,
    plan: Plan,
    population: Population,
    liars: Liars | None = None,
    availability: Availability | None = None,
) -> ServerApp:
    """Return the ServerApp that runs a strategy on any grid, among liars and absent clients."""
    app, recipe = ServerApp(), plan.recipe

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        seed = plan.experiment.seed
        if availability is not None:
            grid = UnreliableGrid(grid, availability)
        strategy.start(
            AttackedGrid(grid, liars) if liars else grid,
            population.initial_arrays(seed, recipe) if recipe.begins_with_weights else None,
            num_rounds=plan.experiment.rounds,
            timeout=plan.experiment.run.timeout,
            evaluate_fn=server_evaluation(strategy, population),
        )

    return app


def _describe(plan: Plan) -> dict[str, Any]:
    clients = range(plan.federation.num_clients)
    models = [plan.population.model_of(c) for c in clients]
    return {**plan.federation.describe(), "models": models, "content": plan.content}
