"""The server's side of a simulation: which model it builds, and the accuracy there."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flwr.app import ArrayRecord, MetricRecord
from torch import Tensor

from fedkt.answers import accuracy
from fedkt.clients import LearnerModels
from fedkt.clients.learners.making import make_learner, networks_among
from fedkt.context import Round
from fedkt.data.federation import Federation
from fedkt.errors import ConfigError
from fedkt.greeting import Facts
from fedkt.simulations.engines.population import Population
from fedkt.simulations.experiment.config import Experiment
from fedkt.strategies import KnowledgeStrategy
from fedkt.wire import weights_of


def server_network(
    strategy: KnowledgeStrategy,
    experiment: Experiment,
    networks: Sequence[str],
    federation: Federation,
) -> str:
    """Return the reference of a server's model like the clients', empty for a strategy without.

    Raises
    ------
    ConfigError
        If the model asked for is no network.
    """
    asked = experiment.server_model
    if not strategy.has_models:
        return ""
    if strategy.settled_recipe.needs_one_architecture:
        return networks[0]  # weights are exchanged: the server's model is the clients'
    if not asked and not networks:
        raise ConfigError(f"{strategy.title} trains a network at the server; name a server_model.")
    shape, classes = federation.input_shape, federation.num_classes
    if asked and not networks_among([asked], shape, classes):
        raise ConfigError(f"server_model = {asked!r} is no network; {strategy.title} trains one.")
    return asked or networks[0]


def check_models(
    strategy: KnowledgeStrategy,
    models: Sequence[str],
    server: str,
    federation: Federation,
    seed: int,
) -> None:
    """Refuse a strategy whose models at the server are none; factories are tried in the run only.

    Parameters
    ----------
    strategy : KnowledgeStrategy
        The method.
    models : Sequence[str]
        References of the clients' models, in turn.
    server : str
        Reference of the model like the clients'.
    federation : Federation
        The data.
    seed : int
        Seed of the run.

    Raises
    ------
    ConfigError
        Naming the strategy and the model.
    """
    if not strategy.has_models:
        return
    shape, classes = federation.input_shape, federation.num_classes
    architectures = {m: make_learner(m, shape, classes).architecture for m in set(models)}
    data, size = federation.client(0), len(federation.public_x)
    facts: Facts = {
        "num-classes": classes,
        "classes": data.classes,
        "input-shape": shape,
        "columns": tuple(f"{name}: {dtype}" for name, dtype in data.columns.items()),
        "public-size": size,
    }
    turns = [architectures[models[c % len(models)]] for c in range(federation.num_clients)]
    about = {client: {**facts, "architecture": kind} for client, kind in enumerate(turns)}
    supposed = Round(0, 0, (), classes, size, shape, seed, about)
    maker = LearnerModels(server, trusted=tuple(models))
    for name, net in strategy.declared(supposed).items():
        if isinstance(net.build, str):
            try:
                maker.learner(net.build, supposed)
            except ConfigError as error:
                where = f"{strategy.title}, model {name!r} at the server"
                raise ConfigError(f"{where}: {error}") from error


def server_evaluation(
    strategy: KnowledgeStrategy, population: Population
) -> Callable[[int, ArrayRecord], MetricRecord | None]:
    """Return the evaluation of the server's weights on the common test set.

    It raises ``NotFiniteError`` where their answers are not finite.
    """
    test = population.federation.client(0).common_test

    def predict(arrays: ArrayRecord, x: Tensor) -> Tensor:
        if strategy.serves is not None:
            return strategy.model[strategy.serves].predict(x)  # which has these weights
        learner = population.learner(population.spec.models[0])
        learner.load_weights(weights_of(arrays))
        return learner.predict(x, strategy.settled_recipe.world)

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        if test is None or test.y is None or not len(test):
            return None
        return MetricRecord({"accuracy": accuracy(predict(arrays, test.x), test.y)})

    return evaluate
