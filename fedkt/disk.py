"""Writing to a disk: files whole or not at all, one process a folder, refusals in one line."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from fedkt.errors import ConfigError, DiskError, FedktError
from fedkt.text import foreign

LOCK = ".lock"  # in a folder that a process writes to
# Refusals that more room does not lift: the user has to name another place.
_REFUSALS = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.EINVAL,
}


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn the system's refusal to write into an error of one line that names the folder.

    Parameters
    ----------
    folder : Path
        The folder of the files: the error of a full disk names none.

    Raises
    ------
    ConfigError
        If the folder cannot be written to: permission, a read-only disk, no folder.
    DiskError
        If the disk is full, a quota is used up, or the disk fails.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = _number(error)
        if number is None:  # numpy counts what has not been written instead
            raise DiskError(f"Cannot write to {folder}: {foreign(error)}.") from error
        raise refused(f"Cannot write to {folder}", number) from error


def write_atomic(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old one or the new one, never half.

    Raises
    ------
    ConfigError, DiskError
        If it cannot be written (:func:`writing`); ConfigError also for text that is
        not Unicode: names of files that Python could not decode.
    """
    with replacing(path) as partial:
        try:
            partial.write_text(text, encoding="utf-8", newline="")
        except UnicodeEncodeError as error:
            parts = text[: error.start], text[error.start :]
            begin, end = (re.split(r"[\s\"']", part) for part in parts)
            raise ConfigError(
                f"{path}: {begin[-1] + end[0]!a} is no name in UTF-8; rename that file or folder, "
                "or set PYTHONUTF8=1."
            ) from error


def sync(path: Path) -> None:
    """Wait until the disk has a file, or the names in a folder."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the place of a new file that replaces ``path`` at the end, if the block succeeds.

    Raises
    ------
    ConfigError, DiskError
        If it cannot be written (:func:`writing`).
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path.parent):
        try:
            yield partial
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def only_user(folder: Path) -> Iterator[None]:
    """Hold a folder while writing into it; the lock ends with the process, however that ends.

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


def is_held(folder: Path) -> bool:
    """Return whether a process writes into a folder under :func:`only_user` at the moment."""
    try:
        import fcntl

        with (folder / LOCK).open(encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (ImportError, OSError):  # Windows has no such locks; or nobody has ever locked it
        return False
    return False


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


def refused(what: str, number: int) -> FedktError:
    """Return the error for something that the system refused with a number (``errno``)."""
    line = f"{what}: {os.strerror(number)}."
    return ConfigError(line) if number in _REFUSALS else DiskError(line)


def _number(error: OSError | SafetensorError) -> int | None:
    if isinstance(error, OSError):
        return error.errno
    match = re.search(r"\(os error (\d+)\)", str(error))  # safetensors has it in words only
    return int(match[1]) if match else None
