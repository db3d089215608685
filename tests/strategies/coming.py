"""A real federation in this process whose nodes come and go."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from flwr.app import ConfigRecord, Error, Message
from flwr.serverapp.strategy import Result

from fedkt.clients import FileStore, client_app
from fedkt.clients.turn import error_reply
from fedkt.data import Federation
from fedkt.machine import one_thread
from fedkt.simulations.engines import _flwr_shim as shim
from fedkt.simulations.engines.grid import InProcessGrid
from fedkt.simulations.engines.population import Population, PopulationSpec
from fedkt.strategies import KnowledgeStrategy, Observer, RoundReport
from fedkt.strategies.answers.knfu import KnFu
from fedkt.strategies.baselines.local import Local
from fedkt.strategies.server.exchange import UNDELIVERED
from fedkt.strategies.weights.fedavg import FedAvg

METHODS: dict[str, Callable[[], KnowledgeStrategy]] = {
    "knfu": lambda: KnFu(local_epochs=1, distil_epochs=1),
    "fedavg": lambda: FedAvg(1),
    "local": lambda: Local(1),
}
FIRST = shim.FIRST_NODE
Moment = tuple[str, int]  # a phase and its round; or "end", after a round
Events = Mapping[Moment, Callable[["Coming"], None]]


def node(client: int) -> int:
    """Return the first node of a client."""
    return FIRST + client


@dataclass(frozen=True)
class Sent:
    """The messages of one call: their type, the nodes, and the timeout."""

    kind: str
    nodes: list[int]
    timeout: float | None


class Coming(InProcessGrid):
    """A grid of nodes with clients behind them; a message to one that is not there is an error.

    Attributes
    ----------
    nodes : dict[int, int]
        The client behind each node that is connected.
    silent : dict[str, set[int]]
        By type of message, clients that do not answer.
    missing : set[tuple[int, int]]
        (client, round) whose messages are not delivered: a simulation in which it misses the round.
    """

    def __init__(self, federation: Federation, folder: Path, clients: Iterable[int]) -> None:
        population = Population(PopulationSpec(("linear",)), federation)
        self.initial_arrays = population.initial_arrays
        app = client_app(population.connect, FileStore(folder, durable=False))
        super().__init__(app, federation.num_clients)
        self.nodes = {node(client): client for client in clients}
        self.silent: dict[str, set[int]] = {}
        self.claims: dict[int, dict[str, Any]] = {}  # by node, changes of its greeting
        self.missing: set[tuple[int, int]] = set()
        self.sent: list[Sent] = []
        self.asked_for_ids = 0

    def get_node_ids(self) -> list[int]:
        self.asked_for_ids += 1
        return list(self.nodes)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        sent = list(messages)
        for message in sent:
            shim.number(message, str(next(self._numbers)))
        nodes = [message.metadata.dst_node_id for message in sent]
        self.sent.append(Sent(sent[0].metadata.message_type, nodes, timeout))
        with one_thread():
            replies = [self._reply(message) for message in sent]
        return [reply for reply in replies if reply is not None]

    def _reply(self, message: Message) -> Message | None:
        to, kind = message.metadata.dst_node_id, message.metadata.message_type
        if to not in self.nodes:
            return Message(Error(5, "Error: Node Unavailable"), reply_to=message)
        client, round_ = self.nodes[to], int(str(message.content["config"]["server-round"]))
        if kind != "query" and (client, round_) in self.missing:
            shim.number(message, f"{UNDELIVERED}{client}-{round_}-{kind}")
            return Message(Error(2, "missed"), reply_to=message)
        context = self._contexts.setdefault(client, shim.new_context(client, self.clients))
        try:
            reply = self._app(message, context)
        except Exception as error:
            return error_reply(error, message)
        if kind == "query" and to in self.claims and reply.has_content():
            told = {**reply.content["config"], **self.claims[to]}
            reply.content["config"] = ConfigRecord(told)
        return None if client in self.silent.get(kind, ()) else reply


@dataclass
class Script(Observer):
    """An observer that lets things happen to a grid, and keeps the reports and the phases."""

    grid: Coming
    events: Events
    reports: list[RoundReport] = field(default_factory=list)
    phases: list[tuple[str, int, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    states: dict[int, Any] = field(default_factory=dict)

    def phase_began(self, phase: str, report: RoundReport, strategy: KnowledgeStrategy) -> None:
        self.phases.append((phase, report.round, report.clients, tuple(report.participants)))
        self._happens((phase, report.round))

    def round_finished(self, report: RoundReport, strategy: KnowledgeStrategy) -> None:
        self.reports.append(deepcopy(report))
        self.states[report.round] = deepcopy(strategy.state_dict())
        self._happens(("end", report.round))

    def _happens(self, moment: Moment) -> None:
        self.events.get(moment, lambda grid: None)(self.grid)


def go(
    grid: Coming, strategy: KnowledgeStrategy, rounds: int, events: Events | None = None
) -> Script:
    """Run a strategy while things happen."""
    script = Script(grid, events or {})
    strategy.observers = [script]
    arrays = None
    if strategy.recipe().needs_one_architecture:
        arrays = grid.initial_arrays(3, strategy.recipe())
    _: Result = strategy.start(grid, arrays, num_rounds=rounds, timeout=77)
    return script


def leaves(*clients: int) -> Callable[[Coming], None]:
    """Return the event in which clients' nodes leave."""

    def happen(grid: Coming) -> None:
        grid.nodes = {n: client for n, client in grid.nodes.items() if client not in clients}

    return happen


def comes(client: int, as_node: int | None = None) -> Callable[[Coming], None]:
    """Return the event in which a client's node comes, under its first id or another."""

    def happen(grid: Coming) -> None:
        grid.nodes[node(client) if as_node is None else as_node] = client

    return happen


def plain(value: Any) -> Any:
    """Return a state in a form that ``==`` compares bit for bit."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.numpy().tobytes()
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return repr(value) if hasattr(value, "tensors") else value


def figures(script: Script) -> list[Any]:
    """Return all that rounds have measured, by client."""
    return [(r.metrics, r.participants, r.traffic, r.untrained) for r in script.reports]
