"""The server's side of a simulation: its own model, and the accuracy of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flwr.app import ArrayRecord, MetricRecord

from fedkt.answers import accuracy
from fedkt.clients import LearnerServerModel
from fedkt.clients.learners.making import make_learner, torch_models
from fedkt.data.federation import Federation
from fedkt.errors import ConfigError
from fedkt.simulations.engines.population import Population, PopulationSpec
from fedkt.simulations.experiment.config import Experiment
from fedkt.strategies import KnowledgeStrategy
from fedkt.wire import weights_of


def server_network(
    strategy: KnowledgeStrategy,
    experiment: Experiment,
    networks: Sequence[str],
    federation: Federation,
) -> str:
    """Return the reference of the server's own model, empty for a strategy without.

    Raises
    ------
    ConfigError
        If the model asked for is no network.
    """
    asked = experiment.server_model
    if not strategy.needs_server_model:
        return ""
    if strategy.settled_recipe.needs_one_architecture:
        return networks[0]  # weights are exchanged: the server's model is the clients'
    if not asked and not networks:
        raise ConfigError(f"{strategy.title} trains a network at the server; name a server_model.")
    shape, classes = federation.input_shape, federation.num_classes
    if asked and not torch_models([asked], shape, classes):
        raise ConfigError(f"server_model = {asked!r} is no network; {strategy.title} trains one.")
    return asked or networks[0]


def server_model(
    strategy: KnowledgeStrategy,
    experiment: Experiment,
    federation: Federation,
    population: PopulationSpec,
) -> LearnerServerModel | None:
    """Return the server's own model, untrained, for a strategy that needs one.

    Its samples are the public set without labels: in a federation with a target, the
    target's training part.
    """
    if not strategy.needs_server_model:
        return None
    public = federation.client(0).public
    if public is None:
        raise ConfigError(f"{strategy.title} trains a model at the server on the public set.")
    shape, classes = federation.input_shape, federation.num_classes
    learner = make_learner(experiment.server_model, shape, classes, population.device)
    recipe, training = strategy.settled_recipe, population.training
    return LearnerServerModel(learner, public.x, recipe, experiment.seed, training)


def server_evaluation(
    experiment: Experiment, population: Population
) -> Callable[[int, ArrayRecord], MetricRecord | None]:
    """Return the evaluation of the server's weights on the common test set.

    It raises ``NotFiniteError`` where their answers are not finite.
    """
    test = population.federation.client(0).common_test
    learner = population.learner(experiment.server_model or population.spec.models[0])

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        if test is None or test.y is None or not len(test):
            return None
        learner.load_weights(weights_of(arrays))
        return MetricRecord({"accuracy": accuracy(learner.predict(test.x), test.y)})

    return evaluate
