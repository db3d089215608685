"""Recipes as JSON: what travels to the clients with every message."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from fedkt import registry
from fedkt.errors import ConfigError, unknown
from fedkt.steps import Beside, Weighted

# The format of recipes. It changes when fedkt writes what an earlier version reads wrongly.
FORMAT = 1
# The registered parts that a recipe holds: nothing else is looked up by what comes over the wire.
PARTS = frozenset({"steps", "shares", "objectives", "heads", "schedules", "transforms", "readouts"})
# What it holds beside them.
_PLAIN: Mapping[str, type[Any]] = {c.__name__: c for c in (Weighted, Beside)}


def plain(value: Any) -> Any:
    """Return steps, terms and sequences as JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        if isinstance(value, tuple(_PLAIN.values())):
            return {"@part": type(value).__name__, **fields}
        kind = getattr(value, "part", "objectives")
        return {f"@{kind}": _wire_name(kind, type(value)), **fields}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise ConfigError(
        f"A recipe holds numbers, strings and terms only, not {type(value).__name__}."
    )


def _wire_name(kind: str, part: type[Any]) -> str:
    """Return the name by which the other side finds a part, and no other part."""
    name = registry.registered_name(kind, part)
    try:
        rival = registry.lookup(kind, name, files=False)
    except ConfigError:
        rival = None
    in_file = "@" in name  # an equal file in another place has equal parts
    if rival is None or not (rival is part or in_file):
        clash = "" if rival is None else f"; {name!r} is {rival.__module__}.{rival.__name__}"
        raise ConfigError(
            f"{part.__module__}.{part.__name__} is not registered{clash}. Write @register (of "
            "fedkt.registry) above it."
        )
    return name


def build(value: Any) -> Any:
    """Return the steps, terms and tuples that JSON values of :func:`plain` stand for."""
    if isinstance(value, list):
        return tuple(build(v) for v in value)
    if not isinstance(value, dict):
        return value
    fields = {k: build(v) for k, v in value.items() if not k.startswith("@")}
    if "@part" in value:
        name = value["@part"]
        if name not in _PLAIN:
            raise unknown("part of a recipe", str(name), _PLAIN)
        return _made(_PLAIN[name], name, fields)
    (key,) = (key for key in value if key.startswith("@"))
    kind = key.removeprefix("@")
    if kind not in PARTS:
        raise unknown("kind of part in a recipe", kind, PARTS)
    return _made(registry.lookup(kind, value[key], files=False), value[key], fields)


def differing(sent: Any, read: Any, path: str = "") -> Iterator[str]:
    """Yield the paths at which two recipes differ as JSON values, such as ``learn[0].epochs``."""
    if isinstance(sent, dict) and isinstance(read, dict):
        for key in {**sent, **read}:
            place = f"{path}.{key}" if path else str(key)
            if key in sent and key in read:
                yield from differing(sent[key], read[key], place)
            else:
                yield place
    elif isinstance(sent, list) and isinstance(read, list) and len(sent) == len(read):
        for number, pair in enumerate(zip(sent, read, strict=True)):
            yield from differing(*pair, f"{path}[{number}]")
    elif sent != read:
        yield path


def _made(part: Any, name: str, fields: Mapping[str, Any]) -> Any:
    """Return a part with its options.

    Raises
    ------
    ConfigError
        If it has other options here than where the recipe comes from.
    """
    try:
        inspect.signature(part).bind(**fields)
    except TypeError as error:
        raise ConfigError(
            f"{name} has other options here than in the recipe ({error}): the two sides have other "
            "versions of fedkt, or of a user's file."
        ) from error
    return part(**fields)
