"""Writing checkpoints: all that a run needs to go on as if it had never stopped."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from fedkt import snapshot
from fedkt.simulations.results.checkpoints import CHECKPOINTS, newest, path_of, saved_rounds
from fedkt.simulations.results.rounds import SUMMARY, read_rounds

logger = logging.getLogger("fedkt")

KEEP = 2  # the newest, and the one before in case the newest cannot be read


def save(folder: Path, round_: int, state: dict[str, Any], durable: bool = False) -> None:
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
    durable : bool
        Whether to wait until the disk has it.
    """
    snapshot.save(path_of(folder, round_), state, durable)
    for old in saved_rounds(folder)[:-KEEP]:
        path_of(folder, old).unlink(missing_ok=True)


def _discard_after(folder: Path, round_: int) -> None:
    """Remove the checkpoints of later rounds, which are run again."""
    for later in (r for r in saved_rounds(folder) if r > round_):
        path_of(folder, later).unlink()


def last_checkpoint(folder: Path, every: int) -> tuple[int, dict[str, Any]] | None:
    """Return the checkpoint from which a run resumes; remove later checkpoints."""
    done = len(read_rounds(folder))
    saved = newest(folder / CHECKPOINTS, at_most=done)
    began = saved[0] if saved else 0
    if began < done - every:  # an interruption alone costs less
        logger.warning(
            f"{folder}: no checkpoint after round {began} can be read; "
            f"rounds {began + 1} to {done} are run again."
        )
    (folder / SUMMARY).unlink(missing_ok=True)
    _discard_after(folder / CHECKPOINTS, began)
    return saved
