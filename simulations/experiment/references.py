"""References in text: assignments, strategies, attacks and files as a user writes them."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path
from typing import Any

from fedkt.errors import ConfigError


def read_assignment(text: str) -> tuple[str, Any]:
    """Return key and value of ``key.path=value``; the value is TOML if possible, else text."""
    path, equals, raw = text.partition("=")
    if not equals or not path.strip():
        raise ConfigError(f"--set {text!r}: write key.path=value.")
    return path.strip(), read_value(raw.strip())


def read_value(raw: str) -> Any:
    """Return a value in TOML, or a number or truth value in Python; all else is text as it is."""
    try:
        return tomllib.loads(f"v = {raw}")["v"]
    except tomllib.TOMLDecodeError:
        pass
    try:
        value = ast.literal_eval(raw)
    except (ValueError, SyntaxError):
        return raw
    return value if isinstance(value, bool | int | float) else raw


def read_strategy(reference: str) -> dict[str, Any]:
    """Return the strategy section of ``knfu`` or ``knfu(beta=2, temperature=3)``."""
    name, opening, rest = reference.strip().partition("(")
    section: dict[str, Any] = {"name": name.strip()}
    if opening:
        if not rest.endswith(")"):
            raise ConfigError(f"{reference!r}: write name(key=value, ...).")
        for part in filter(None, (p.strip() for p in rest[:-1].split(","))):
            key, value = read_assignment(part)
            section[key] = value
    return section


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
    parts, depth = [""], 0
    for character in text:
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [p.strip() for p in parts if p.strip()]


def absolute(reference: str) -> str:
    """Return a reference that means the same from every folder."""
    path, colon, attribute = reference.rpartition(":")
    return f"{Path(path).resolve()}:{attribute}" if colon and path.endswith(".py") else reference
