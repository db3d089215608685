"""From an experiment to a plan: checked, with its data, clients and strategy, ready to run."""

from __future__ import annotations

import copy
import json
import os
import statistics
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch

from fedkt import registry
from fedkt.by_value import carried, contents
from fedkt.clients import LearnerModels
from fedkt.clients.learners import devices
from fedkt.data.federation import Federation, FederationSpec, build_federation
from fedkt.data.gathered import ready_federation
from fedkt.data.identity import content_of
from fedkt.data.partition import follows_data
from fedkt.errors import ConfigError
from fedkt.recipe import Recipe
from fedkt.simulations.attacks.liars import Liars, resolved_attack
from fedkt.simulations.availability.absent import Availability
from fedkt.simulations.engines.engine import kind_of
from fedkt.simulations.engines.population import PopulationSpec
from fedkt.simulations.experiment.config import Experiment
from fedkt.simulations.experiment.references import absolute, absolute_data, absolute_target
from fedkt.simulations.runs.content import parts_of, references_in, user_files, without_data
from fedkt.simulations.runs.costs import flops_by_client
from fedkt.simulations.runs.executors import resolve, size_of
from fedkt.simulations.runs.fitting import (
    check_metrics,
    check_recipe,
    check_select_by,
    check_settings,
    check_training,
    codec_notes,
    fitting_models,
    model_notes,
    with_public,
)
from fedkt.strategies import KnowledgeStrategy, ServerOptions
from fedkt.strategies.construction import make_strategy, resolved_strategy
from fedkt.text import raised

RUN = "simulation"  # its engine's store of states is of one run alone


@dataclass(frozen=True)
class Plan:
    """A checked experiment with its data, clients and strategy, ready to run.

    Parameters
    ----------
    experiment : Experiment
        Resolved (models and workers as they will be used).
    federation : Federation
        The data.
    population : PopulationSpec
        The clients' models and options.
    strategy : KnowledgeStrategy
        The strategy with the run's options. Runs use copies of it: :func:`strategy_of`.
    one_architecture : str, optional
        Set when a mixed federation was cut down to one model for this strategy.
    files : Mapping[str, str]
        The user's Python files that it runs, each with the digest of its content.
    objects : Mapping[str, str]
        The parts of this Python session that it uses, likewise.
    notes : tuple[str, ...]
        What a reader of the figures has to know about data, options and models, a line each.
    """

    experiment: Experiment
    federation: Federation
    population: PopulationSpec
    strategy: KnowledgeStrategy
    one_architecture: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    objects: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @cached_property
    def content(self) -> dict[str, Any]:
        """The content of the run: digests of the data, the files and the objects."""
        objects = {"objects": dict(self.objects)} if self.objects else {}
        return {"data": self.federation.fingerprint(), "files": dict(self.files), **objects}

    @property
    def recipe(self) -> Recipe:
        """The clients' recipe."""
        return self.strategy.settled_recipe


def strategy_of(plan: Plan) -> KnowledgeStrategy:
    """Return the strategy of one run of a plan, with the run's options and what is at the server.

    It is a copy, so that no run sees the state of an earlier one.

    Raises
    ------
    ConfigError
        If what its ``__init__`` keeps cannot be copied.
    """
    try:
        shared = (plan.recipe, plan.strategy.options)  # they never change
        strategy = copy.deepcopy(plan.strategy, {id(value): value for value in shared})
    except Exception as error:  # of a user's class
        reason = f"what its __init__ keeps cannot be copied: {raised(error)}"
        raise ConfigError(f"{plan.strategy.title}: {reason}.") from error
    population, server = plan.population, plan.experiment.server_model
    maker = LearnerModels(server, population.training, population.device, population.models)
    options = _options(plan.experiment, plan.federation)
    public = plan.federation.client(0).public
    strategy.options = replace(options, models=maker, public=None if public is None else public.x)
    return strategy


