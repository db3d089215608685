"""What a run does at the moment: a small file in its folder, for ``fedkt watch``."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedkt.simulations.results.rounds import parse_object
from fedkt.simulations.runs.recorder import write_json
from fedkt.strategies import RoundReport

LIVE = "live.json"
OVER = ("finished", "failed")
NEEDED = {"state", "round", "rounds", "since"}  # in every one


class Live:
    """The writer of ``live.json``.

    Parameters
    ----------
    folder : Path
        The run directory.
    rounds : int
        Rounds of the run.
    """

    def __init__(self, folder: Path, rounds: int) -> None:
        self._folder, self._rounds = folder, rounds
        self._last: dict[str, Any] = {"state": "waiting for clients", "round": 0}
        self._write()

    def phase(self, phase: str, report: RoundReport, names: Mapping[int, str]) -> None:
        """Note that a phase of a round has begun, with its clients."""
        asked = report.participants if phase == "train" else report.clients
        self._write(
            state=phase,
            round=report.round,
            asked=list(asked),
            names={str(c): n for c, n in names.items()},
        )

    def round_done(self, report: RoundReport) -> None:
        """Note that a round is over."""
        self._write(state="between rounds", round=report.round, asked=[])

    def finished(self) -> None:
        """Note that the run is complete."""
        self._write(state="finished", asked=[])

    def failed(self, reason: str) -> None:
        """Note that the run has ended early."""
        self._write(state="failed", reason=reason, asked=[])

    def _write(self, **values: Any) -> None:
        self._last |= {"rounds": self._rounds, "since": time.time(), **values}
        write_json(self._folder / LIVE, self._last)


def read_live(folder: Path) -> dict[str, Any] | None:
    """Return what a run's folder says of the moment; None if it does not."""
    try:
        value = parse_object((folder / LIVE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if value.keys() >= NEEDED else None
