"""The errors that fedkt raises on purpose.

Every message is one line that names the thing at fault and what is allowed, because
the command line prints it as it stands.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

# What the names of objects that are given in Python begin with: ``python@DIGEST:NAME``.
PYTHON = "python@"


def without_digest(text: str) -> str:
    """Return a text in which objects of Python go by their names alone."""
    return re.sub(rf"{PYTHON}[0-9a-f]{{12}}:", "", text)


class FedktError(Exception):
    """Base of all errors raised by fedkt."""

    def __str__(self) -> str:
        """Return the message, for people."""
        return without_digest(super().__str__())


class ConfigError(FedktError, ValueError):
    """The user asked for something that cannot be done (command line: exit 2)."""


class KnowledgeError(FedktError, ValueError):
    """Knowledge is malformed: wrong kind, shape, ids or values."""


class NotFiniteError(FedktError, ArithmeticError):
    """A value that is measured, kept or shared holds NaN or infinity."""


class NotFiniteKnowledgeError(KnowledgeError, NotFiniteError):
    """Knowledge holds NaN or infinity."""


class RunFailedError(FedktError, RuntimeError):
    """A run started well and could not go on (command line: exit 1)."""


class DiskError(RunFailedError):
    """The disk takes no more: it is full, a quota is used up, or it fails."""


def of_class(value: Any, cls: type[T], line: str) -> T:
    """Return a value that a user's code gave, if it is of a class.

    Raises
    ------
    ConfigError
        With the line, if it is not.
    """
    if not isinstance(value, cls):
        raise ConfigError(line)
    return value


def subclass_of(value: Any, cls: type[T], line: str) -> type[T]:
    """Return a class that a user's code gave, if it is a subclass; as :func:`of_class`."""
    if not issubclass(of_class(value, type, line), cls):
        raise ConfigError(line)
    given: type[T] = value
    return given


def unknown(what: str, given: str, allowed: Iterable[str]) -> ConfigError:
    """Return the error for a name that does not exist.

    Parameters
    ----------
    what : str
        The kind of thing that was named, in the singular (``"strategy"``).
    given : str
        The name as the user wrote it.
    allowed : Iterable[str]
        The names that exist.

    Returns
    -------
    ConfigError
        Its message holds the nearest existing name, if any, and all of them.
    """
    names = sorted(allowed)
    hint, listed = nearest(given, names), ", ".join(names) or "none"
    return ConfigError(f"Unknown {what} {given!r}.{hint} Known: {listed}.")


def nearest(given: str, names: Sequence[str]) -> str:
    """Return " Did you mean ...?" with the nearest of the names; empty if none is near."""
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""