def liars_of(plan: Plan) -> Liars | None:
    """Return the malicious clients of one run of a plan, if the experiment has an attack."""
    section = plan.experiment.attack
    return Liars(section, plan.federation.num_classes, plan.strategy) if section else None


def availability_of(plan: Plan) -> Availability | None:
    """Return the availability of the clients of one run, if the experiment has a section for it.

    Nobody waits for clients that share nothing, as in local training; they miss the same rounds.
    """
    section, waits = plan.experiment.availability, bool(plan.recipe.share)
    if section is None:
        return None
    flops = flops_by_client(plan.recipe, plan.population, plan.federation) if waits else None
    return Availability(section, plan.experiment.seed, flops)


def _options(experiment: Experiment, federation: Federation) -> ServerOptions:
    """Return the options of strategies in an experiment on its data."""
    run, public_y = experiment.run, federation.public_y
    return ServerOptions(
        run=RUN,
        seed=experiment.seed,
        participation=run.participation,
        clients=federation.num_clients,
        codec=run.codec,
        quorum=run.quorum,
        public_labels=None if public_y is None else torch.tensor(public_y, dtype=torch.int64),
        group_effect=run.group_effect,
        bounds=run.bounds,
        metrics=run.metrics,
        schedule_rounds=experiment.schedule_rounds,
    )


def made(section: Mapping[str, Any]) -> KnowledgeStrategy:
    """Return the strategy of a ``[strategy]`` section, with a recipe that can travel.

    Raises
    ------
    ConfigError
        Naming the strategy.
    """
    strategy = make_strategy(section)
    check_recipe(strategy)
    return strategy


def prepare(experiment: Experiment, reduce_to_one: bool = False) -> Plan:
    """Return the plan of an experiment, checked.

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
    strategy = made(experiment.strategy)
    experiment = with_public(experiment, [strategy])
    check_settings(experiment)
    federation = federation_of(federation_spec(experiment))
    if strategy.pools:
        experiment, strategy, federation = _pooled(experiment, federation)
    models, server = fitting_models(strategy, experiment, federation, reduce_to_one)
    strategy.options = _options(experiment, federation)
    check_metrics(strategy.options.metrics, federation.num_classes)
    check_select_by(experiment.run.select_by, strategy.options.metrics)
    idle = check_training(experiment.training, models, federation)
    notes = (*federation.notes, *idle, *model_notes(models, federation))
    notes += codec_notes(strategy.settled_recipe, experiment.run.codec)
    notes += tuple(strategy.remarks(experiment.training.told))
    plan = _resolved(experiment.with_values(server_model=server), strategy, federation, models)
    plan = replace(plan, notes=notes)
    liars_of(plan)  # an attack that does not fit shows here
    availability_of(plan)
    return plan


def _pooled(
    experiment: Experiment, federation: Federation
) -> tuple[Experiment, KnowledgeStrategy, Federation]:
    """Return a reference's experiment, strategy and data: all clients train on everybody's data.

    Its ``local_steps`` are by default those of a client on its own samples, in the mean.
    """
    if experiment.training.class_weights != "none":
        raise ConfigError(
            f"{experiment.strategy['name']}: its correction to a client's own class prior does not "
            "know training.class_weights; leave one of the two out."
        )
    section = resolved_strategy(experiment.strategy)
    if not section["local_steps"]:
        size = experiment.training.batch_size
        batches = [-(-n // size) for n in federation.describe()["sizes"]["train"]]
        mean = max(1, round(statistics.fmean(batches)))
        section["local_steps"] = section["local_epochs"] * mean
    experiment = experiment.with_values(strategy=section)
    return experiment, made(experiment.strategy), federation.pooled()


def _resolved(
    experiment: Experiment,
    strategy: KnowledgeStrategy,
    federation: Federation,
    models: tuple[str, ...],
) -> Plan:
    """Return the plan of a checked experiment, with its executors and the user's files."""
    run, recipe, server = experiment.run, strategy.settled_recipe, experiment.server_model
    device = devices.resolve(run.device)
    executors = resolve(run, models, federation, experiment.training, recipe, device)
    training = experiment.training
    named = absolute(training.optimiser), absolute(training.augment)
    training = replace(training, optimiser=named[0], augment=named[1])
    texts = [value for value in experiment.strategy.values() if isinstance(value, str)]
    of_codecs = [registry.file_of(type(codec)) for codec in recipe.codecs]  # of shares
    texts += [f"{file}:" for file in of_codecs if file is not None]
    files = user_files(*texts, run.codec, *run.metrics, *experiment.models, *named)
    population = PopulationSpec(
        models=models,
        cohorts=tuple(size_of(executors[m]) for m in models),
        training=training,
        personalised=run.personalised,
        extensions=tuple(files.items()),
        device=device,
        carried=carried(
            references_in(json.loads(recipe.to_json()), run.codec, run.metrics, models, list(named))
        ),
    )
    return Plan(
        experiment=_filled_in(
            experiment.with_values(training=vars(training)),
            models,
            executors,
            device,
            federation.num_clients,
        ),
        federation=federation,
        population=population,
        strategy=strategy,
        one_architecture=None if models == experiment.models else models[0],
        files=files
        | user_files(run.grid, server, experiment.attack.kind if experiment.attack else ""),
        objects=contents(without_data(parts_of(experiment, recipe))),
    )


