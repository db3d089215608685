"""Text that comes from outside: other people's nodes, files and programs.

A reason, a name or an architecture that a client sends may be of any length and hold anything:
lines that look like a log's own, terminal commands, marks that turn the direction of writing. All
such text goes through :func:`foreign` where it comes in, before it reaches a log,
``rounds.jsonl``, a report or an error.
"""

from __future__ import annotations

import unicodedata

LONGEST = 500  # characters of foreign text that are kept
# Characters that are looked at for them: a client may send a hundred megabytes.
_LOOKED_AT = 20 * LONGEST
# Control and format characters (those that turn the direction of writing, invisible ones), halves
# of surrogate pairs, which no file takes, and characters for private use.
_UNWANTED = frozenset({"Cc", "Cf", "Cs", "Co"})


def foreign(text: object) -> str:
    """Return text from outside as one line of visible characters.

    Parameters
    ----------
    text : object
        A string, or a value that came instead (``None``, a number, a list), as ``str`` shows it.

    Returns
    -------
    str
        At most ``LONGEST`` characters, of which the last is an ellipsis where text was cut; white
        space of any kind and length as one space, no control characters. May be empty.
    """
    start = str(text)[:_LOOKED_AT]
    visible = (c if c.isspace() or unicodedata.category(c) not in _UNWANTED else "" for c in start)
    line = one_line("".join(visible))
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"


def raised(error: BaseException) -> str:
    """Return the type and the text of an error that somebody else's code has raised, in one line.

    Without a full stop, so that a sentence may go on.
    """
    return foreign(f"{type(error).__name__}: {error}").rstrip(" :.")


def last_line(text: str | None) -> str:
    """Return the last line of a traceback, or a text of one line itself, as :func:`foreign` does.

    Parameters
    ----------
    text : str, optional
        The reason of an error.

    Returns
    -------
    str
        Never empty.
    """
    end = (text or "").rstrip()[-_LOOKED_AT:]
    lines = (foreign(line) for line in reversed(end.splitlines()))
    return next((line for line in lines if line), "no reason given")


def reason_of(error: BaseException) -> str:
    """Return an exception's text on one line, without a full stop; its type if it has none."""
    return one_line(error).rstrip(".") or type(error).__name__


def one_line(text: object) -> str:
    """Return a text, or an exception's, on one line; white space of any kind as one space."""
    return " ".join(str(text).split())
