"""The folder that a command writes to."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

from fedkt.disk import LOCK
from fedkt.errors import ConfigError


def fresh_folder(out: Path | None, stem: str, resume: bool, marker: str) -> Path:
    """Return the folder to write to; an existing one only when resuming.

    Parameters
    ----------
    out : Path, optional
        The folder asked for; by default a new one under ``runs/``.
    stem : str
        What the new one's name begins with.
    resume : bool
        Whether to go on with what is there.
    marker : str
        The file that tells a run of the right kind from any other folder.

    Raises
    ------
    ConfigError
        If the folder cannot be used so.
    """
    if out is None:
        if resume:
            raise ConfigError("To resume (--resume), name the folder of the run (--out).")
        first = Path("runs") / f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}"
        later = (first.with_name(f"{first.name}-{number}") for number in itertools.count(2))
        return next(path for path in itertools.chain([first], later) if not path.exists())
    blocking = next((p for p in (out, *out.parents) if p.exists() and not p.is_dir()), None)
    if blocking is not None:
        raise ConfigError(f"The folder of a run (--out) {out}: {blocking} is a file.")
    filled = out.is_dir() and any(path.name != LOCK for path in out.iterdir())
    if filled and not resume:
        raise ConfigError(
            f"{out} exists; resume it (--resume, in Python resume=True), or choose another folder."
        )
    if resume and not out.is_dir():
        raise ConfigError(f"{out} does not exist; there is nothing to resume.")
    if filled and not (out / marker).is_file():
        raise ConfigError(f"{out} holds no run to resume: it has no {marker}.")
    return out
