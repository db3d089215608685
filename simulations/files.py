"""Writing files whole or not at all, and one process a folder."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedkt.disk import writing
from fedkt.errors import ConfigError

LOCK = ".lock"


def write_atomic(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old one or the new one, never half.

    Raises
    ------
    ConfigError, DiskError
        If it cannot be written (:func:`fedkt.disk.writing`); ConfigError also for text that is
        not Unicode: names of files that Python could not decode.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path.parent):
        try:
            partial.write_text(text, encoding="utf-8", newline="")
            partial.replace(path)
        except UnicodeEncodeError as error:
            parts = text[: error.start], text[error.start :]
            begin, end = (re.split(r"[\s\"']", part) for part in parts)
            raise ConfigError(
                f"{path}: {begin[-1] + end[0]!a} is no name in UTF-8; rename that file or folder, "
                "or set PYTHONUTF8=1."
            ) from error
        finally:
            partial.unlink(missing_ok=True)


def absolute(reference: str) -> str:
    """Return a reference that means the same from every folder."""
    path, colon, attribute = reference.rpartition(":")
    return f"{Path(path).resolve()}:{attribute}" if colon and path.endswith(".py") else reference


def fresh_folder(out: Path | None, stem: str, resume: bool, marker: str) -> Path:
    """Return the folder to write to; an existing one only when resuming.

    Parameters
    ----------
    out : Path, optional
        As asked for; by default a new one under ``runs/``.
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
            raise ConfigError("--resume needs --out: which run is to go on?")
        return Path("runs") / f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    blocking = next((p for p in (out, *out.parents) if p.exists() and not p.is_dir()), None)
    if blocking is not None:
        raise ConfigError(f"--out {out}: {blocking} is a file, not a folder.")
    filled = out.is_dir() and any(path.name != LOCK for path in out.iterdir())
    if filled and not resume:
        raise ConfigError(f"{out} exists; add --resume to go on with it, or choose another --out.")
    if resume and not out.is_dir():
        raise ConfigError(f"{out} does not exist; there is nothing to resume.")
    if filled and not (out / marker).is_file():
        raise ConfigError(f"{out} holds no run that could go on: it has no {marker}.")
    return out


@contextmanager
def only_user(folder: Path) -> Iterator[None]:
    """Hold a folder while writing into it; the lock goes with the process, however it ends.

    A folder that did not exist before and holds nothing afterwards is removed again.

    Raises
    ------
    ConfigError
        If another process holds it: two runs in one folder would mix their rounds. If it cannot
        be written to.
    DiskError
        If the disk is full.
    """
    existed = folder.is_dir()
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with _locked(folder / LOCK):
            yield
    finally:
        if not existed and not any(folder.iterdir()):
            folder.rmdir()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # Windows has no such locks
        yield
        return
    while True:
        with writing(path.parent):
            file = path.open("w", encoding="utf-8")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                message = f"{path.parent} is being written by another process."
                raise ConfigError(message) from error
            # The holder before may have removed the file between our opening and locking it.
            if path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)
                return
