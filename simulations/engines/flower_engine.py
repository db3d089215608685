"""Flower's own simulation engine, for parity: the same ServerApp and ClientApp run on it."""

from __future__ import annotations

import logging
import math
import shutil
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import torch
from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedkt.clients import FileStore, KnowledgeClientApp
from fedkt.clients.state import ClientState
from fedkt.data.federation import Federation
from fedkt.errors import RunFailedError
from fedkt.simulations.engines.engine import Progress
from fedkt.simulations.engines.grid import Before
from fedkt.simulations.engines.population import Population, PopulationSpec
from fedkt.simulations.engines.ray_session import check_alive, session
from fedkt.text import foreign, last_line

POLL_SECONDS = 0.1  # as Flower's own grid waits for replies
ENGINE_ERROR = 0  # the code Flower uses for errors outside of the clients


class _Watched(Before):
    """Flower's grid, which waits only as long as the engine lives.

    Parameters
    ----------
    grid : Grid
        Flower's grid.
    ended : Event
        Set when the engine is to stop.
    """

    def __init__(self, grid: Grid, ended: threading.Event) -> None:
        super().__init__(grid)
        self._ended = ended

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Deliver messages; return the replies.

        Raises
        ------
        RunFailedError
            If the engine stops or dies, or answers for a client.
        """
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        waiting, replies = set(self.push_messages(messages)), []
        while waiting and time.monotonic() < deadline:
            for reply in self.pull_messages(waiting):
                if reply.has_error() and reply.error.code == ENGINE_ERROR:
                    check_alive()
                    raise RunFailedError(f"Flower's engine: {last_line(reply.error.reason)}")
                waiting.discard(reply.metadata.reply_to_message_id)
                replies.append(reply)
            if waiting:
                self._ended.wait(POLL_SECONDS)
        return replies

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that have come; RunFailedError if the engine has stopped."""
        if self._ended.is_set():
            raise RunFailedError("Flower's engine has stopped.")
        check_alive()
        return super().pull_messages(message_ids)


def _watched(server_app: ServerApp, ended: threading.Event) -> tuple[ServerApp, list[Exception]]:
    """Return a ServerApp on a watched grid, and the list that its exceptions are added to."""
    app, failures = ServerApp(), []

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        try:
            server_app(_Watched(grid, ended), context)
        except Exception as error:
            failures.append(error)
            raise

    return app, failures


class FlowerEngine:
    """Flower's simulation engine, with client state in files.

    Flower runs any client in any worker process, so the federation and the clients' state are
    in files that all workers read.

    Parameters
    ----------
    spec : PopulationSpec
        Models and options of the clients.
    federation : Federation
        Data of the clients.
    workers : int
        Number of Ray actors, one CPU each.
    folder : Path
        Folder for the federation and the state; may be deleted after the run.
    """

    on_progress: Progress | None = None  # Flower does not say

    def __init__(
        self, spec: PopulationSpec, federation: Federation, workers: int, folder: Path
    ) -> None:
        self._clients, self._workers = federation.num_clients, workers
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
        self._store = FileStore(folder / "state", durable=False)
        federation.save(folder / "federation")
        self._app = _lazy_app(spec, folder.resolve(), federation.token)

    def run_server(self, server_app: ServerApp) -> None:
        """Run a ServerApp; its exceptions are raised here.

        Raises
        ------
        ConfigError
            If Ray cannot be started.
        RunFailedError
            If the engine fails.
        """
        from flwr.simulation import run_simulation

        # Flower would log a failure with a traceback; the exception raised here says it all.
        logging.getLogger("flwr").setLevel(logging.CRITICAL)
        ended = threading.Event()
        watched, failures = _watched(server_app, ended)
        # Flower uses the running Ray. It runs in another thread, because a signal during its run
        # would leave its threads behind.
        with session(self._workers), ThreadPoolExecutor(1) as thread:
            simulation = thread.submit(
                run_simulation,
                server_app=watched,
                client_app=self._app,
                num_supernodes=self._clients,
                backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
            )
            try:
                simulation.result()
            except Exception as error:
                if failures:
                    raise failures[0] from None
                cause = (error.__cause__ and error.__cause__.__cause__) or error
                raise RunFailedError(f"Flower's engine has failed: {foreign(cause)}") from error
            finally:
                ended.set()

    def snapshot(self) -> dict[int, ClientState]:
        """Return the state of every client that has one."""
        return self._store.snapshot()

    def restore(self, states: Mapping[int, ClientState]) -> None:
        """Replace all client state."""
        self._store.restore(states)

    def close(self) -> None:
        """Do nothing: the engine holds no resources."""


def _lazy_app(spec: PopulationSpec, folder: Path, token: str) -> ClientApp:
    """Return a ClientApp that is small to send, because its data is in ``folder``."""
    app = ClientApp()

    def handle(message: Message, context: Context) -> Message:
        try:
            return _app(spec, folder, token)(message, context)
        except Exception as error:  # of the engine: a client returns its own errors
            return Message(Error(ENGINE_ERROR, str(error)), reply_to=message)

    @app.query()
    def query(message: Message, context: Context) -> Message:
        return handle(message, context)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return handle(message, context)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return handle(message, context)

    return app


@lru_cache(maxsize=1)
def _app(spec: PopulationSpec, folder: Path, token: str) -> KnowledgeClientApp:
    """Return the ClientApp of this process, made once for each content of the data."""
    torch.set_num_threads(1)
    federation = Federation.load(folder / "federation")
    return Population(spec, federation).app(FileStore(folder / "state", durable=False))
