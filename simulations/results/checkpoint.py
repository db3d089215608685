"""Checkpoints: all that a run needs to go on as if it had never stopped."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from fedkt import snapshot
from fedkt.errors import ConfigError

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
    snapshot.save(folder / f"round-{round_:05d}.safetensors", state)
    for old in _rounds(folder)[:-KEEP]:
        _path(folder, old).unlink(missing_ok=True)


def newest(folder: Path, at_most: int) -> tuple[int, dict[str, Any]] | None:
    """Return the newest readable checkpoint (round, state) not after a round, if any."""
    for round_ in reversed([r for r in _rounds(folder) if r <= at_most]):
        try:
            return round_, snapshot.load(_path(folder, round_))
        except ConfigError:
            continue
    return None


def latest(folder: Path) -> int:
    """Return the round of the newest checkpoint, readable or not; 0 without any."""
    return max(_rounds(folder), default=0)


def discard_after(folder: Path, round_: int) -> None:
    """Remove the checkpoints of later rounds, which are run again."""
    for later in (r for r in _rounds(folder) if r > round_):
        _path(folder, later).unlink()


def _path(folder: Path, round_: int) -> Path:
    return folder / f"round-{round_:05d}.safetensors"


def _rounds(folder: Path) -> list[int]:
    names = (re.fullmatch(r"round-(\d+)\.safetensors", p.name) for p in folder.glob("round-*"))
    return sorted(int(m.group(1)) for m in names if m)
