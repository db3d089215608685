"""The checkpoints of a run folder: which there are, and the newest that can be read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from fedkt import snapshot
from fedkt.errors import ConfigError

CHECKPOINTS = "checkpoints"


def newest(folder: Path, at_most: int) -> tuple[int, dict[str, Any]] | None:
    """Return the newest readable checkpoint (round, state) not after a round, if any."""
    for round_ in reversed([r for r in saved_rounds(folder) if r <= at_most]):
        try:
            return round_, snapshot.load(path_of(folder, round_))
        except ConfigError:
            continue
    return None


def latest(folder: Path) -> int:
    """Return the round of the newest checkpoint, readable or not; 0 without any."""
    return max(saved_rounds(folder), default=0)


def path_of(folder: Path, round_: int) -> Path:
    """Return the file of a round."""
    return folder / f"round-{round_:05d}.safetensors"


def saved_rounds(folder: Path) -> list[int]:
    """Return the rounds that have a checkpoint, ascending."""
    names = (re.fullmatch(r"round-(\d+)\.safetensors", p.name) for p in folder.glob("round-*"))
    return sorted(int(m.group(1)) for m in names if m)
