"""Mixed architectures, and that the knowledge of others changes a client."""

from __future__ import annotations

import pytest

from fedkt.errors import ConfigError
from fedkt.simulations.engines.grid import InProcessGrid
from fedkt.simulations.engines.population import Population, PopulationSpec
from fedkt.simulations.runs.local_baseline import local_twin
from fedkt.simulations.runs.plan import prepare, strategy_of
from fedkt.testing.grids import Alone
from fedkt.testing.kit import MIXED, Method, assert_sound, difference, federate, model_of, plan_for

MIXTURES = [("cnn", "mlp"), ("cnn", "mlp", "forest"), ("forest", "mlp"), ("forest",)]


def assert_clear(error: ConfigError, method: Method) -> None:
    text = str(error)
    law = f"{method}: a refusal is one line that names the strategy and the models at fault"
    clear = "\n" not in text and method.title in text
    assert clear, f"{law}; but it says {text!r}"
    assert "architecture" in text or "model" in text, f"{law}; but it says {text!r}"


@pytest.mark.full
@pytest.mark.parametrize("models", MIXTURES, ids="+".join)
def test_mixed_architectures_or_a_clear_refusal(method: Method, models: tuple[str, ...]) -> None:
    try:
        plan = plan_for(method, models=models)
    except ConfigError as refusal:
        assert_clear(refusal, method)
        return
    # What cannot run is refused when it is planned, before anything has been computed.
    outcome = federate(plan)
    assert_sound(outcome, 2, f"{method}: a federation of {' and '.join(models)} is sound")


def test_mixed_clients_met_on_a_network(method: Method) -> None:
    """Without a plan: the strategy meets whoever is there, as in deployment."""
    plan = plan_for(method, models=method.models[:1])
    spec = PopulationSpec(MIXED, plan.population.training, extensions=plan.population.extensions)
    population = Population(spec, plan.federation)
    engine = InProcessGrid(population.app(), 4)
    strategy = strategy_of(plan)
    try:
        strategy.start(engine, population.initial_arrays(0, strategy.recipe()), num_rounds=1)
    except ConfigError as refusal:
        assert_clear(refusal, method)
        assert not engine.snapshot(), f"{method}: a refusal comes before anybody has trained"
        return
    assert sorted(strategy.exchange.report.metrics) == [0, 1, 2, 3]
    assert not strategy.exchange.report.failures


@pytest.mark.full
def test_knowledge_changes_the_clients(method: Method) -> None:
    if not method.recipe.share:
        pytest.skip(f"{method} shares nothing")
    plan = plan_for(method, models=method.models, batch=64)
    together = federate(plan)
    law = f"{method}: what the others know changes a client"
    changed = 0
    for client in range(4):
        own = federate(plan, grid=Alone.but(client))
        taking_part = [report.participants for report in own.reports]
        assert taking_part == [[client]] * 2
        changed += difference(model_of(together, client), model_of(own, client)) is not None
    # A method may well leave somebody alone who is unlike all others, but not everybody.
    assert changed, f"{law}; but every client ends as if it had been alone"


def test_federation_is_not_local_training(method: Method) -> None:
    if not method.recipe.share:
        pytest.skip(f"{method} shares nothing")
    plan = plan_for(method)
    together, alone = federate(plan), federate(prepare(local_twin(plan)))
    assert_sound(together, 2, f"{method}: a federation is sound")
    for client in range(4):
        found = difference(model_of(together, client), model_of(alone, client))
        assert found, f"{method}: client {client} ends as local training leaves it"
