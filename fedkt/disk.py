"""What the operating system says when it takes nothing: one line that names the folder."""

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

# Refusals that stand however much room there is: the user has to name another place.
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
        What is written to inside: a full disk names nothing itself.

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


def refused(what: str, number: int) -> FedktError:
    """Return the error for what the system refused, and with which number (``errno``)."""
    line = f"{what}: {os.strerror(number)}."
    return ConfigError(line) if number in _REFUSALS else DiskError(line)


def _number(error: OSError | SafetensorError) -> int | None:
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))  # safetensors has it in words only
    return int(found[1]) if found else None
