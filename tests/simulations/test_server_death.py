"""A server that dies in a round and goes on from its checkpoint; its clients are ahead of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message, MessageType

from fedkt.clients import FileStore
from fedkt.machine import one_thread
from fedkt.simulations.engines.grid import InProcessGrid
from fedkt.simulations.engines.population import Population
from fedkt.simulations.runs.plan import Plan, prepare, strategy_of
from fedkt.simulations.runs.run import server_app
from fedkt.strategies import KnowledgeStrategy, Observer, RoundReport

ROUNDS, LAST = 4, 3
KINDS = {
    "greeting": MessageType.QUERY,
    "train": MessageType.TRAIN,
    "evaluate": MessageType.EVALUATE,
}


class DeathError(Exception):
    """The end of the server."""


class Dying(InProcessGrid):
    """A grid whose server dies before the clients get a message of a round, or after."""

    def dies(self, kind: str, round_: int, after: bool) -> None:
        """Choose the message."""
        self.end = KINDS[kind], str(round_), after

    def send_and_receive(self, messages: Any, **options: Any) -> list[Message]:
        """Deliver messages, unless the server dies."""
        messages = list(messages)
        kind, round_, after = getattr(self, "end", ("", "", False))
        of_round = messages and messages[0].metadata.group_id in (round_, "hello")
        if not of_round or messages[0].metadata.message_type != kind:
            return list(super().send_and_receive(messages, **options))
        if after:
            super().send_and_receive(messages, **options)
        raise DeathError


class Checkpoints(Observer):
    """The figures of each round, and the server's state after it."""

    def __init__(self) -> None:
        self.rows: dict[int, Any] = {}
        self.states: dict[int, Any] = {0: None}

    def round_finished(self, report: RoundReport, strategy: KnowledgeStrategy) -> None:
        """Keep them."""
        self.rows[report.round] = (dict(report.metrics), report.participants)
        self.states[report.round] = strategy.state_dict()


def server(plan: Plan, kept: Checkpoints, after: int, run: str = "") -> KnowledgeStrategy:
    """Return a server that goes on from its state after a round."""
    strategy = strategy_of(plan)
    strategy.options = replace(strategy.options, run=run)
    if kept.states[after] is not None:
        strategy.load_state_dict(kept.states[after])
    strategy.observers = [kept]
    return strategy


def federate(plan: Plan, grid: InProcessGrid, population: Population, *how: Any) -> None:
    with one_thread():
        grid.run_server(server_app(server(plan, *how), plan, population))


@pytest.fixture(scope="module")
def plan(tiny: Any) -> Plan:
    return prepare(tiny(models=["linear", "mlp", "forest"], rounds=ROUNDS, run__participation=0.7))


@pytest.fixture(scope="module")
def undisturbed(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    kept, population = Checkpoints(), Population(plan.population, plan.federation)
    store = FileStore(tmp_path_factory.mktemp("state"))
    federate(plan, InProcessGrid(population.app(store), 3), population, kept, 0)
    return kept


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_goes_on_with_the_same_figures(
    plan: Plan, undisturbed: Checkpoints, tmp_path: Path, kind: str, after: bool
) -> None:
    kept, population = Checkpoints(), Population(plan.population, plan.federation)
    grid = Dying(population.app(FileStore(tmp_path)), 3)
    began = 0 if kind == "greeting" else LAST - 1
    grid.dies(kind, LAST, after)
    with pytest.raises(DeathError):
        federate(plan, grid, population, kept, 0)
    assert list(kept.rows) == list(range(1, began + 1))
    # Another process of the server; a node's process is another one for each message, anyway.
    again = InProcessGrid(Population(plan.population, plan.federation).app(FileStore(tmp_path)), 3)
    federate(plan, again, population, kept, began)
    assert kept.rows == undisturbed.rows


def test_a_checkpoint_that_is_too_old_is_refused(plan: Plan, tmp_path: Path) -> None:
    kept, population = Checkpoints(), Population(plan.population, plan.federation)
    federate(plan, InProcessGrid(population.app(FileStore(tmp_path)), 3), population, kept, 0)
    again = InProcessGrid(population.app(FileStore(tmp_path)), 3)
    with pytest.raises(Exception, match="before train of round 2 is gone: it has gone on"):
        federate(plan, again, population, kept, 1)


def test_a_second_run_starts_afresh(plan: Plan, undisturbed: Checkpoints, tmp_path: Path) -> None:
    for run in ("first", "second"):
        kept, population = Checkpoints(), Population(plan.population, plan.federation)
        grid = InProcessGrid(population.app(FileStore(tmp_path)), 3)
        federate(plan, grid, population, kept, 0, run)
        assert kept.rows == undisturbed.rows
