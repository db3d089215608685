"""Writing checkpoints: all that a run needs to go on as if it had never stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedkt import snapshot
from fedkt.simulations.results.checkpoints import path_of, saved_rounds

KEEP = 2  # the newest, and the one before in case the newest cannot be read


def save(folder: Path, round_: int, state: dict[str, Any]) -> None:
    """Write the checkpoint of a finished round; older ones than the last two are removed.

    Parameters
    ----------
    folder : Path
        The run's ``checkpoints`` folder.
    round_ : int
        The round.
    state : dict
        ``strategy``, ``clients`` and, if there are liars, ``attack``; see
        ``fedkt.snapshot`` for what it may hold.
    """
    snapshot.save(path_of(folder, round_), state)
    for old in saved_rounds(folder)[:-KEEP]:
        path_of(folder, old).unlink(missing_ok=True)


def discard_after(folder: Path, round_: int) -> None:
    """Remove the checkpoints of later rounds, which are run again."""
    for later in (r for r in saved_rounds(folder) if r > round_):
        path_of(folder, later).unlink()
