"""References in text: assignments, strategies, attacks and files as a user writes them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedkt.calls import read_call, read_option, split
from fedkt.data.columns import ALL, base_of
from fedkt.data.sources import data_path, npz_file
from fedkt.errors import ConfigError

# The path in FILE.py:Class, by itself, in an option or in a chain.
FILE = re.compile(r"[^=(),+\"'\s][^=(),+\"']*\.py(?=:)")


def read_assignment(text: str) -> tuple[str, Any]:
    """Return key and value of ``--set key.path=value``; see ``fedkt.calls.read_value``."""
    try:
        return read_option(text)
    except ConfigError as error:
        raise ConfigError(f"--set {text!r}: write key.path=value.") from error


def read_strategy(reference: str) -> dict[str, Any]:
    """Return the strategy section of ``knfu`` or ``knfu(beta=2, temperature=3)``."""
    name, options = read_call(reference)
    return {"name": name, **options}


def read_entry(text: str) -> tuple[str | None, str]:
    """Return label and reference of ``LABEL = REFERENCE`` or ``REFERENCE``.

    The label ends at the first equals sign, if that comes before any parenthesis: in
    ``knfu(beta=2)`` there is none. A path is no label.

    Raises
    ------
    ConfigError
        If the label or the reference is empty.
    """
    label, equals, reference = text.partition("=")
    if not equals or "(" in label or "/" in label:
        return None, text.strip()
    if not label.strip() or not reference.strip():
        raise ConfigError(f"strategy {text!r}: write LABEL = NAME or LABEL = NAME(key=value).")
    if ")" in label:
        raise ConfigError(f"strategy {text!r}: a label has no parentheses.")
    return label.strip(), reference.strip()


def read_attack(reference: str) -> dict[str, Any] | None:
    """Return the attack section of ``wrong:3`` (kind:number of clients); None for ``none``.

    Raises
    ------
    ConfigError
        If there is no number of clients.
    """
    kind, colon, count = reference.strip().rpartition(":")
    if reference.strip() == "none":
        return None
    if not colon or not count.isdecimal():
        raise ConfigError(f"attack {reference!r}: write kind:how many clients, e.g. wrong:3.")
    return {"kind": kind, "clients": int(count)}


def split_references(text: str) -> list[str]:
    """Return the parts of ``a,b(x=1,y=2),c``, split at the commas outside parentheses."""
    return split(text, ",")


def absolute_data(reference: str, data_dir: str | None = None) -> str:
    """Return the reference of a data set as one that means the same from every folder."""
    base, _ = base_of(reference.removesuffix(ALL), data_dir)
    path = None if npz_file(base, data_dir) else data_path(base, data_dir)
    return absolute(reference) if path is None else f"{path.resolve()}{reference[len(base) :]}"


def absolute_target(target: str, domains: Sequence[str], data_dir: str | None = None) -> str:
    """Return the name of a target as one that means the same from every folder.

    It is a reference of one of the domains, which are absolute, or the last part of one.
    """
    whole = absolute_data(target, data_dir)
    stars = tuple(domain.removesuffix("*") for domain in domains if domain.endswith(ALL))
    return whole if whole in domains or whole.startswith(stars) else absolute(target)


def absolute(reference: str) -> str:
    """Return a reference that means the same from every folder, also in its options."""
    return FILE.sub(lambda path: str(Path(path[0]).resolve()), reference)
