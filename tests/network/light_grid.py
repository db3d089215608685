"""The light clients in this process: what a run over the network must equal bit for bit."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from flwr.app import Message, RecordDict
from lightapp.client_app import answer
from lightapp.party import Party
from lightapp.server_app import Diary, strategy_of

from fedkt.clients.state import ClientState
from fedkt.machine import one_thread
from fedkt.simulations.engines.grid import SimulationGrid
from fedkt.strategies import KnowledgeStrategy, Observer, RoundReport, ServerOptions

PUBLIC, SEED = 40, 7  # as in the app's pyproject.toml
Missed = Mapping[tuple[int, str], Collection[int]]
Away = Mapping[int, Collection[int]]


class LightGrid(SimulationGrid):
    """A grid of light clients; some answer nothing to some messages, as nodes that are lost.

    Parameters
    ----------
    parties : Sequence[Party]
        The clients 0 … n-1.
    missed : Mapping
        By (round, message type), the clients that a message does not reach.
    away : Mapping
        By round, the clients whose nodes are not there.
    """

    def __init__(self, parties: Sequence[Party], missed: Missed, away: Away) -> None:
        super().__init__(len(parties))
        self._parties, self._missed, self._away, self._round = parties, missed, away, 1

    def get_node_ids(self) -> list[int]:
        """Return the nodes that are there in the round."""
        away = self._away.get(self._round, ())
        return [n for c, n in enumerate(super().get_node_ids()) if c not in away]

    def _handle(self, messages: Sequence[Message], timeout: float | None) -> list[Message]:
        if messages[0].metadata.message_type == "evaluate":  # the next look is for the next round
            self._round += 1
        return [self._reply(message) for message in messages if not self._misses(message)]

    def _reply(self, message: Message) -> Message:
        content: RecordDict = answer(message, self._parties[self.client_of(message)])
        return Message(content, reply_to=message)

    def _misses(self, message: Message) -> bool:
        round_ = int(message.content["config"]["server-round"])
        missed = self._missed.get((round_, message.metadata.message_type), ())
        return self.client_of(message) in missed

    def snapshot(self) -> dict[int, ClientState]:
        """Return nothing: the clients have files."""
        return {}

    def restore(self, states: Mapping[int, ClientState]) -> None:
        """Do nothing."""


class Rows(Observer):
    """An observer that keeps the rows of the diary."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def round_finished(self, report: RoundReport, strategy: KnowledgeStrategy) -> None:
        """Keep a row."""
        self.rows.append(Diary.row(report, strategy))


def simulated(
    folder: Path,
    clients: int,
    rounds: int,
    run: str = "light",
    missed: Missed = MappingProxyType({}),
    away: Away = MappingProxyType({}),
) -> tuple[list[dict[str, Any]], list[Party]]:
    """Return the rows of a run of light clients in this process, and the clients after it."""
    parties = [Party(client, folder / f"{client}", PUBLIC) for client in range(clients)]
    options, kept = (
        ServerOptions(run=run, seed=SEED, clients=clients - len(away.get(1, ()))),
        Rows(),
    )
    method = strategy_of("knfu", options)
    method.observers = [kept]
    with one_thread():
        method.start(LightGrid(parties, missed, away), num_rounds=rounds)
    return kept.rows, parties


FIGURES = ("round", "clients", "participants", "fused", "metrics")


def figures(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what two runs must have in common, with keys as JSON has them."""
    return [
        {
            name: {str(k): v for k, v in row[name].items()}
            if isinstance(row[name], dict)
            else row[name]
            for name in FIGURES
        }
        for row in rows
    ]
