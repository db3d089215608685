"""The in-process grid, and what all grids of ours have in common."""

from __future__ import annotations

import contextlib
import gc
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.serverapp import Grid, ServerApp

from fedkt.clients import KnowledgeClientApp
from fedkt.errors import ConfigError
from fedkt.machine import RARELY, one_thread
from fedkt.recipe import Recipe
from fedkt.simulations.engines.grid import InProcessGrid
from fedkt.simulations.engines.population import Population
from fedkt.simulations.runs.plan import prepare, strategy_of
from fedkt.simulations.runs.run import server_app


@pytest.fixture
def plan(tiny: Any) -> Any:
    return prepare(tiny())


@pytest.fixture
def grid(plan: Any) -> InProcessGrid:
    return InProcessGrid(Population(plan.population, plan.federation).app(), 3)


def hello(node: int) -> Message:
    content = RecordDict({"config": ConfigRecord({"recipe": Recipe().to_json()})})
    return Message(content, node, MessageType.QUERY, group_id="hello")


def client_in(reply: Message) -> int:
    return int(reply.content.config_records["config"]["client"])


def test_it_is_a_flower_grid(grid: InProcessGrid) -> None:
    assert isinstance(grid, Grid)
    assert grid.run.run_id == 1


def test_nodes_are_the_clients_in_order(grid: InProcessGrid) -> None:
    nodes = list(grid.get_node_ids())
    assert nodes == sorted(set(nodes))
    replies = grid.send_and_receive([hello(node) for node in nodes])
    assert [client_in(r) for r in replies] == [0, 1, 2]
    assert [r.metadata.src_node_id for r in replies] == nodes


def test_replies_come_in_the_order_of_the_clients(grid: InProcessGrid) -> None:
    nodes = list(grid.get_node_ids())
    replies = grid.send_and_receive([hello(nodes[2]), hello(nodes[0]), hello(nodes[1])])
    assert [client_in(r) for r in replies] == [0, 1, 2]


def test_progress_is_told(grid: InProcessGrid) -> None:
    told = []
    grid.on_progress = lambda done, total: told.append((done, total))
    list(grid.send_and_receive([hello(node) for node in grid.get_node_ids()]))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_no_messages_no_replies(grid: InProcessGrid) -> None:
    assert list(grid.send_and_receive([])) == []
    assert list(grid.push_messages([])) == []
    assert list(grid.pull_messages([])) == []


def test_pushed_messages_can_be_pulled_once(grid: InProcessGrid) -> None:
    nodes = list(grid.get_node_ids())
    ids = list(grid.push_messages([hello(nodes[0]), hello(nodes[1])]))
    assert len(set(ids)) == 2
    (second,) = grid.pull_messages([ids[1]])
    assert client_in(second) == 1
    assert second.metadata.reply_to_message_id == ids[1]
    assert [client_in(r) for r in grid.pull_messages([*ids, "unheard-of"])] == [0]
    assert list(grid.pull_messages(ids)) == []


@pytest.mark.parametrize("node", [0, 1, 5, 99])
def test_an_unknown_node_is_named(grid: InProcessGrid, node: int) -> None:
    first, *_ = grid.get_node_ids()
    with pytest.raises(ConfigError, match=f"There is no node {node}"):
        grid.send_and_receive([hello(first), hello(node)])


def test_messages_can_be_made(grid: InProcessGrid) -> None:
    message = grid.create_message(hello(2).content, MessageType.QUERY, 2, "group", ttl=5.0)
    assert (message.metadata.dst_node_id, message.metadata.ttl) == (2, 5.0)
    (reply,) = grid.send_and_receive([message])
    assert client_in(reply) == 0


def test_an_app_without_a_guard_becomes_an_error_reply() -> None:
    app = KnowledgeClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        if context.node_config["partition-id"] == 1:
            raise RuntimeError("unguarded")
        return Message(RecordDict(), reply_to=message)

    grid = InProcessGrid(app, 3)
    replies = grid.send_and_receive([hello(node) for node in grid.get_node_ids()])
    assert [r.has_error() for r in replies] == [False, True, False]
    assert replies[1].error.reason == "RuntimeError: unguarded"


def test_snapshot_and_restore_are_the_whole_state(
    plan: Any, grid: InProcessGrid, plain_state: Any
) -> None:
    population = Population(plan.population, plan.federation)
    assert grid.snapshot() == {}
    strategy = strategy_of(plan)
    grid.run_server(server_app(strategy, plan, population))
    after = grid.snapshot()
    assert list(after) == [0, 1, 2]
    frozen = plain_state(after)
    other = InProcessGrid(population.app(), 3)
    other.restore(after)
    assert plain_state(other.snapshot()) == frozen
    grid.restore({})
    assert grid.snapshot() == {}, "restoring replaces everything"
    grid.run_server(server_app(strategy_of(plan), plan, population))
    assert plain_state(grid.snapshot()) == frozen, "begun anew, the same bits"
    assert plain_state(after) == frozen, "a snapshot does not change with what comes later"


def test_errors_of_the_server_come_through(grid: InProcessGrid) -> None:
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        raise ConfigError("no")

    with pytest.raises(ConfigError, match="no"):
        grid.run_server(app)


def test_one_thread_is_given_back() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with contextlib.suppress(RuntimeError), one_thread():
            assert torch.get_num_threads() == 1
            raise RuntimeError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_garbage_is_looked_for_rarely_and_as_before_after_the_run(grid: InProcessGrid) -> None:
    before, seen = gc.get_threshold(), []

    def server(*_: object) -> None:
        seen.append((gc.get_threshold(), gc.get_freeze_count()))
        raise ValueError("over")

    with pytest.raises(ValueError, match="over"):
        grid.run_server(server)
    assert seen[0][0] == RARELY
    assert seen[0][1] > 0
    assert (gc.get_threshold(), gc.get_freeze_count()) == (before, 0)
    gc.set_threshold(0, 1, 1)  # nobody wants it
    try:
        with pytest.raises(ValueError, match="over"):
            grid.run_server(server)
    finally:
        gc.set_threshold(*before)
    assert seen[1][0] == (0, 1, 1)
