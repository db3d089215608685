"""Running an experiment: one strategy, one seed, one run directory."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedkt.clients.learners import devices
from fedkt.data.federation import Federation, FederationSpec, build_federation
from fedkt.data.identity import content_of
from fedkt.errors import ConfigError
from fedkt.recipe import Recipe
from fedkt.simulations.results.checkpoints import CHECKPOINTS, newest
from fedkt.simulations.runs.checkpoint import discard_after
from fedkt.simulations.experiment import config as config_
from fedkt.simulations.experiment.config import Experiment
from fedkt.simulations.runs.content import check_content, user_files
from fedkt.simulations.runs.costs import fusion_warning
from fedkt.simulations.engines.opening import opened
from fedkt.simulations.runs.executors import resolve, size_of
from fedkt.simulations.experiment.references import absolute
from fedkt.simulations.runs.fitting import adapts, check_fits, check_settings, recipe_of
from fedkt.machine import one_thread
from fedkt.simulations.engines.grid import SimulationGrid
from fedkt.simulations.attacks.liars import AttackedGrid, Liars, resolved_attack
from fedkt.clients.learners.making import torch_models
from fedkt.simulations.engines.population import Population, PopulationSpec
from fedkt.simulations.runs.progress import RunProgress, Silent
from fedkt.simulations.runs.recorder import Recorder, run_notes, summarise, write_json
from fedkt.simulations.results.rounds import SUMMARY, read_rounds
from fedkt.simulations.results.run_folder import CONFIG, FEDERATION, is_finished
from fedkt.simulations.runs.server_model import server_evaluation, server_model, server_network
from fedkt.strategies import KnowledgeStrategy, ServerOptions
from fedkt.strategies.construction import make_strategy, resolved_strategy
from fedkt.wire import codec_chain

logger = logging.getLogger("fedkt")


@dataclass(frozen=True)
class Plan:
    """An experiment made ready: everything that can be wrong has been checked.

    Parameters
    ----------
    experiment : Experiment
        Resolved (models and workers as they will be used).
    federation : Federation
        The data.
    population : PopulationSpec
        What the clients are.
    one_architecture : str, optional
        Set when a mixed federation was cut down to one model for this strategy.
    files : Mapping[str, str]
        The user's Python files that it runs, each with the digest of its content.
    """

    experiment: Experiment
    federation: Federation
    population: PopulationSpec
    one_architecture: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def content(self) -> dict[str, Any]:
        """What the run is made of, whatever it is called: digests of the data and the files."""
        return {"data": self.federation.fingerprint(), "files": dict(self.files)}

    @property
    def recipe(self) -> Recipe:
        """What the clients do."""
        strategy: KnowledgeStrategy = make_strategy(self.experiment.strategy)
        return strategy.recipe()

    @property
    def strategy(self) -> KnowledgeStrategy:
        """A new strategy object, with the run's options."""
        strategy: KnowledgeStrategy = make_strategy(self.experiment.strategy)
        run, public_y = self.experiment.run, self.federation.public_y
        strategy.options = ServerOptions(
            seed=self.experiment.seed,
            participation=run.participation,
            clients=self.federation.num_clients,
            codec=run.codec,
            quorum=run.quorum,
            public_labels=None if public_y is None else torch.tensor(public_y, dtype=torch.int64),
            server_model=server_model(strategy, self.experiment, self.federation, self.population),
            group_effect=run.group_effect,
            bounds=run.bounds,
            schedule_rounds=self.experiment.schedule_rounds,
        )
        return strategy

    @property
    def liars(self) -> Liars | None:
        """New malicious clients, if the experiment has an attack."""
        section = self.experiment.attack
        if section is None:
            return None
        return Liars(section, self.federation.num_classes, self.strategy)


