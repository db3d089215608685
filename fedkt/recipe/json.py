"""Recipes as JSON: what travels to the clients with every message."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, cast

from fedkt import registry
from fedkt.errors import ConfigError
from fedkt.objectives.heads import Head
from fedkt.recipe.steps import Beside, Load, Train, Weighted

_STEPS: Mapping[str, Callable[..., Any]] = {c.step: c for c in (Train, Load)}
# What a recipe holds beside steps and registered parts.
_PLAIN: Mapping[str, type[Any]] = {c.__name__: c for c in (Weighted, Beside, Head)}


def plain(value: Any) -> Any:
    """Turn steps, terms and sequences into JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        if isinstance(value, tuple(_PLAIN.values())):
            return {"@part": type(value).__name__, **fields}
        step = vars(type(value)).get("step")
        if step in _STEPS:
            return {"@step": step, **fields}
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
    """Return the name by which the other side finds a part; nothing else may go by it."""
    name = registry.registered_name(kind, part)
    try:
        there = registry.lookup(kind, name, files=False)
    except ConfigError:
        there = None
    in_file = "@" in name  # an equal file in another place has equal parts
    if there is None or not (there is part or in_file):
        taken = "" if there is None else f"; {name!r} is {there.__module__}.{there.__name__}"
        raise ConfigError(
            f"{part.__module__}.{part.__name__} is not registered{taken}. Write @register (of "
            "fedkt.registry) above it."
        )
    return name


def build(value: Any) -> Any:
    """Undo :func:`plain`."""
    if isinstance(value, list):
        return tuple(build(v) for v in value)
    if not isinstance(value, dict):
        return value
    fields = {k: build(v) for k, v in value.items() if not k.startswith("@")}
    if "@step" in value:
        return _STEPS[value["@step"]](**fields)
    if "@part" in value:
        return _PLAIN[value["@part"]](**fields)
    (key,) = (key for key in value if key.startswith("@"))
    made = registry.lookup(key.removeprefix("@"), value[key], files=False)
    return cast("Callable[..., Any]", made)(**fields)
