"""The files that a run writes: one line for each round, and a summary at the end."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fedkt.clients.state import ClientState
from fedkt.disk import write_atomic, writing
from fedkt.evaluation.figure import ACCURACY, value_of
from fedkt.evaluation.figures import (
    GLOBAL,
    OF_GOAL,
    PERSONALISED,
    TARGET,
    TRAINING_LOSS,
    figures_at,
    measured,
    validation_of,
)
from fedkt.evaluation.measures import Round
from fedkt.simulations.attacks.liars import Liars
from fedkt.simulations.availability.absent import Availability
from fedkt.simulations.results.checkpoints import CHECKPOINTS
from fedkt.simulations.results.rounds import ROUNDS, read_rounds
from fedkt.simulations.results.selection import (
    last_round,
    source_validation,
)
from fedkt.simulations.results.selection import oracle as best_on_test
from fedkt.simulations.runs import checkpoint
from fedkt.simulations.runs.progress import RunProgress
from fedkt.strategies import KnowledgeStrategy, Observer, RoundReport

MOST_NAMED = 8  # clients that the notes of a run name one by one


class Recorder(Observer):
    """Writer of a run's rounds and checkpoints.

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
        The display of progress.
    saved : callable, optional
        Whether a round has a checkpoint; by default every round does.
    """

    def __init__(
        self,
        folder: Path,
        rounds_done: int,
        alone: Mapping[int, Mapping[str, Any]],
        progress: RunProgress,
        saved: Callable[[int], bool] = lambda round_: True,
    ) -> None:
        self._folder, self._alone, self._progress = folder, alone, progress
        self._saved = saved
        self.clients: Callable[[], dict[int, ClientState]] = dict
        self.liars: Liars | None = None
        self.availability: Availability | None = None
        self.label_counts: Sequence[Sequence[int]] = ()
        self.everyone: Sequence[int] = ()  # lists over clients have a place for each of them
        self.counts_present = False  # whether bytes are a client that has come, not a place
        self.durable = False  # whether a checkpoint is on the disk, whatever happens
        rows = [row for row in read_rounds(folder) if row["round"] <= rounds_done]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        write_atomic(folder / ROUNDS, lines)

    def round_finished(self, report: RoundReport, strategy: KnowledgeStrategy) -> None:
        """Write the round, then its checkpoint: lines after the last checkpoint are redone."""
        parties = len(report.clients) if self.counts_present else 0
        if self.everyone:  # those that are left out, too
            report = replace(report, clients=tuple(self.everyone))
        alone = self._alone.get(report.round)
        beside = self.liars, self.label_counts, self.availability, parties
        row = round_row(report, alone, *beside)
        log = self._folder / ROUNDS
        with writing(self._folder), log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
        if self._saved(report.round):
            state = {"strategy": strategy.state_dict(), "clients": self.clients()}
            if self.liars is not None:
                state["attack"] = self.liars.state_dict()
            checkpoint.save(self._folder / CHECKPOINTS, report.round, state, self.durable)
        accuracies = value_of(row, PERSONALISED.name), value_of(row, GLOBAL.name)
        self._progress.round_finished(report.round, *accuracies)


def round_row(
    report: RoundReport,
    alone: Mapping[str, Any] | None,
    liars: Liars | None = None,
    label_counts: Sequence[Sequence[int]] = (),
    availability: Availability | None = None,
    parties: int = 0,
) -> dict[str, Any]:
    """Return the line of ``rounds.jsonl`` for a round.

    Parameters
    ----------
    report : RoundReport
        The round.
    alone : Mapping, optional
        The same round of the local baseline; without it negative transfer and each client's
        transfer are null.
    liars : Liars, optional
        Malicious clients: accuracies are over the others, and one that keeps silent has
        not failed.
    label_counts : Sequence[Sequence[int]]
        True training samples of each class, clients x classes; without them leakage is null.
    availability : Availability, optional
        Of the clients, where it is simulated: the source of the simulated seconds.
    parties : int
        How many clients bytes are divided by; 0: as many as lists over clients have places.
    """
    seconds = availability.round_seconds(report.round) if availability else None
    lying, silent = (liars.clients, liars.silent) if liars else (frozenset(), frozenset())
    without = alone[PERSONALISED.name]["per_client"] if alone is not None else None
    return {
        "round": report.round,
        **measured(Round(report, without, lying, label_counts, seconds, parties)),
        **_tables(report, lying),
        "traffic": {
            "up": report.traffic.up,
            "down_unicast": report.traffic.down_unicast,
            "down_broadcast": report.traffic.down_broadcast,
        },
        "participants": report.participants,
        "untrained": [client for client in report.untrained if client not in lying],
        "failures": [
            vars(f) for f in report.failures if f.client not in silent or f.phase != "learn"
        ],
        "notes": report.notes,
        "strategy": plain(report.diagnostics),
    }


def _tables(report: RoundReport, lying: Collection[int]) -> dict[str, Any]:
    """Return the metrics that are tables, by name a list over the clients; nothing without any."""
    without = {*report.untrained, *lying}
    names = dict.fromkeys(name for tables in report.tables.values() for name in tables)
    tables = {
        name.replace("-", "_"): [
            None if c in without else plain(report.tables.get(c, {}).get(name))
            for c in report.clients
        ]
        for name in names
    }
    return {"tables": tables} if tables else {}


def summarise(
    rows: Sequence[Mapping[str, Any]],
    oracle: bool = False,
    target: bool = False,
    goal: float | None = None,
    select_by: str = ACCURACY,
) -> dict[str, Any]:
    """Return a run's headline figures; the rules are those of ``results.selection``.

    Parameters
    ----------
    rows : Sequence[Mapping]
        All rounds.
    oracle : bool
        Also select the round with the best *test* accuracy; no figure to report as a
        result, and named so.
    target : bool
        Whether the federation has a target domain: its accuracy is then a figure of its own,
        and the one that the oracle looks at.
    goal : float, optional
        The mean personalised accuracy to reach, in (0, 1).
    select_by : str
        What the validation-selected round is best in: accuracy, or the name of a metric of the run.

    Returns
    -------
    dict
        ``last`` and ``validation_selected`` (null without validation data), the figures of the
        whole run (bytes per client, seconds; with a goal the rounds and bytes to it), number of
        failures, the clients that have failed, and those that never trained.
    """
    last, validated = last_round(rows), source_validation(rows, validation_of(select_by))
    assert last is not None
    summary = {
        "last": _headline(last, target),
        "validation_selected": None if validated is None else _headline(validated, target),
        **_of_whole_run(rows, goal),
        "failures": sum(len(r["failures"]) for r in rows),
        "failing": sorted({f["client"] for r in rows for f in r["failures"]}),
        "untrained": last.get("untrained", []),
    }
    best = best_on_test(rows, target) if oracle else None
    if best is not None:
        summary["oracle"] = _headline(best, target)
    return summary


def _of_whole_run(rows: Sequence[Mapping[str, Any]], goal: float | None) -> dict[str, Any]:
    """Return the figures of a whole run; those that it was not asked for are left out."""
    values = {f: f.whole(rows, goal) for f in figures_at("summary") if f.whole}
    asked = OF_GOAL if goal is not None else ()
    return {f.name: v for f, v in values.items() if v is not None or not f.optional or f in asked}


# A fall of the training loss in a round, and a loss, as shares of ln C, that of guessing.
STEEP, FLAT, HARDLY_BEGUN, LEAST_ROUNDS = 0.02, 0.003, 0.8, 3


def run_notes(
    rows: Sequence[Mapping[str, Any]], known: Collection[str] = (), classes: int = 0
) -> list[str]:
    """Return the notes on a run's rounds for the reader of its figures, a line each.

    The clients that never trained, each with its last reason; the notes of the rounds, each
    once with its rounds, but for those that are known; and whether training was far from its end,
    where the number of classes is known.
    """
    reasons = {f["client"]: f["reason"] for row in rows for f in row["failures"]}
    never = rows[-1].get("untrained", [])
    lines = [
        f"client {client} never trained and is left out of all means and of negative transfer: "
        f"{reasons[client]}"
        for client in never[:MOST_NAMED]
    ]
    if len(never) > MOST_NAMED:
        lines.append(f"so are {len(never) - MOST_NAMED} other clients that never trained")
    rounds_by_note: dict[str, list[int]] = {}
    for row in rows:
        for note in (n for n in row.get("notes", ()) if n not in known):
            rounds_by_note.setdefault(note, []).append(row["round"])
    for note, at in rounds_by_note.items():
        when = f"round {at[0]}" if len(at) == 1 else f"{len(at)} rounds from {at[0]} on"
        lines.append(f"{when}: {note}")
    unfinished = _under_way(rows, classes)
    return [*lines, unfinished] if unfinished else lines


def _under_way(rows: Sequence[Mapping[str, Any]], classes: int) -> str:
    """Return a note on private training that was still under way at the end; empty if it was not.

    It was if its loss, mean over clients, fell steeply over the last fifth of the rounds: by more
    than `STEEP` of ln C a round, C classes; or fell at all by more than `FLAT` and is still close
    to ln C, that of guessing.
    """
    losses = [loss for row in rows if (loss := value_of(row, TRAINING_LOSS.name)) is not None]
    if classes < 2 or len(losses) < LEAST_ROUNDS:
        return ""
    last = max(1, len(losses) // 5)
    begin, end = losses[-1 - last], losses[-1]
    fall, guess = (begin - end) / last, math.log(classes)
    least = FLAT if end > HARDLY_BEGUN * guess else STEEP
    if fall <= least * guess:
        return ""
    return (
        f"private training was still under way at the end: its loss came to {end:.2f} (guessing: "
        f"{guess:.2f}) and fell by {fall:.3f} a round; with more rounds, more epochs or a higher "
        "learning rate methods may compare otherwise"
    )


def _headline(row: Mapping[str, Any], target: bool) -> dict[str, Any]:
    """Return the figures of one round that stand in ``summary.json``."""
    headline: dict[str, Any] = {"round": row["round"]}
    for figure in figures_at("summary"):
        if figure.whole:
            continue  # of the run, not of a round
        value = figure.derived(row) if figure.derived else value_of(row, figure.name)
        if figure.optional and value is None:
            continue
        headline[figure.name] = value if target or figure is not TARGET else None
    return headline


def plain(value: Any) -> Any:
    """Return tensors and mappings as JSON values."""
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
