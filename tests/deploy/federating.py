"""A deployed app in this process: its ServerApp's work over a grid of its ClientApp."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid

from fedkt.clients import KnowledgeClientApp
from fedkt.deploy import client
from fedkt.deploy.new_app import write_app
from fedkt.deploy.rehearsal import App, read_app
from fedkt.deploy.serving import serve
from fedkt.simulations.engines.grid import Before, InProcessGrid
from fedkt.simulations.results.rounds import read_rounds

OF_TIME = ("seconds",)
# What only a simulation knows.
SIMULATED = (
    "leakage",
    "transfer",
    "negative_transfer",
    "negative_transfer_loss",
    "server_accuracy",
)

QUICK = "knfu(local_epochs=1, distil_epochs=1)"


def new_app(folder: Path, clients: int = 3) -> Path:
    """Return the folder of an app as ``fedkt new`` writes it, with a quick strategy."""
    write_app(folder, clients)
    project = folder / "pyproject.toml"
    text = project.read_text(encoding="utf-8")
    assert 'strategy = "knfu"' in text
    project.write_text(text.replace('"knfu"', f'"{QUICK}"', 1), encoding="utf-8")
    return folder


def grid_of(app: App, **config: Any) -> InProcessGrid:
    """Return a grid of an app's parties, whose contexts have the run's configuration."""
    party = app.party
    clients: KnowledgeClientApp = client(party.load_data, party.build_model, party.policy)
    grid = InProcessGrid(clients, app.clients)
    for number in range(app.clients):
        context = app.context(number)
        grid._contexts[number] = Context(
            0, context.node_id, context.node_config, RecordDict(), {**app.config, **config}
        )
    return grid


def served(folder: Path, grid: Grid | None = None, **config: Any) -> list[dict[str, Any]]:
    """Run an app in this process; return the rows of its run."""
    app = read_app(folder)
    config = {key.replace("__", "."): value for key, value in config.items()}
    config = {key.replace("_", "-"): value for key, value in config.items()}
    context = Context(0, 1, {}, RecordDict(), {**app.config, **config})
    serve(
        str(context.run_config["strategy"]),
        grid or grid_of(app, **config),
        context,
        server_model=app.server.server_model,
    )
    return read_rounds(Path(str(context.run_config["run-dir"])))


def figures(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows without times and what only a simulation knows."""
    return [{k: v for k, v in row.items() if k not in (*OF_TIME, *SIMULATED)} for row in rows]


class DeathError(Exception):
    """The end of the server."""


class Dying(Before):
    """A grid whose server dies when the replies to a message of a round have come."""

    def __init__(self, grid: Grid, kind: str, round_: int) -> None:
        super().__init__(grid)
        self._end = kind, str(round_)

    def send_and_receive(self, messages: Any, **options: Any) -> list[Message]:
        """Deliver messages, and die."""
        messages = list(messages)
        replies = list(super().send_and_receive(messages, **options))
        about = messages[0].metadata
        if (about.message_type, about.group_id) == self._end:
            raise DeathError
        return replies