def _filled_in(
    experiment: Experiment,
    models: Sequence[str],
    executors: Mapping[str, str],
    device: str,
    clients: int,
) -> Experiment:
    """Return the experiment as it will run: defaults filled in, paths absolute."""
    section = resolved_strategy(experiment.strategy)
    data, folder = asdict(experiment.data), experiment.data.data_dir
    attack = resolved_attack(experiment.attack) if experiment.attack else None
    data["dataset"] = absolute_data(data["dataset"], folder)
    data["domains"] = [absolute_data(domain, folder) for domain in data["domains"]]
    data["target"] = data["target"] and absolute_target(data["target"], data["domains"], folder)
    data["public_dataset"] = data["public_dataset"] and absolute_data(
        data["public_dataset"], folder
    )
    data["clients"] = clients
    return experiment.with_values(
        models=[absolute(m) for m in models],
        server_model=absolute(experiment.server_model),
        strategy={k: absolute(v) if isinstance(v, str) else v for k, v in section.items()},
        data={**data, "data_dir": folder and str(Path(folder).resolve())},
        run={
            **experiment.run.model_dump(),
            "grid": absolute(experiment.run.grid),
            "codec": absolute(experiment.run.codec),
            "metrics": [absolute(metric) for metric in experiment.run.metrics],
            "workers": workers_of(experiment, clients),
            "device": device,
            "plan": {absolute(model): entry for model, entry in executors.items()},
        },
        attack=attack and {**attack, "kind": absolute(attack["kind"])},
    )


def workers_of(experiment: Experiment, clients: int | None = None) -> int:
    """Return the number of workers: as configured, else one for each CPU; at most one a client."""
    workers, data = experiment.run.workers or os.cpu_count() or 1, experiment.data
    if clients is None and data.clients is None and follows_data(data.partition):
        return workers
    return min(workers, clients or data.number_of_clients)


def engine_session(experiment: Experiment) -> AbstractContextManager[None]:
    """Keep what several runs on the engine of an experiment share."""
    return kind_of(experiment.run).session(experiment.run, workers_of(experiment))


def federation_spec(experiment: Experiment) -> FederationSpec:
    """Return the specification of an experiment's federation."""
    return FederationSpec(**vars(experiment.data), seed=experiment.seed)


def federation_of(spec: FederationSpec) -> Federation:
    """Return a federation, the last one again if its specification and data are the same."""
    return ready_federation(spec) or _federation(spec, content_of(spec))


@lru_cache(maxsize=4)
def _federation(spec: FederationSpec, content: str) -> Federation:
    """Return the federation of a specification whose names stood for ``content``."""
    return build_federation(spec)
