"""The Ray grid: the same bits as in-process, whatever the workers and whoever of them dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict

from fedkt.errors import ConfigError
from fedkt.recipe import Recipe
from fedkt.simulations.engines import _flwr_shim as shim
from fedkt.simulations.engines.grid import InProcessGrid, SimulationGrid
from fedkt.simulations.engines.population import Population
from fedkt.simulations.engines.ray_grid import CHUNKS_PER_WORKER, RayGrid, _Chunk
from fedkt.simulations.engines.ray_session import session
from fedkt.simulations.runs.plan import Plan, prepare, strategy_of
from fedkt.simulations.runs.recorder import round_row
from fedkt.simulations.runs.run import execute, server_app
from fedkt.strategies import KnowledgeStrategy, Observer, RoundReport

pytestmark = pytest.mark.ray

# A linear model that, in training, takes a word from a file beside it and does what it says. Not
# while it is tried: before a run (there is no file yet), and in new processes, on eight rows.
MOODY = """
import os, time
from pathlib import Path
from torch import nn

class Moody(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.layer = nn.Linear(64, classes)

    def forward(self, x):
        orders = Path(__file__).parent / "orders"
        if self.training and len(x) > 8 and orders.exists() and orders.read_text():
            order, *rest = orders.read_text().split()
            orders.write_text(" ".join(rest))
            if order == "die":
                os._exit(1)
            time.sleep(120)
        return self.layer(x.flatten(1))
"""


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Keep one Ray with two CPUs, and its idle workers, for all tests of this file."""
    with session(2):
        yield


@pytest.fixture
def open_grid() -> Iterator[Callable[[Plan, int], RayGrid]]:
    """Open Ray grids for a plan; they are closed in the end."""
    grids: list[RayGrid] = []

    def make(plan: Plan, workers: int) -> RayGrid:
        grids.append(RayGrid(plan.population, plan.federation, workers))
        return grids[-1]

    yield make
    for grid in grids:
        grid.close()


class Watch(Observer):
    """Collects the rounds, and does something after each."""

    def __init__(self, then: Callable[[int], object]) -> None:
        self.rows: list[dict[str, Any]] = []
        self._then = then

    def round_finished(self, report: RoundReport, strategy: KnowledgeStrategy) -> None:
        row = round_row(report, None)
        del row["seconds"]
        self.rows.append(row)
        self._then(report.round)


def federate(
    plan: Plan, grid: SimulationGrid, then: Callable[[int], object] = lambda _: None
) -> tuple[list[dict[str, Any]], dict[int, Any]]:
    """Run a plan; return its rounds and what the clients are in the end."""
    watch, strategy = Watch(then), strategy_of(plan)
    strategy.observers = [watch]
    grid.run_server(server_app(strategy, plan, Population(plan.population, plan.federation)))
    return watch.rows, grid.snapshot()


def in_process(plan: Plan) -> tuple[list[dict[str, Any]], dict[int, Any]]:
    app = Population(plan.population, plan.federation).app()
    return federate(plan, InProcessGrid(app, plan.federation.num_clients))


def kill(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def pids_of(grid: RayGrid) -> list[int]:
    return grid.worker_pids


def moody(tiny: Any, folder: Path, orders: str, clients: int, who: int, **changes: Any) -> Plan:
    """Plan a federation in which one client's model follows orders."""
    (folder / "moody.py").write_text(MOODY, encoding="utf-8")
    models = ["linear"] * clients
    models[who] = f"{folder}/moody.py:Moody"
    plan = prepare(tiny(models=models, data__clients=clients, **changes))
    (folder / "orders").write_text(orders, encoding="utf-8")
    return plan


# --- the same bits ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "models"),
    [
        ({"name": "knfu", "local_epochs": 1, "distil_epochs": 1}, ["cnn", "mlp", "forest"]),
        ({"name": "fedavg", "local_epochs": 1}, ["cnn"]),
    ],
    ids=["knfu", "fedavg"],
)
def test_any_number_of_workers_gives_the_same_bits(
    tmp_path: Path, tiny: Any, figures: Any, final_state: Any, strategy: Any, models: Any
) -> None:
    same = {"strategy": strategy, "models": models, "data__clients": 4}
    execute(prepare(tiny(**same)), tmp_path / "in-process", label="x")
    for workers in (1, 2):
        plan = prepare(tiny(**same, run={"grid": "ray", "workers": workers}))
        execute(plan, tmp_path / f"ray{workers}", label="x")
        assert figures(tmp_path / f"ray{workers}") == figures(tmp_path / "in-process")
        assert final_state(tmp_path / f"ray{workers}") == final_state(tmp_path / "in-process")


def test_stopped_with_two_workers_and_resumed_with_one(
    tmp_path: Path, tiny: Any, figures: Any, final_state: Any, stop_after: Any
) -> None:
    same = {"models": ["cnn", "mlp", "forest"], "rounds": 3}
    execute(prepare(tiny(**same)), tmp_path / "whole", label="x")
    plan = prepare(tiny(**same, run={"grid": "ray", "workers": 2}))
    with pytest.raises(KeyboardInterrupt):
        execute(plan, tmp_path / "run", label="x", progress=stop_after(1))
    plan = prepare(tiny(**same, run={"grid": "ray", "workers": 1}))
    execute(plan, tmp_path / "run", label="x")
    assert figures(tmp_path / "run") == figures(tmp_path / "whole")
    assert final_state(tmp_path / "run") == final_state(tmp_path / "whole")


# --- grids in a session ----------------------------------------------------------------------


def test_workers_are_kept_but_nothing_they_knew(tiny: Any, open_grid: Any) -> None:
    plan = prepare(tiny(models=["linear"]))
    first = open_grid(plan, 2)
    pids = set(pids_of(first))
    federate(plan, first)
    first.close()
    second = open_grid(plan, 2)
    assert set(pids_of(second)) == pids
    assert second.snapshot() == {}


def test_no_more_workers_than_cpus_nor_than_clients(tiny: Any, open_grid: Any) -> None:
    plan = prepare(tiny(models=["linear"], data__clients=1))
    with pytest.raises(ConfigError, match="--workers 3: the Ray cluster has 2 CPUs"):
        open_grid(plan, 3)
    assert len(pids_of(open_grid(plan, 2))) == 1
    assert ray.is_initialized(), "the session goes on"


def test_push_and_pull(tiny: Any, open_grid: Any) -> None:
    grid = open_grid(prepare(tiny(models=["linear"])), 2)
    content = RecordDict({"config": ConfigRecord({"recipe": Recipe().to_json()})})
    nodes = list(grid.get_node_ids())
    ids = grid.push_messages(
        [Message(content, node, MessageType.QUERY, group_id="hello") for node in reversed(nodes)]
    )
    replies = grid.pull_messages(ids)
    assert [r.content.config_records["config"]["client"] for r in replies] == [0, 1, 2]
    assert grid.pull_messages(ids) == []
    with pytest.raises(ConfigError, match="There is no node 99"):
        grid.send_and_receive([Message(content, 99, MessageType.QUERY, group_id="hello")])


@pytest.mark.parametrize(("name", "puts"), [("fedavg", 1 + 2), ("knfu", 0)])
def test_broadcasts_are_stored_once(
    tiny: Any, open_grid: Any, monkeypatch: pytest.MonkeyPatch, name: str, puts: int
) -> None:
    """fedavg: the first weights, and those of each round; knfu sends everyone his own."""
    plan = prepare(tiny(strategy={"name": name}, models=["linear"], data__clients=4))
    grid, put, stored = open_grid(plan, 2), ray.put, []

    def counted(value: Any) -> Any:
        stored.append(value)
        return put(value)

    monkeypatch.setattr(ray, "put", counted)
    rows, _ = federate(plan, grid)
    assert len([value for value in stored if isinstance(value, ArrayRecord)]) == puts
    assert rows == in_process(plan)[0]


# --- death -----------------------------------------------------------------------------------


def test_more_than_32_clients_a_worker_travel_in_chunks(
    tiny: Any, open_grid: Any, plain_state: Any
) -> None:
    clients = 2 * CHUNKS_PER_WORKER + 3  # three messages a chunk
    plan = prepare(
        tiny(
            models=["linear"],
            run__executor="loop",
            data__clients=clients,
            data__samples_per_client=8,
        )
    )
    grid, told = open_grid(plan, 1), []
    (pid,) = pids_of(grid)

    def strike(done: int, total: int) -> None:
        told.append((done, total))
        if len(told) == 30:  # in the middle of the first learn phase, after the greeting
            kill([pid])

    grid.on_progress = strike
    rows, states = federate(plan, grid)
    assert told[:2] == [(3, clients), (6, clients)]
    assert (clients, clients) in told
    assert pids_of(grid) != [pid]
    expected, alike = in_process(plan)
    assert rows == expected
    assert plain_state(states) == plain_state(alike)


def test_workers_killed_between_rounds_change_nothing(
    tiny: Any, open_grid: Any, plain_state: Any
) -> None:
    """Neither before a snapshot (all is repeated) nor after one (it is the beginning)."""
    plan = prepare(tiny(models=["mlp", "linear"], rounds=3, data__clients=4))
    grid = open_grid(plan, 2)
    died = []

    def strike(round_: int) -> None:
        if round_ == 2:
            grid.snapshot()
        else:
            died.append(pids_of(grid)[1])
            kill(died[-1:])

    rows, states = federate(plan, grid, strike)
    expected, alike = in_process(plan)
    assert rows == expected
    assert plain_state(states) == plain_state(alike)
    assert len(set(died)) == 2
    assert not set(died) & set(pids_of(grid))


@pytest.mark.full  # new worker processes, or a long wait
def test_a_worker_that_died_idle_or_before_a_restore_is_replaced(
    tiny: Any, open_grid: Any, plain_state: Any
) -> None:
    plan = prepare(tiny(models=["linear"], rounds=1))
    first = open_grid(plan, 2)
    rows, states = federate(plan, first)
    kill(pids_of(first))
    first.close()
    second = open_grid(plan, 1)
    assert federate(plan, second)[0] == rows
    kill(pids_of(second))
    second.restore(states)
    assert plain_state(second.snapshot()) == plain_state(states)


@pytest.mark.full  # new worker processes, or a long wait
def test_a_message_that_kills_every_worker_fails_its_client_only(
    tmp_path: Path, tiny: Any, open_grid: Any
) -> None:
    # One death may be put down to the client before, whose answer was on its way.
    plan = moody(tiny, tmp_path, "die " * 4, clients=3, who=1)
    rows, _ = federate(plan, open_grid(plan, 1))
    (failure,) = rows[0]["failures"]
    assert (failure["client"], failure["phase"]) == (1, "learn")
    assert "worker process died 3 times" in failure["reason"]
    assert rows[0]["participants"] == [0, 2]
    measured = [v is not None for v in rows[0]["global_accuracy"]["per_client"]]
    assert measured == [True, False, True], "it has never trained"
    assert None not in rows[1]["global_accuracy"]["per_client"]
    assert rows[1]["failures"] == [], "and takes part again"
    assert rows[1]["participants"] == [0, 1, 2]


def test_in_a_chunk_the_killer_is_found_before_anyone_is_blamed() -> None:
    def chunk(*ids: int, deaths: int = 0) -> _Chunk:
        return _Chunk(0, [None] * len(ids), [numbered(i) for i in ids], deaths)

    def numbered(message_id: int) -> Message:
        message = Message(RecordDict(), 2, MessageType.QUERY)
        shim.number(message, str(message_id))
        return message

    def ids(chunks: list[_Chunk]) -> list[list[int]]:
        return [[int(m.metadata.message_id) for m in c.messages] for c in chunks]

    replies: dict[str, Message] = {}
    left = RayGrid._blame([chunk(13, 14), chunk(9, 11), chunk(101)], replies)
    assert ids(left) == [[9, 11], [13, 14], [101]], "a cohort gives the same bits only whole"
    left = RayGrid._blame(left, replies)
    assert ids(left) == [[9], [11], [13, 14], [101]], "in order, as numbers"
    for _ in range(2):
        left = RayGrid._blame(left, replies)
        assert ids(left) == [[9], [11], [13, 14], [101]]
        assert replies == {}
    left = RayGrid._blame(left, replies)
    assert ids(left) == [[11], [13, 14], [101]]
    assert list(replies) == ["9"]
    assert replies["9"].error.reason == "its worker process died 3 times"
    assert [c.deaths for c in left] == [0, 0, 0]


@pytest.mark.full  # new worker processes, or a long wait
def test_a_client_that_sleeps_is_given_up_for_the_phase(
    tmp_path: Path, tiny: Any, open_grid: Any
) -> None:
    plan = moody(tiny, tmp_path, "sleep", clients=4, who=3, run__timeout=15.0)
    rows, _ = federate(plan, open_grid(plan, 2))
    assert rows[0]["failures"] == [{"client": 3, "phase": "learn", "reason": "no reply in time"}]
    assert rows[0]["participants"] == [0, 1, 2]
    assert None not in rows[0]["global_accuracy"]["per_client"][:3], "the next phase works"
    assert None not in rows[1]["global_accuracy"]["per_client"]
    assert rows[1]["failures"] == []
    assert rows[1]["participants"] == [0, 1, 2, 3]


def test_cohorts_stay_together_on_any_number_of_workers(
    tiny: Any, open_grid: Any, plain_state: Any
) -> None:
    """70 clients of two models, in cohorts of 18, over workers of whom one dies on the way."""
    plan = prepare(
        tiny(
            models=["linear", "mlp"],
            run__executor="cohort",
            data__clients=70,
            data__samples_per_client=8,
        )
    )
    assert plan.experiment.run.plan == {"linear": "cohort:18", "mlp": "cohort:18"}
    grid = open_grid(plan, 2)
    (pid, *_) = pids_of(grid)
    told: list[int] = []

    def strike(done: int, total: int) -> None:
        told.append(done)
        if len(told) == 8:  # after the greeting
            kill([pid])

    grid.on_progress = strike
    rows, states = federate(plan, grid)
    assert pids_of(grid)[0] != pid
    expected, alike = in_process(plan)
    assert rows == expected
    assert plain_state(states) == plain_state(alike)
