"""What a run writes: one line a round, and a summary at the end."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from fedkt.clients.state import ClientState
from fedkt.leakage import histogram_leakage
from fedkt.metrics import OverClients, negative_transfer, over_clients
from fedkt.simulations import checkpoint
from fedkt.simulations.files import write_atomic
from fedkt.simulations.liars import Liars
from fedkt.simulations.progress import RunProgress
from fedkt.strategies import KnowledgeStrategy, RoundReport


class Recorder:
    """Writes a run's rounds and checkpoints as they come.

    Parameters
    ----------
    folder : Path
        The run directory.
    rounds_done : int
        Rounds already recorded and checkpointed; later lines, of a run that was cut off
        before its checkpoint, are removed.
    alone : Mapping[int, Mapping]
        The rows of the local baseline by round, for negative transfer.
    progress : RunProgress
        Who is told.
    """

    def __init__(
        self,
        folder: Path,
        rounds_done: int,
        alone: Mapping[int, Mapping[str, Any]],
        progress: RunProgress,
    ) -> None:
        self._folder, self._alone, self._progress = folder, alone, progress
        self.clients: Callable[[], dict[int, ClientState]] = dict
        self.liars: Liars | None = None
        self.label_counts: Sequence[Sequence[int]] = ()
        kept = [row for row in read_rounds(folder) if row["round"] <= rounds_done]
        lines = "".join(json.dumps(row) + "\n" for row in kept)
        write_atomic(folder / "rounds.jsonl", lines)

    def round_finished(self, report: RoundReport, strategy: KnowledgeStrategy) -> None:
        """Write the round, then its checkpoint: a line without checkpoint is redone."""
        alone = self._alone.get(report.round)
        row = round_row(report, alone, self.liars, self.label_counts)
        with (self._folder / "rounds.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
        state = {"strategy": strategy.state_dict(), "clients": self.clients()}
        if self.liars is not None:
            state["attack"] = self.liars.state_dict()
        checkpoint.save(self._folder / "checkpoints", report.round, state)
        self._progress.round_finished(
            report.round, row["personalised_accuracy"]["mean"], row["global_accuracy"]["mean"]
        )


def round_row(
    report: RoundReport,
    alone: Mapping[str, Any] | None,
    liars: Liars | None = None,
    label_counts: Sequence[Sequence[int]] = (),
) -> dict[str, Any]:
    """Return the line of ``rounds.jsonl`` for a round.

    Parameters
    ----------
    report : RoundReport
        The round.
    alone : Mapping, optional
        The same round of the local baseline; without it negative transfer is null.
    liars : Liars, optional
        Malicious clients: accuracies are over the others, and one that keeps silent has
        not failed.
    label_counts : Sequence[Sequence[int]]
        True training samples of each class, clients x classes; without them leakage is null.
    """
    lying, silent = (liars.clients, liars.silent) if liars else (frozenset(), frozenset())

    def over_honest(metric: str) -> OverClients:
        values = zip(report.clients, report.per_client(metric), strict=True)
        return over_clients([None if client in lying else value for client, value in values])

    personalised = over_honest("personalised-accuracy")
    rate, loss = None, None
    if alone is not None:
        rate, loss = negative_transfer(
            personalised["per_client"], alone["personalised_accuracy"]["per_client"]
        )
    clients = len(report.clients)
    # By place, as in all lists over clients.
    guesses = {
        place: report.mean_predictions[client]
        for place, client in enumerate(report.clients)
        if client in report.mean_predictions and client not in lying
    }
    return {
        "round": report.round,
        "personalised_accuracy": personalised,
        "global_accuracy": over_honest("global-accuracy"),
        "validation_accuracy": over_honest("validation-accuracy"),
        "server_accuracy": report.server_accuracy,
        "negative_transfer": rate,
        "negative_transfer_loss": loss,
        "leakage": histogram_leakage(guesses, label_counts) if len(label_counts) else None,
        "bytes_up": report.traffic.up / clients,
        "bytes_down": report.traffic.down / clients,
        "traffic": {
            "up": report.traffic.up,
            "down_unicast": report.traffic.down_unicast,
            "down_broadcast": report.traffic.down_broadcast,
        },
        "participants": report.participants,
        "seconds": report.seconds,
        "failures": [
            vars(f) for f in report.failures if f.client not in silent or f.phase != "learn"
        ],
        "strategy": plain(report.diagnostics),
    }


def read_rounds(folder: Path) -> list[dict[str, Any]]:
    """Read ``rounds.jsonl``; a torn last line is left out, a missing file is empty."""
    path = folder / "rounds.jsonl"
    rows = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def summarise(rows: Sequence[Mapping[str, Any]], oracle: bool = False) -> dict[str, Any]:
    """Return a run's headline figures.

    Parameters
    ----------
    rows : Sequence[Mapping]
        All rounds.
    oracle : bool
        Also select the round with the best *test* accuracy; no figure to report as a
        result, and named so.

    Returns
    -------
    dict
        ``last`` and ``validation_selected`` (the round with the best mean validation
        accuracy, the first of equals; null without validation data), bytes per client over
        the run, seconds, number of failures.
    """
    validated = [r for r in rows if r["validation_accuracy"]["mean"] is not None]
    best = max(validated, key=lambda r: r["validation_accuracy"]["mean"], default=None)
    summary = {
        "last": _headline(rows[-1]),
        "validation_selected": None if best is None else _headline(best),
        "bytes_up": sum(r["bytes_up"] for r in rows),
        "bytes_down": sum(r["bytes_down"] for r in rows),
        "seconds": sum(r["seconds"] for r in rows),
        "failures": sum(len(r["failures"]) for r in rows),
    }
    if oracle:
        known = [r for r in rows if r["personalised_accuracy"]["mean"] is not None]
        if known:
            summary["oracle"] = _headline(
                max(known, key=lambda r: r["personalised_accuracy"]["mean"])
            )
    return summary


def _headline(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "round": row["round"],
        "personalised_accuracy": row["personalised_accuracy"]["mean"],
        "personalised_std": row["personalised_accuracy"]["std"],
        "global_accuracy": row["global_accuracy"]["mean"],
        "server_accuracy": row["server_accuracy"],
        "negative_transfer": row["negative_transfer"],
        "negative_transfer_loss": row["negative_transfer_loss"],
    }


def plain(value: Any) -> Any:
    """Turn tensors and mappings into JSON values."""
    if isinstance(value, torch.Tensor):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has neither NaN nor infinity
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    write_atomic(path, json.dumps(value, indent=1) + "\n")