def prepare(experiment: Experiment, reduce_to_one: bool = False) -> Plan:
    """Check an experiment and make it ready.

    Parameters
    ----------
    experiment : Experiment
        What to run.
    reduce_to_one : bool
        Whether a strategy that needs one architecture gets the first network of a
        mixed federation for all clients (and is marked), or is refused.

    Raises
    ------
    ConfigError
        For anything that cannot be run.
    """
    strategy = make_strategy(experiment.strategy)
    recipe = recipe_of(strategy)
    codec_chain(experiment.run.codec)
    check_settings(experiment)
    federation = federation_of(federation_spec(experiment))
    models, reduced = experiment.models, None
    if not models:
        raise ConfigError("models: name at least one model.")
    networks = torch_models(models, federation.input_shape, federation.num_classes)
    if recipe.needs_one_architecture and not networks:
        raise ConfigError(
            f"{strategy.title} exchanges weights and needs a network as model, e.g. cnn; "
            f"{', '.join(dict.fromkeys(models))} have none to exchange."
        )
    if recipe.needs_one_architecture and len(set(models)) > 1:
        if not reduce_to_one:
            kinds = ", ".join(dict.fromkeys(models))
            raise ConfigError(
                f"{strategy.title} exchanges weights and needs one architecture; the federation "
                f"has {kinds}. Choose one, e.g. --models {networks[0]}."
            )
        models, reduced = (networks[0],), networks[0]
    run = experiment.run
    check_fits(strategy, models, federation)
    server = server_network(strategy, experiment, networks, federation)
    device = devices.resolve(run.device)
    executors = resolve(run, models, federation, experiment.training, recipe, device)
    population = PopulationSpec(
        models=models,
        cohorts=tuple(size_of(executors[m]) for m in models),
        training=experiment.training,
        personalised=run.personalised,
        extensions=tuple(user_files(experiment.strategy["name"], *experiment.models).items()),
        device=device,
    )
    experiment = experiment.with_values(server_model=server)
    resolved = _resolved(experiment, models, executors, device)
    kind = experiment.attack.kind if experiment.attack else ""
    files = {**dict(population.extensions), **user_files(server, kind)}
    plan = Plan(resolved, federation, population, reduced, files)
    _ = plan.liars  # an attack that does not fit shows here
    return plan


def _resolved(
    experiment: Experiment, models: Sequence[str], executors: Mapping[str, str], device: str
) -> Experiment:
    """Return the experiment as it will run: defaults filled in, paths absolute."""
    section = resolved_strategy(experiment.strategy)
    data, folder = asdict(experiment.data), experiment.data.data_dir
    attack = resolved_attack(experiment.attack) if experiment.attack else None
    data["dataset"] = absolute(data["dataset"])
    data["domains"] = [absolute(domain) for domain in data["domains"]]
    data["target"] = data["target"] and absolute(data["target"])
    data["public_dataset"] = data["public_dataset"] and absolute(data["public_dataset"])
    return experiment.with_values(
        models=[absolute(m) for m in models],
        server_model=absolute(experiment.server_model),
        strategy={**section, "name": absolute(section["name"])},
        data={**data, "data_dir": folder and str(Path(folder).resolve())},
        run={
            **experiment.run.model_dump(),
            "workers": workers_of(experiment),
            "device": device,
            "plan": {absolute(model): entry for model, entry in executors.items()},
        },
        attack=attack and {**attack, "kind": absolute(attack["kind"])},
    )


def workers_of(experiment: Experiment) -> int:
    """Return the number of workers: as asked for, else one a CPU here; at most one a client."""
    return min(experiment.run.workers or os.cpu_count() or 1, experiment.data.clients)


def federation_spec(experiment: Experiment) -> FederationSpec:
    """Return the specification of an experiment's federation."""
    return FederationSpec(**vars(experiment.data), seed=experiment.seed)


def federation_of(spec: FederationSpec) -> Federation:
    """Build a federation, or return the one just built of the same data for another strategy."""
    return _federation(spec, content_of(spec))


