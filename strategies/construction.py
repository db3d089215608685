"""Strategies from a name and hyper-parameters, as in ``[strategy]`` of an experiment."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from fedkt import registry
from fedkt.errors import ConfigError, FedktError, subclass_of
from fedkt.options import given_options, plain_defaults
from fedkt.strategies.server.strategy import KnowledgeStrategy
from fedkt.text import raised


def strategy_class(name: str) -> type[KnowledgeStrategy]:
    """Return the class of a strategy by its name or ``path/to/file.py:Class``.

    Raises
    ------
    ConfigError
        If there is no such strategy, or the part of that name is no complete strategy.
    """
    cls = registry.lookup("strategies", name)
    line = f"{name} is not a KnowledgeStrategy (a class with recipe and fuse)."
    cls = subclass_of(cls, KnowledgeStrategy, line)
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(cls.__abstractmethods__))
        raise ConfigError(f"{name} is not complete: it does not define {missing}.")
    return cls


def make_strategy(section: Mapping[str, Any]) -> KnowledgeStrategy:
    """Return a new strategy object.

    Parameters
    ----------
    section : Mapping[str, Any]
        The strategy's ``name`` and its hyper-parameters, which are checked against the types in
        its ``__init__``.

    Raises
    ------
    ConfigError
        For an unknown strategy or hyper-parameter, or a value that is not allowed.
    """
    name = str(section.get("name", ""))
    cls = strategy_class(name)
    values = {key: value for key, value in section.items() if key != "name"}
    options = given_options("strategy", name, values, cls)
    try:
        return cls(**options)
    except FedktError:
        raise
    except Exception as error:  # a user's code may raise anything
        raise ConfigError(f"strategy {name} cannot be made: {raised(error)}.") from error


def resolved_strategy(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return a ``[strategy]`` section with the defaults of all hyper-parameters filled in."""
    defaults = plain_defaults(strategy_class(str(section["name"])))
    return {"name": section["name"], **defaults, **section}
