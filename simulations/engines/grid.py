"""Simulation grids: the common part, and the grid that runs in this process."""

from __future__ import annotations

import gc
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from itertools import count

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run

from fedkt.clients import KnowledgeClientApp
from fedkt.clients.state import ClientState
from fedkt.clients.turn import error_reply
from fedkt.errors import ConfigError
from fedkt.machine import collect_rarely, one_thread
from fedkt.simulations.engines import _flwr_shim as shim
from fedkt.simulations.engines.engine import Progress
from fedkt.simulations.engines.stopping import check


class SimulationGrid(Grid):
    """A grid of simulated clients 0 … n-1.

    Parameters
    ----------
    clients : int
        Number of clients.

    Attributes
    ----------
    on_progress : callable, optional
        Called with the number of messages handled and of all messages.
    """

    def __init__(self, clients: int) -> None:
        shim.claim_identity()
        self.clients = clients
        self.on_progress: Progress | None = None
        self._numbers = count(1)
        self._waiting: dict[str, Message] = {}
        self._run = Run.create_empty(run_id=shim.RUN_ID)

    @abstractmethod
    def _handle(self, messages: Sequence[Message], timeout: float | None) -> list[Message]:
        """Deliver messages; return the replies in the same order, without missing ones."""

    @abstractmethod
    def snapshot(self) -> dict[int, ClientState]:
        """Return the state of every client that has one."""

    @abstractmethod
    def restore(self, states: Mapping[int, ClientState]) -> None:
        """Replace all client state."""

    def close(self) -> None:
        """Release the resources of the grid."""

    def run_server(self, server_app: ServerApp) -> None:
        """Run a ServerApp on this grid."""
        before = gc.get_threshold()
        collect_rarely()
        try:
            server_app(self, Context(shim.RUN_ID, shim.SERVER_NODE, {}, RecordDict(), {}))
        finally:
            gc.set_threshold(*before)
            gc.unfreeze()

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Deliver messages; return the replies ordered by receiver."""
        numbered = sorted(messages, key=lambda m: m.metadata.dst_node_id)
        for message in numbered:
            if not 0 <= self.client_of(message) < self.clients:
                raise ConfigError(f"There is no node {message.metadata.dst_node_id}.")
            shim.number(message, str(next(self._numbers)))
        replies = self._handle(numbered, timeout) if numbered else []
        check()  # after a signal, the error of a client is no failure
        return replies

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Deliver messages; return the ids of those with replies, which wait to be pulled."""
        replies = self.send_and_receive(messages)
        self._waiting.update({r.metadata.reply_to_message_id: r for r in replies})
        return [r.metadata.reply_to_message_id for r in replies]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that have come, each one once."""
        return [self._waiting.pop(i) for i in message_ids if i in self._waiting]

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Return a new message."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """Return the node ids, ascending by client."""
        return [shim.FIRST_NODE + client for client in range(self.clients)]

    def set_run(self, run: Run) -> None:
        """Set the run."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run."""
        return self._run

    @staticmethod
    def client_of(message: Message) -> int:
        """Return the client that a message goes to."""
        return message.metadata.dst_node_id - shim.FIRST_NODE

    def _tell(self, done: int, total: int) -> None:
        if self.on_progress is not None:
            self.on_progress(done, total)


class InProcessGrid(SimulationGrid):
    """A grid with all clients in this process, one after the other: for tests and tiny runs.

    Parameters
    ----------
    app : KnowledgeClientApp
        App of all clients.
    clients : int
        Number of clients.
    """

    def __init__(self, app: KnowledgeClientApp, clients: int) -> None:
        super().__init__(clients)
        self._app = app
        self._contexts: dict[int, Context] = {}

    def _handle(self, messages: Sequence[Message], timeout: float | None) -> list[Message]:
        # A call in this thread cannot be cut short, so there is no timeout here.
        with one_thread():
            return deliver_all(self._app, messages, self._contexts, self.clients, self._tell)

    def snapshot(self) -> dict[int, ClientState]:
        """Return the state of every client that has one."""
        return self._app.store.snapshot()

    def restore(self, states: Mapping[int, ClientState]) -> None:
        """Replace all client state."""
        self._contexts.clear()
        self._app.store.restore(states)


class Before(Grid):
    """A grid in front of another grid; by default it passes every call on.

    Parameters
    ----------
    grid : Grid
        The grid behind it.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Deliver messages; return the replies."""
        return self._grid.send_and_receive(messages, timeout=timeout)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Deliver messages."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that have come."""
        return self._grid.pull_messages(message_ids)

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Return a new message."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Return the node ids."""
        return self._grid.get_node_ids()

    def set_run(self, run: Run) -> None:
        """Set the run."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run."""
        return self._grid.run


def deliver_all(
    app: KnowledgeClientApp,
    messages: Sequence[Message],
    contexts: dict[int, Context],
    clients: int,
    tell: Progress | None = None,
) -> list[Message]:
    """Return an app's replies, in order: cohorts first, each at once, then the other clients."""
    in_order = [
        contexts.setdefault(c, shim.new_context(c, clients))
        for c in map(SimulationGrid.client_of, messages)
    ]
    # A plain ClientApp of Flower gets all of them one by one.
    handle_cohorts = getattr(app, "handle_cohorts", None)
    replies = {} if handle_cohorts is None else handle_cohorts(messages, in_order)
    for place, message in enumerate(messages):
        if place not in replies:
            replies[place] = deliver(app, message, contexts, clients)
        if tell is not None:
            tell(len(replies), len(messages))
    return [replies[place] for place in range(len(messages))]


def deliver(
    app: KnowledgeClientApp, message: Message, contexts: dict[int, Context], clients: int
) -> Message:
    """Return an app's reply to a message in its client's context, an error for an exception."""
    client = SimulationGrid.client_of(message)
    context = contexts.setdefault(client, shim.new_context(client, clients))
    try:
        return app(message, context)
    except Exception as error:  # as Flower does for an app that raises
        return error_reply(error, message)