@lru_cache(maxsize=4)
def _federation(spec: FederationSpec, content: str) -> Federation:
    """Return the federation of a specification whose names stood for ``content``."""
    return build_federation(spec)


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
        The run directory. A finished run is left; a begun one goes on from its checkpoint.
    label : str
        The run's name in tables and figures.
    baseline : Path, optional
        Run directory of the clients' training alone on as many private samples, for negative
        transfer.
    same_epochs : Path, optional
        That of their training alone for as many private epochs, where this is less.
    progress : RunProgress, optional
        Who is told.
    command : str, optional
        The command line, for the report.
    where : str
        The setting it belongs to, for the progress.

    Raises
    ------
    ConfigError
        If the rounds that the folder holds are damaged (:func:`read_rounds`), or were made with
        other data or other files of the user's (:func:`check_content`).
    RunFailedError
        If no client is left; what was done so far can be resumed.
    """
    experiment, progress = plan.experiment, progress or Silent()
    check_content(folder, plan.content, baseline)
    if len(read_rounds(folder)) >= experiment.rounds and is_finished(folder):
        return
    folder.mkdir(parents=True, exist_ok=True)
    config_.save(folder / CONFIG, experiment)
    write_json(folder / FEDERATION, _describe(plan))
    population, liars = Population(plan.population, plan.federation), plan.liars
    strategy, part = plan.strategy, experiment.run.participation
    if warning := fusion_warning(strategy, plan.population, plan.federation, part):
        logger.warning(warning)
    saved = _last_checkpoint(folder, experiment.run.checkpoint_every)
    began = saved[0] if saved else 0
    recorder = _recorder(experiment, folder, began, baseline, progress)
    clients, name = plan.federation.num_clients, f"{where}{label}"
    progress.run_started(name, experiment.rounds, clients, began + 1)
    with one_thread(), opened(plan.experiment.run, population, folder) as engine:
        if saved:
            strategy.load_state_dict(saved[1]["strategy"])
            engine.restore(saved[1]["clients"])
            if liars is not None:
                liars.load_state_dict(saved[1]["attack"])
        if isinstance(engine, SimulationGrid):
            engine.on_progress = progress.clients_done
        recorder.clients, recorder.liars = engine.snapshot, liars
        recorder.label_counts = plan.federation.label_counts().tolist()
        strategy.observers = [recorder]
        engine.run_server(server_app(strategy, plan, population, liars))
    beside = {"baseline": baseline, "same_epochs": same_epochs}
    known = {name: path and os.path.relpath(path, folder) for name, path in beside.items()}
    known |= {"label": label, "command": command}
    write_json(folder / SUMMARY, {**_summary(plan, folder), **known})
    progress.run_finished()


def _last_checkpoint(folder: Path, every: int) -> tuple[int, dict[str, Any]] | None:
    """Return the checkpoint that a run goes on from; what stands for later rounds is removed."""
    done = len(read_rounds(folder))
    saved = newest(folder / CHECKPOINTS, at_most=done)
    began = saved[0] if saved else 0
    if began < done - every:  # an interruption alone costs less
        logger.warning(
            f"{folder}: no checkpoint after round {began} can be read; "
            f"rounds {began + 1} to {done} are run again."
        )
    (folder / SUMMARY).unlink(missing_ok=True)
    discard_after(folder / CHECKPOINTS, began)
    return saved


def _recorder(
    experiment: Experiment, folder: Path, began: int, baseline: Path | None, progress: RunProgress
) -> Recorder:
    """Return what writes a run's rounds, and its checkpoints as often as is asked for."""
    alone = {row["round"]: row for row in read_rounds(baseline)} if baseline else {}
    every, last = experiment.run.checkpoint_every, experiment.rounds
    return Recorder(folder, began, alone, progress, lambda r: r % every == 0 or r == last)


def _summary(plan: Plan, folder: Path) -> dict[str, Any]:
    """Return what ``summary.json`` says of a finished run itself."""
    experiment, about = plan.experiment, plan.federation.describe()
    rows, target = read_rounds(folder), bool(about.get("target"))
    adapting = adapts(make_strategy(experiment.strategy))
    return {
        **summarise(rows, oracle=experiment.run.oracle, target=target),
        "strategy": experiment.strategy["name"],
        "seed": experiment.seed,
        "rounds": experiment.rounds,
        "one_architecture": plan.one_architecture,
        "adapts": bool(target) and adapting,
        "transductive": plan.federation.transductive and adapting,
        "notes": [*about["notes"], *run_notes(rows)],
    }


def server_app(
    strategy: KnowledgeStrategy, plan: Plan, population: Population, liars: Liars | None = None
) -> ServerApp:
    """Return the ServerApp that runs a strategy, among the plan's liars; the same on every grid."""
    app, liars = ServerApp(), liars or plan.liars
    recipe = strategy.recipe()
    needs_weights = recipe.needs_one_architecture
    has_model = needs_weights or strategy.needs_server_model

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        seed = plan.experiment.seed
        strategy.start(
            AttackedGrid(grid, liars) if liars else grid,
            population.initial_arrays(seed, recipe) if needs_weights else None,
            num_rounds=plan.experiment.rounds,
            timeout=plan.experiment.run.timeout,
            evaluate_fn=server_evaluation(plan.experiment, population) if has_model else None,
        )

    return app


def _describe(plan: Plan) -> dict[str, Any]:
    clients = range(plan.federation.num_clients)
    models = [plan.population.model_of(c) for c in clients]
    return {**plan.federation.describe(), "models": models, "content": plan.content}


__all__ = [
    "Plan",
    "execute",
    "federation_of",
    "federation_spec",
    "prepare",
    "server_app",
    "workers_of",
]
