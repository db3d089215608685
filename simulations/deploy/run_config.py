"""The run configuration of a Flower app: its keys are the declared options, in Flower's flat form.

An option ``learning_rate`` of ``TrainingOptions`` is the key ``training.learning-rate``. Flower's
values are text, numbers and booleans: no value is ``""``, and several are joined by commas.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from fedkt.errors import ConfigError, unknown

Scalar = str | int | float | bool
Flat = Mapping[str, Scalar]

# The keys that belong to no table, with their defaults.
PLAIN: Flat = {
    "strategy": "knfu",
    "num-server-rounds": 3,
    "seed": 0,
    "run-dir": "",  # a new folder below runs/, where the server app runs
    "resume": False,
    "clients-file": "",  # clients.toml: whose id is whose
}

# Options of the server with a key of their own, or none.
OF_RUN = ("run", "seed", "most_clients")


def plain(config: Flat, key: str) -> Any:
    """Return the value of a key that belongs to no table."""
    return config.get(key, PLAIN[key])


def number(config: Flat, key: str, least: int) -> int:
    """Return a whole number; ConfigError if it is another value."""
    value = plain(config, key)
    if type(value) is not int or value < least:
        raise ConfigError(f"{key} is {value!r}; it must be a whole number from {least}.")
    return value


def check_keys(config: Flat, tables: Mapping[str, type]) -> None:
    """Refuse misspelt keys, in a configuration whose other keys are the user's own.

    Raises
    ------
    ConfigError
        For an unknown key of a table, or one that is close to a known key.
    """
    for key in config:
        table, _, name = key.rpartition(".")
        known = names_of(tables[table]) if table in tables else None
        if known is not None and name not in known:
            raise unknown(f"key of [tool.flwr.app.config.{table}]", name, known)
        if known is None and key not in PLAIN:
            _check_far(key, PLAIN if not table else tables, table or key)


def _check_far(key: str, names: Iterable[str], word: str) -> None:
    """Refuse a key that is almost one of ours: it would do nothing."""
    near = difflib.get_close_matches(word.replace("_", "-"), list(names), n=1, cutoff=0.8)
    if near:
        raise ConfigError(f"Unknown key {key!r} of the run's configuration. Is it {near[0]!r}?")


def names_of(options: type) -> dict[str, str]:
    """Return the options of a dataclass that a configuration can hold, by key."""
    hints = get_type_hints(options, include_extras=False)
    return {
        field.name.replace("_", "-"): field.name
        for field in fields(options)
        if _is_plain(hints[field.name]) and field.name not in OF_RUN
    }


def options_in(config: Flat, table: str, options: type) -> dict[str, Any]:
    """Return the options of a table of a configuration, as a dataclass takes them.

    Parameters
    ----------
    config : Mapping
        The run's configuration.
    table : str
        The table, ``training``.
    options : type
        The dataclass that declares them.

    Raises
    ------
    ConfigError
        For an unknown key.
    """
    check_keys(config, {table: options})
    hints = get_type_hints(options, include_extras=False)
    values: dict[str, Any] = {}
    for key, name in names_of(options).items():
        given = config.get(f"{table}.{key}")
        if given is None:
            continue
        several = get_origin(hints[name]) is tuple
        if several:
            values[name] = tuple(part for part in str(given).split(",") if part.strip())
        elif given != "" or str in (hints[name], *get_args(hints[name])):
            values[name] = _typed(given, hints[name])
    return values


def defaults_of(options: type) -> dict[str, Scalar]:
    """Return the defaults of a dataclass's options by key, in Flower's flat form."""
    made = options()
    return {key: flat(getattr(made, name)) for key, name in names_of(options).items()}


def flat(value: Any) -> Scalar:
    """Return the value of an option in Flower's form."""
    if value is None:
        return ""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    scalar: Scalar = value
    return scalar


def _typed(given: Scalar, hint: Any) -> Scalar:
    """Return a number where text of digits stands for one (``quorum = "2"``)."""
    if isinstance(given, str) and given.isdecimal() and (int in (hint, *_all_args(hint))):
        return int(given)
    wants_float = float in (hint, *_all_args(hint)) and int not in (hint, *_all_args(hint))
    return float(given) if wants_float and type(given) is int else given


def _all_args(hint: Any) -> list[Any]:
    args = list(get_args(hint))
    return args + [inner for arg in args for inner in _all_args(arg)]


def _is_plain(hint: Any) -> bool:
    """Return whether a configuration can hold values of a type."""
    if get_origin(hint) is Literal:
        return True
    if get_origin(hint) is tuple:
        return get_args(hint)[0] is str
    if args := [arg for arg in get_args(hint) if arg is not type(None)]:
        return get_origin(hint) in (Union, UnionType) and all(map(_is_plain, args))
    return hint in (str, int, float, bool)
