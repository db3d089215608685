"""An app's folder as an experiment: ``fedkt simulate DIR`` rehearses it on one machine."""

from __future__ import annotations

import importlib
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import Context, RecordDict

from fedkt import by_value
from fedkt.clients.learners.base import Learner
from fedkt.data.gathered import gathered
from fedkt.deploy.party import TABLE as TRAINING
from fedkt.deploy.party import Party, ask
from fedkt.deploy.run_config import Flat, check_keys, number, options_in, plain
from fedkt.deploy.serving import TABLES, KnowledgeServerApp
from fedkt.errors import ConfigError, of_class
from fedkt.simulations.api.objects import dataset_reference, strategy_reference
from fedkt.simulations.experiment.config import Experiment, RunSection
from fedkt.simulations.experiment.references import read_strategy
from fedkt.simulations.runs.plan import made as strategy_made
from fedkt.text import raised

PROJECT = "pyproject.toml"


@dataclass(frozen=True)
class App:
    """A Flower app of fedkt's in a folder.

    Parameters
    ----------
    name : str
        Its name.
    party : Party
        What its ClientApp does.
    server : KnowledgeServerApp
        Its ServerApp.
    config : Mapping
        The run's configuration, flat.
    """

    name: str
    party: Party
    server: KnowledgeServerApp
    config: Flat

    @property
    def clients(self) -> int:
        """The number of parties: ``server.clients`` of the configuration."""
        count = self.config.get("server.clients", 0)
        if type(count) is not int or count < 1:
            raise ConfigError(
                f"server.clients is {count!r} in [tool.flwr.app.config]; a rehearsal needs the "
                "number of parties."
            )
        return count

    def context(self, client: int) -> Context:
        """Return a context as the node of a client has it."""
        node: dict[str, Any] = {"partition-id": client, "num-partitions": self.clients}
        return Context(0, client, node, RecordDict(), dict(self.config))


@dataclass(frozen=True)
class PartyModel:
    """A maker of one party's model, which needs no context any more."""

    app: App
    client: int

    def __call__(self) -> Any:
        """Return a new model."""
        return ask(self.app.party.build_model, self.app.context(self.client))


def read_app(folder: Path) -> App:
    """Return the app of a folder.

    Raises
    ------
    ConfigError
        If it holds none, or one that cannot be imported.
    """
    project = _project(folder)
    name, place = str(project["project"]["name"]), _component(project, folder, "serverapp")
    line = f"{folder}: {place} is not made by fedkt.deploy.server."
    server = of_class(_loaded(folder, place), KnowledgeServerApp, line)
    party, config = party_of(folder)
    check_keys(config, TABLES)
    return App(name, party, server, config)


def party_of(folder: Path) -> tuple[Party, Flat]:
    """Return what the ClientApp of an app does, and the run's configuration.

    Raises
    ------
    ConfigError
        If the folder holds no app, or its ClientApp cannot be imported.
    """
    project = _project(folder)
    place = _component(project, folder, "clientapp")
    party = getattr(_loaded(folder, place), "connect", None)
    line = f"{folder}: {place} is not made by fedkt.deploy.client."
    config = _flat(project["tool"]["flwr"]["app"].get("config", {}))
    return of_class(party, Party, line), config


def _project(folder: Path) -> dict[str, Any]:
    path = folder / PROJECT
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        line = f"The directory {folder} holds no app: it has no {PROJECT}; see fedkt new."
        raise ConfigError(line) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {raised(error)}.") from error


def _component(project: Mapping[str, Any], folder: Path, name: str) -> str:
    """Return the text ``module:attribute`` of a component of a Flower app."""
    try:
        place: str = project["tool"]["flwr"]["app"]["components"][name]
    except (KeyError, TypeError):
        raise ConfigError(
            f"{folder / PROJECT} is not that of a Flower app: no [tool.flwr.app.components] {name}."
        ) from None
    return place


def values_of(app: App) -> dict[str, Any]:
    """Return the values of the experiment that rehearses an app: the same data, models, options.

    Networks are trained one by one, as on the nodes, so that figures are equal bit for bit.
    """
    config, parties = app.config, range(app.clients)
    data = [app.party.data(app.context(client)) for client in parties]
    learners = [app.party.learner(app.context(c), data[c]) for c in parties]
    options = options_in(config, "server", TABLES["server"])
    given = app.server.strategy or str(plain(config, "strategy"))
    labels = app.server.public_labels
    labels = ask(labels, app.context(0)) if callable(labels) else labels
    run = {k: v for k, v in options.items() if k in RunSection.model_fields}
    bounds = options_in(config, "bounds", TABLES["bounds"])
    training = vars(app.party.options(app.context(0)))
    return {
        "seed": number(config, "seed", 0),
        "rounds": number(config, "num-server-rounds", 1),
        "schedule_rounds": options.get("schedule_rounds", 0),
        "strategy": read_strategy(strategy_reference(given)),
        "models": [_reference(app, client, learners) for client in parties],
        "server_model": _server_model(app),
        "data": {
            "dataset": dataset_reference(gathered(data, app.name, labels), app.name, {}),
            "partition": "natural",
        },
        TRAINING: dict(training),
        "run": {**run, "executor": "loop", "bounds": bounds},
    }


def check_policy(app: App, experiment: Experiment) -> None:
    """Refuse an experiment that the parties would not take part in.

    Raises
    ------
    ConfigError
        With the reason that a node would give.
    """
    recipe = strategy_made(experiment.strategy).settled_recipe
    if refusal := app.party.policy.refusal(recipe, experiment.run.codec, experiment.run.metrics):
        name = experiment.strategy["name"]
        raise ConfigError(f"{app.name}: no party would run {name}: {refusal}.")


def _reference(app: App, client: int, learners: list[Learner]) -> str:
    """Return the reference of a party's model: that of the first party with an equal one."""
    same = [learner.architecture for learner in learners].index(learners[client].architecture)
    made = app.party.model(app.context(same))
    if isinstance(made, str):
        return made
    return by_value.named("models", PartyModel(app, same), type(made).__name__)


def _server_model(app: App) -> str:
    model = app.server.server_model
    if isinstance(model, str):
        return model
    made = ask(model, app.context(0))
    if isinstance(made, str):
        return made
    return by_value.named("models", _Called(model, app), type(made).__name__)


@dataclass(frozen=True)
class _Called:
    """A maker of the server's model."""

    build: Any
    app: App

    def __call__(self) -> Any:
        """Return a new model."""
        return ask(self.build, self.app.context(0))


def _loaded(folder: Path, place: str) -> Any:
    """Return what a component's text ``module:attribute`` names, of an app in a folder."""
    module, _, attribute = place.partition(":")
    top, path = module.partition(".")[0], str(folder.resolve())
    known = getattr(sys.modules.get(top), "__file__", None)
    if known is not None and not Path(known).resolve().is_relative_to(folder.resolve()):
        for name in [n for n in sys.modules if n == top or n.startswith(f"{top}.")]:
            del sys.modules[name]  # another app of that name
    sys.path.insert(0, path)
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a user's code may raise anything
        raise ConfigError(f"{place} of {folder} cannot be imported: {raised(error)}.") from error
    finally:
        sys.path.remove(path)


def _flat(table: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Return a table of TOML with dotted keys, as Flower gives it to apps."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= (
            _flat(value, f"{before}{key}.")
            if isinstance(value, Mapping)
            else {f"{before}{key}": value}
        )
    return flat
