"""Flower's own simulation engine, for parity: the same ServerApp and ClientApp run on it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from fedkt.clients import FileStore, KnowledgeClientApp
from fedkt.clients.state import ClientState
from fedkt.data.federation import Federation
from fedkt.simulations.population import Population, PopulationSpec


class FlowerEngine:
    """Runs a ServerApp on Flower's simulation engine.

    Flower hands any client to any worker process, so the federation and the clients' state
    lie in files that all of them read.

    Parameters
    ----------
    spec : PopulationSpec
        What the clients are.
    federation : Federation
        Their data.
    workers : int
        Ray actors, one CPU each.
    folder : Path
        For the federation and the state; may be deleted after the run.
    """

    def __init__(
        self, spec: PopulationSpec, federation: Federation, workers: int, folder: Path
    ) -> None:
        self._clients, self._workers = federation.num_clients, workers
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
        self._store = FileStore(folder / "state")
        federation.save(folder / "federation")
        self._app = _lazy_app(spec, folder.resolve(), federation.token)

    def run_server(self, server_app: ServerApp) -> None:
        """Run a ServerApp; its exceptions are raised here."""
        from flwr.simulation import run_simulation

        logging.getLogger("flwr").setLevel(logging.ERROR)
        run_simulation(
            server_app=server_app,
            client_app=self._app,
            num_supernodes=self._clients,
            backend_config={
                "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
                "init_args": {
                    "num_cpus": self._workers,
                    "log_to_driver": False,
                    "logging_level": "ERROR",
                },
            },
        )

    def snapshot(self) -> dict[int, ClientState]:
        """Return the state of every client that has one."""
        return self._store.snapshot()

    def restore(self, states: Mapping[int, ClientState]) -> None:
        """Replace all client state."""
        self._store.restore(states)

    def close(self) -> None:
        """Hold nothing that must be given back."""


def _lazy_app(spec: PopulationSpec, folder: Path, token: str) -> ClientApp:
    """Return a ClientApp that is small to send: it finds its data in ``folder``."""
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        return _app(spec, folder, token)(message, context)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return _app(spec, folder, token)(message, context)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return _app(spec, folder, token)(message, context)

    return app


@lru_cache(maxsize=1)
def _app(spec: PopulationSpec, folder: Path, token: str) -> KnowledgeClientApp:
    """Load this process's clients, once for each content of their data."""
    torch.set_num_threads(1)
    federation = Federation.load(folder / "federation")
    return Population(spec, federation).app(FileStore(folder / "state"))
