"""The ServerApp of light clients: a strategy of fedkt, and a diary of its rounds."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import torch
from flwr.app import Context, Message
from flwr.serverapp import Grid, ServerApp

from fedkt import snapshot
from fedkt.simulations.engines.grid import Before
from fedkt.strategies import KnowledgeStrategy, Observer, RoundReport, ServerOptions
from fedkt.strategies.construction import make_strategy

app = ServerApp()


class Eager(Before):
    """A grid that looks for replies five times a second, not every three seconds as Flower does."""

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Deliver messages; return the replies."""
        waiting, replies = set(self.push_messages(messages)), list[Message]()
        end = time.monotonic() + (timeout if timeout is not None else float("inf"))
        while waiting and time.monotonic() < end:
            came = list(self.pull_messages(waiting))
            replies += came
            waiting -= {reply.metadata.reply_to_message_id for reply in came}
            if waiting:
                time.sleep(0.2)
        return replies


class Diary(Observer):
    """An observer that writes each round's report, and a checkpoint; it waits if it is to.

    Parameters
    ----------
    folder : Path
        The folder of the files.
    paced : int
        The last round that begins only when the test has made the file ``go-ROUND``.
    """

    def __init__(self, folder: Path, paced: int) -> None:
        self._folder, self._paced = folder, paced
        folder.mkdir(parents=True, exist_ok=True)

    def round_finished(self, report: RoundReport, strategy: KnowledgeStrategy) -> None:
        """Write the report of a finished round."""
        snapshot.save(self._folder / "checkpoint.safetensors", strategy.state_dict())
        with (self._folder / "rounds.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(self.row(report, strategy)) + "\n")
        self.wait(report.round + 1)

    @staticmethod
    def row(report: RoundReport, strategy: KnowledgeStrategy) -> dict[str, object]:
        """Return a round: who took part, the digest of what each was sent, figures, bytes."""
        latest = strategy.exchange.latest
        fused = {c: latest.for_client(c)["public"].values for c in report.participants}
        return {
            "round": report.round,
            "clients": list(report.clients),
            "participants": list(report.participants),
            "fused": {c: sha256(v.numpy().tobytes()).hexdigest() for c, v in fused.items()},
            "metrics": report.metrics,
            "failures": [list(asdict(failure).values()) for failure in report.failures],
            "notes": list(report.notes),
            "up": report.traffic.up,
            "down": report.traffic.down,
            "seconds": report.seconds,
        }

    def wait(self, round_: int) -> None:
        """Wait until a round may begin."""
        while round_ <= self._paced and not (self._folder / f"go-{round_}").exists():
            time.sleep(0.05)


def strategy_of(name: str, options: ServerOptions) -> KnowledgeStrategy:
    """Return a strategy with its options."""
    strategy = make_strategy({"name": name})
    strategy.options = options
    return strategy


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the strategy of the configuration; say how it has ended."""
    end = Path(str(context.run_config["run-dir"])) / "end"
    try:
        federate(grid, context)
    except BaseException as error:
        end.write_text(f"{type(error).__name__}: {error}", encoding="utf-8")
        raise
    end.write_text("done", encoding="utf-8")


def federate(grid: Grid, context: Context) -> None:
    """Run the strategy of the configuration."""
    torch.set_num_threads(1)
    config = context.run_config
    folder, clients = Path(str(config["run-dir"])), int(config["clients"])
    rounds, deadline = int(config["rounds"]), float(config["deadline"])
    diary = Diary(folder, rounds if config["paced"] else 0)
    (folder / "server.pid").write_text(str(os.getpid()), encoding="utf-8")
    options = ServerOptions(
        run=str(config["run-name"]), seed=int(config["seed"]), clients=clients, wait=60
    )
    strategy = strategy_of(str(config["strategy"]), options)
    strategy.observers = [diary]
    if config["resume"] and (folder / "checkpoint.safetensors").exists():
        strategy.load_state_dict(snapshot.load(folder / "checkpoint.safetensors"))
    diary.wait(1)
    strategy.start(Eager(grid), num_rounds=rounds, timeout=deadline)
